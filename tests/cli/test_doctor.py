"""What doctor found, as a table."""

from __future__ import annotations

from memtap.cli.doctor import _table
from memtap.cli.render import Look
from memtap.tracers.doctor import Diagnosis, Fact


def row(report: str, way: str | None) -> dict[str, object]:
    empty: dict[str, object] = {"missing": [], "todo": None, "notes": []}
    return {"report": report, "accuracy": "exact", "way": way, "probes": ["a"] * 6} | empty


def test_columns_stand_below_their_headings_however_long_a_way_is_called() -> None:
    rows = [row("cachestat", "filemap"), row("slab", "a-way-with-a-long-name"), row("oom", None)]
    heading, *lines = list(
        _table(Diagnosis("", rows, [Fact("x", "y")], compiles=True), False, Look())
    )[:4]
    for line, way in zip(lines, ("filemap", "a-way-with-a-long-name", "-"), strict=True):
        assert line[heading.index("VARIANT") : heading.index("PROBES")].rstrip() == way
        assert line[heading.index("PROBES") - 2 :] == "  6"
