"""Accounts that are kept, and what is said of them in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memtap.bpf.errors import MemtapError
from memtap.tracers.ledger.columns import ledger_columns
from memtap.tracers.ledger.explain import of_change, of_host, of_spaces, size_text
from memtap.tracers.ledger.kept import Look, keep, kept
from memtap.tracers.ledger.report import change_of
from memtap.tracers.model.report import Row

MIB = 1 << 20
TOTAL = 1000 * MIB


def line(name: str, mib: int, group: str = "kernel") -> Row:
    share = None if group == "beside" else 1.0
    row = {"group": group, "line": name, "size_bytes": mib * MIB, "share_pct": share}
    return row | {"more": None, "source": "/proc/meminfo"}


def look(*rows: Row, time: str = "2026-01-31T12:00:00.000Z", by: str = "line") -> Look:
    return Look(by, time, 5.0, TOTAL, list(rows), 3, 0, (), {"MemFree": 4})


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    seen = look(line("anon", 7), line("dirty", 2, "beside"))
    keep(seen, tmp_path / "kept")
    found = kept(tmp_path / "kept", "line")
    assert (found.rows, found.total, found.time) == (seen.rows, TOTAL, seen.time)


def test_a_change_since_then_has_the_time_between(tmp_path: Path) -> None:
    keep(look(line("anon", 7)), tmp_path / "kept")
    now = look(line("anon", 9), time="2026-01-31T13:00:00.500Z")
    columns = ledger_columns("line", "kib", changes=True)
    report = change_of(kept(tmp_path / "kept", "line"), now, columns)
    assert (report.interval_s, report.rows[0]["size_bytes"]) == (3600.5, 2 * MIB)


def test_one_that_is_grouped_otherwise_is_refused(tmp_path: Path) -> None:
    keep(look(line("anon", 7)), tmp_path / "kept")
    with pytest.raises(MemtapError, match="grouped by line, not by user"):
        kept(tmp_path / "kept", "user")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": [{"line": "anon"}]},
        {"rows": 7},
        {"rows": [line("anon", 7) | {"size_bytes": "7"}]},
        {"rows": [line("anon", 7) | {"size_bytes": 1 << 70}]},
        {"rows": [line("anon", 7) | {"group": []}]},
        {"rows": [line("anon", 7) | {"depth": 1 << 40}]},
        {"time": "yesterday"},
        {"by": "colour"},
        {"kernel": {"MemFree": []}},
        {"memtap_ledger": 2},
        {"more": 1},
    ],
    ids=str,
)
def test_a_file_that_is_none_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "kept"
    keep(look(line("anon", 7)), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(MemtapError, match="is no account that memtap kept"):
        kept(path, "line")


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", "[" * 100_000], ids=range(5))
def test_what_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text(text)
    with pytest.raises(MemtapError, match="is no account that memtap kept"):
        kept(tmp_path / "kept", "line")


def test_a_stranger_s_names_are_safe_to_print(tmp_path: Path) -> None:
    keep(look(line("\x1b[31m", 7)), tmp_path / "kept")
    assert kept(tmp_path / "kept", "line").rows[0]["line"] == r"\x1b[31m"


HOST = [
    line("anon", 300, "processes"),
    line("file-unmapped", 200, "cache"),
    line("buffers", 10, "cache"),
    line("slab-reclaimable", 20),
    line("slab-unreclaimable", 5),
    line("free", 400, "free"),
    line("free-on-cpus", 2, "free"),
    line("dirty", 60, "beside"),
    line("available", 500, "beside"),
]


def test_words_say_what_is_large_and_what_can_be_taken_back() -> None:
    first, at_once = of_host(HOST, TOTAL)
    assert first.startswith(
        "Of 1000.0 MiB, 402.0 MiB (40.2%) is free. Most of the rest is anonymous"
    )
    assert "up to 150.0 MiB of page cache" in at_once and "20.0 MiB of slab" in at_once


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shmem-unmapped", "files on tmpfs"),
        ("hugetlb-free", "vm.nr_hugepages"),
        ("slab-unreclaimable", "memtap slab"),
        ("unexplained", "no counter of the kernel"),
    ],
)
def test_words_lead_to_what_is_unusual(name: str, said: str) -> None:
    rows = [row for row in HOST if row["line"] != name]
    assert not any(said in text for text in of_host(rows, TOTAL)[1:])
    assert said in of_host([*rows, line(name, 90)], TOTAL)[-1]


def test_words_say_what_came_and_went() -> None:
    (said,) = of_change([line("anon", 9), line("free", -9), line("dirty", 99, "beside")], 10.0)
    assert said == (
        "In 10 s most went to anonymous memory of processes (+9.0 MiB), and came from free "
        "(-9.0 MiB)."
    )
    assert of_change([], 10.0) == ["In 10 s nothing changed."]


def test_words_on_processes_when_nobody_is_known() -> None:
    assert of_spaces([{"total_bytes": None}], TOTAL) == ["Nobody whose memory can be read has any."]


def test_sizes_are_in_the_unit_that_fits() -> None:
    assert [size_text(size) for size in (1536 * MIB, -3 * MIB, 956 << 10)] == [
        "1.5 GiB",
        "-3.0 MiB",
        "956 KiB",
    ]
