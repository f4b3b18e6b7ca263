"""What the verifier looks at before a report starts: counted, as its time is the machine's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memtap.bpf.cache import Cache
from memtap.bpf.filters import Filter
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.tracers.doctor import LOOKS, REPORTS
from memtap.tracers.faults import probes as faultplan
from memtap.tracers.files import probes as filesplan
from memtap.tracers.malloc import probes as mallocplan
from memtap.tracers.pages import probes as pagesplan
from memtap.tracers.slab import probes as slabplan
from tests.live.ahead import Found, ahead
from tests.live.tracing import Preempting

# Instructions of one program, and of all of a report. Where loops cannot be long, each round is
# looked at.
HAS_LONG_LOOPS = bool(Kernel().btf.member("bpf_verifier_state", "may_goto_depth"))
MOST, MOST_IN_ALL = (12_000, 50_000) if HAS_LONG_LOOPS else (16_000, 90_000)

SETTINGS = {
    "faults --stacks": ("faults", faultplan.STACKS),
    "malloc -b site": ("malloc", mallocplan.FRAMES),
    "pages -b process": ("pages", pagesplan.BY_PROCESS),
    "slab -b site": ("slab", slabplan.BY_SITE),
    "slab -b process": ("slab", slabplan.BY_PROCESS),
    "slab --leaks": ("slab", slabplan.LEAKS),
    "slab --leaks --stacks": ("slab", slabplan.LEAKS, slabplan.STACKS),
}
WITH_SETTINGS = {
    name: replace(REPORTS[report], settings=(*REPORTS[report].settings, *settings))
    for name, (report, *settings) in SETTINGS.items()
}
OF_ONE = {f"{name} -p": replace(r, filter=Filter(by_tgid=True)) for name, r in REPORTS.items()}
FOLIOS = {"files --age": replace(LOOKS["files"], settings=(filesplan.FOLIOS,))}
ALL = REPORTS | WITH_SETTINGS | OF_ONE | LOOKS | FOLIOS


# Of a kernel that does not tell (aba64c7da983).
UNTOLD = 0


def verified(request_: Request, kernel: Kernel) -> dict[str, int]:
    """Instructions that the verifier went through, of each program of the best way."""
    loaded = Attempts(request_, kernel, Cache()).wait()
    try:
        assert not loaded.refused, loaded.notes
        infos = {
            name: Path(f"/proc/self/fdinfo/{fd}").read_text()
            for name, fd in loaded.programs.items()
        }
    finally:
        loaded.close()
    found = {name: re.search(r"^verified_insns:\s*(\d+)$", i, re.M) for name, i in infos.items()}
    return {name: int(match[1]) if match else UNTOLD for name, match in found.items()}


@pytest.fixture(scope="module")
def counted(request: pytest.FixtureRequest) -> Iterator[Found]:
    yield from ahead(request, verified, "counted")


@pytest.mark.parametrize("kernel", [Kernel(), Preempting()], ids=["alone", "standbys"])
@pytest.mark.parametrize("request_", ALL.values(), ids=ALL)
def test_the_verifier_lets_the_best_way_through_and_soon(
    request_: Request, kernel: Kernel, counted: Found, request: pytest.FixtureRequest
) -> None:
    counts = counted[request.node.nodeid].result()
    assert max(counts.values()) <= MOST, counts
    own = [count for name, count in counts.items() if not name.endswith(("_1", "_2"))]
    assert sum(own) <= MOST_IN_ALL, counts


def test_what_no_table_shows_is_not_noted() -> None:
    noting = {"on_birth", "on_move", "on_end", "on_program", "on_inherit"}
    request = REPORTS["oom"]
    assert noting <= set(verified(request, Kernel()))
    assert not noting & set(verified(replace(request, notes_processes=False), Kernel()))
