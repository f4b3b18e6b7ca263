"""The command ledger, on this very host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.calling import memtap


def the_report(*words: object) -> dict[str, Any]:
    done = memtap("ledger", *words, "-f", "json")
    assert done.status == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_the_table_ends_with_all_of_memory() -> None:
    lines = memtap("ledger").lines
    assert lines[0].split() == ["GROUP", "LINE", "SIZE_KB", "SHARE", "MORE", "FROM"]
    total = next(line for line in lines if "MemTotal " in line and "/proc" not in line)
    kib = Path("/proc/meminfo").read_text().split()[1]
    assert total.split() == ["MemTotal", kib, "100.0%"]


def test_what_is_kept_is_compared(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    before = {row["line"]: row["size_bytes"] for row in the_report("--record", kept)["rows"]}
    assert {row["line"] for row in json.loads(kept.read_text())["rows"]} == before.keys()
    changed = json.loads(kept.read_text())
    (anon,) = (row for row in changed["rows"] if row["line"] == "anon")
    anon["size_bytes"] -= 1 << 50
    kept.write_text(json.dumps(changed))
    grew = the_report("--since", kept, "--explain")
    (anon,) = (row for row in grew["rows"] if row["line"] == "anon")
    assert anon["size_bytes"] == pytest.approx(1 << 50, rel=0.01)
    assert grew["interval_s"] > 0
    assert "most went to anonymous memory" in grew["explanation"][0]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-b", "line,user"], 2, "an account is of one kind"),
        (["-p", "1"], 2, "No such option"),
        (["--since", "/nowhere/it"], 1, "cannot read /nowhere/it"),
        (["--record", "/nowhere/it"], 1, "cannot write /nowhere/it"),
        (["--since", "/proc/self/stat"], 1, "is no account that memtap kept"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], status: int, said: str) -> None:
    done = memtap("ledger", *words)
    assert (done.status, said in done.err) == (status, True), done.err
    assert "Traceback" not in done.err


def test_the_tree_of_cgroups_begins_with_the_host() -> None:
    rows = the_report("-b", "cgroup")["rows"]
    assert rows[0]["cgroup"] == "/"
    assert sum(row["own_bytes"] for row in rows) == rows[0]["size_bytes"]
