"""How far a report can be believed."""

from __future__ import annotations

import pytest

from memtap.bpf.plan import Accuracy
from memtap.bpf.session import Losses
from memtap.tracers.model.audit import accuracy, audit
from tests.tracers.builders import make_interval, make_origin

NONE = Losses()


@pytest.mark.parametrize(
    ("promised", "losses", "unseen", "found"),
    [
        ("exact", NONE, 0, "exact"),
        ("exact", NONE, 1, "bounded"),
        ("bounded", NONE, 0, "bounded"),
        ("bounded", NONE, 1, "bounded"),
        ("estimated", NONE, 0, "estimated"),
        ("estimated", NONE, 1, "estimated"),
        ("exact", Losses(spilled=1), 0, "bounded"),
        ("estimated", Losses(spilled=1), 0, "estimated"),
        ("exact", Losses(lost=1), 0, "estimated"),
        ("exact", Losses(missed=1), 0, "estimated"),
        ("exact", Losses(map_full=1), 0, "estimated"),
        ("exact", Losses(records=1), 0, "estimated"),
        ("bounded", Losses(lost=1), 5, "estimated"),
    ],
)
def test_a_promise_is_kept_or_taken_back(
    promised: Accuracy, losses: Losses, unseen: int, found: Accuracy
) -> None:
    assert accuracy(promised, losses, unseen) == found


def test_what_was_lost_is_said_in_numbers_and_words() -> None:
    losses = Losses(lost=3, missed=2, map_full=1, records=5, spilled=4)
    found = audit(make_origin(), make_interval(losses=losses), 10, notes=["a"], own=7)
    assert (found["events"], found["lost"], found["missed"], found["map_full"]) == (10, 3, 2, 1)
    assert found["self"]["events"] == 7
    assert found["notes"][0] == "a"
    assert any(note.startswith("5 records of mappings") for note in found["notes"])
    assert any(note.startswith("4 were only added up") for note in found["notes"])
