"""Programs with standbys load. Tests of reads, malloc and slab tell what they are worth."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from memtap.bpf.cache import Cache
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.plan import Plan, Variant
from memtap.bpf.session import Session
from memtap.tracers.malloc import probes as mallocplan
from memtap.tracers.pagecache import probes as pagecache
from memtap.tracers.pages import probes as pagesplan
from memtap.tracers.reclaim import probes as reclaimplan
from memtap.tracers.slab import probes as slabplan
from tests.live.ahead import Found, ahead
from tests.live.tracing import Preempting

REQUESTS = {
    "malloc": (mallocplan.PLAN, (mallocplan.FRAMES,)),
    "pagecache": (pagecache.PLAN, (pagecache.NAME_FILES,)),
    "pages": (pagesplan.PLAN, ()),
    "reclaim": (reclaimplan.PLAN, ()),
    "slab": (slabplan.PLAN, (slabplan.objects(),)),
}


def load(plan: Plan, settings: tuple[str, ...]) -> tuple[Variant, set[str]]:
    """The variant that was loaded, and its programs."""
    loaded = Attempts(Request(plan, settings=settings), Preempting(), Cache()).wait()
    try:
        return loaded.variant, set(loaded.programs)
    finally:
        loaded.close()


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> Iterator[Found]:
    yield from ahead(request, load, "loaded")


@pytest.mark.parametrize(("plan", "settings"), REQUESTS.values(), ids=REQUESTS)
def test_the_best_variant_can_be_loaded_with_standbys(
    plan: Plan, settings: tuple[str, ...], loaded: Found, request: pytest.FixtureRequest
) -> None:
    kernel = Preempting()
    best = next(plan.possible(kernel))
    variant, programs = loaded[request.node.nodeid].result()
    assert variant == best
    wanted = [probe for probe in best.probes if probe.wanted(kernel)]
    served = [probe.function for probe in wanted if probe.standby != "never"]
    assert served
    assert {f"{each}_{standby}" for each in served for standby in (1, 2)} <= programs


def test_a_standby_is_detached_before_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would take for missed what its program is not there to see any more."""
    plan, settings = REQUESTS["pages"]
    kernel = Preempting()
    loaded = Attempts(Request(plan, settings=settings), kernel, Cache()).wait()
    order: list[str] = []
    with Session(loaded, kernel) as session:
        rest = session.rest
        monkeypatch.setattr(session, "rest", lambda name: (order.append(name), rest(name)))
        session.detach()
    served = [name for name in order if f"{name}_1" in order]
    assert served
    for name in served:
        assert order.index(f"{name}_2") < order.index(f"{name}_1") < order.index(name)
