"""A better variant that does not load is told of, with the last word of who refused it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memtap.bpf.cache import Cache
from memtap.bpf.errors import LoadError
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Loaded, Request
from memtap.bpf.plan import Variant
from memtap.tracers.doctor import REPORTS, diagnose
from memtap.tracers.live.live import Live
from memtap.tracers.live.processes import Processes
from memtap.tracers.pages import probes as pagesplan
from memtap.tracers.pages.enrich import PagesEnricher
from memtap.tracers.pages.report import Pages

KERNEL = Kernel()
PLAN = pagesplan.PLAN
BEST = next(PLAN.possible(KERNEL))


def breaking(name: str, instead: str) -> Variant:
    """The best variant, but that it finds the task that runs in some other manner."""
    broken = (f"bpf_get_current_task{kind}() {instead} +" for kind in ("", "_btf"))
    return replace(BEST, name=name, defines=(*BEST.defines, *broken))


FORBIDDEN = breaking("forbidden", "*(volatile u64 *)8")  # the verifier lets nobody read there
NO_C = breaking("no-c", "no_such_name")
# What is said of each, as a kernel of any age and a compiler say it.
LAST_WORD = {FORBIDDEN: "invalid mem access", NO_C: "error: use of undeclared identifier"}


def with_variants(*variants: Variant) -> Request:
    return Request(replace(PLAN, variants=variants))


def load(*variants: Variant) -> Loaded:
    return Attempts(with_variants(*variants), KERNEL, Cache()).wait()


@pytest.mark.parametrize("refused", LAST_WORD, ids=lambda variant: variant.name)
def test_the_notes_of_a_report_say_once_which_variant_was_refused(refused: Variant) -> None:
    processes = Processes(KERNEL.btf, KERNEL.possible_cpus)
    live = Live(load(refused, BEST), KERNEL, processes, PagesEnricher)
    try:
        reporter = Pages(live.origin)
        reports = [reporter.feed(live.collect(ends=True)) for _ in range(2)]
    finally:
        live.close()
        processes.close()
    for report in reports:
        assert report
        (note,) = [note for note in report.audit["notes"] if "refused" in note]
        assert note.startswith(f"the variant {refused.name!r}, which is exact, was refused: ")
        assert LAST_WORD[refused] in note
        assert "\n" not in note


def test_a_variant_that_loads_at_once_says_nothing() -> None:
    loaded = load(BEST, FORBIDDEN)
    loaded.close()
    assert loaded.refused == ()
    assert loaded.notes == BEST.notes


def test_what_cannot_be_loaded_at_all_says_why() -> None:
    with pytest.raises(LoadError, match=LAST_WORD[FORBIDDEN]):
        load(FORBIDDEN, NO_C)


def test_doctor_says_which_variant_was_refused_and_what_the_kernel_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(REPORTS, "pages", with_variants(FORBIDDEN, BEST))
    rows = {row["report"]: row for row in diagnose(KERNEL).rows}
    row = rows.pop("pages")
    assert row["way"] == BEST.name
    (refused,) = row["missing"]
    assert refused.startswith("the variant 'forbidden', which is exact, was refused: loading ")
    assert LAST_WORD[FORBIDDEN] in refused
    assert "report" in row["todo"]
    assert not [what for other in rows.values() for what in other["missing"] if "refused" in what]
