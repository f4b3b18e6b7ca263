"""The audit below a table: how far it can be believed, said whenever that is not all the way."""

from __future__ import annotations

import pytest

from memtap.bpf.plan import Accuracy
from memtap.bpf.session import Losses
from memtap.cli.render import Blocks, Look, Rolling, audit_line, is_flawless
from memtap.tracers.model.report import Report
from tests.cli.making import stat_report
from tests.tracers.builders import add, make_chunk, make_interval, make_origin, read

NONE = Losses()
EXACT = "audit: exact, 4 events, 0 lost, 0 missed, 0 refused"


def flawed(losses: Losses = NONE, accuracy: Accuracy = "exact", **interval: object) -> Report:
    made = make_interval(losses=losses, **interval)
    chunk = make_chunk(add(0, 2), add(2, 2), read(0, 4), read(0, 1), interval=made)
    return stat_report(chunk, origin=make_origin(accuracy=accuracy))


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (flawed(Losses(lost=1)), "audit: estimated, 4 events, 1 lost, 0 missed, 0 refused"),
        (flawed(Losses(missed=2)), "audit: estimated, 4 events, 0 lost, 2 missed, 0 refused"),
        (flawed(Losses(map_full=3)), "audit: estimated, 4 events, 0 lost, 0 missed, 3 refused"),
        (flawed(accuracy="bounded"), EXACT.replace("exact", "bounded")),
        (flawed(accuracy="estimated"), EXACT.replace("exact", "estimated")),
    ],
)
@pytest.mark.parametrize("renderer", [Blocks, Rolling])
@pytest.mark.parametrize("verbose", [False, True])
def test_what_is_not_exact_is_said_below_the_rows(
    renderer: type[Blocks | Rolling], verbose: bool, report: Report, line: str
) -> None:
    assert renderer(Look(verbose=verbose)).render(report).splitlines()[2:] == [line]


@pytest.mark.parametrize("renderer", [Blocks, Rolling])
@pytest.mark.parametrize(("verbose", "lines"), [(False, []), (True, [EXACT])])
def test_what_is_exact_is_said_only_if_asked_for(
    renderer: type[Blocks | Rolling], verbose: bool, lines: list[str]
) -> None:
    assert renderer(Look(verbose=verbose)).render(flawed()).splitlines()[2:] == lines


@pytest.mark.parametrize("flaw", ["lost", "missed", "map_full"])
def test_a_loss_is_a_flaw_whatever_the_accuracy(flaw: str) -> None:
    flawless = {"accuracy": "exact", "lost": 0, "missed": 0, "map_full": 0}
    assert is_flawless(flawless)
    assert not is_flawless(flawless | {flaw: 1})


def test_one_event_is_no_events() -> None:
    audit = flawed().audit
    assert audit_line(audit) == EXACT
    assert audit_line(audit | {"events": 1}) == EXACT.replace("4 events", "1 event")


@pytest.mark.parametrize(("notes", "end"), [(("a",), ", 1 note"), (("a", "b"), ", 2 notes")])
def test_the_audit_counts_its_notes(notes: tuple[str, ...], end: str) -> None:
    assert Blocks(Look(verbose=True)).render(flawed(notes=notes)).splitlines()[2] == EXACT + end
