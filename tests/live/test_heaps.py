"""Heaps of a process that runs, against what malloc in it says, and against what it gives back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.heaping import anonymous, check, heaper
from tests.live.test_malloc import LIBRARIES, OTHERS, waits
from tests.live.tracing import MEMTAP, Row, eventually, memtap, reports

Build = Callable[[str], Path]

ROOT = Path(__file__).resolve().parents[2]


def looked_at(pid: int, *how: str) -> tuple[list[Row], Row]:
    """The rows of --heap, by arena; and the audit."""
    done = memtap("malloc", "--heap", "-p", pid, "-f", "json", *how)
    assert done.returncode == 0, done.stderr
    (found,) = reports(done.stdout)
    assert found["report"] == "malloc-heaps"
    return found["rows"], found["audit"]


# Arenas of threads; something in the way of the program break; and arenas that have several heaps.
# The ends of what is not the last go to a tcache, too.
CASES = {
    "threads": ["3", "1000", "1"],
    "pieces": ["1", "1000", "2", "pieces"],
    "heaps": ["1", "7500", "3"],
}


@pytest.mark.parametrize("case", CASES)
def test_all_arenas_are_as_malloc_says_and_trim_gives_back_what_was_told(
    case: str, workload: Build
) -> None:
    with heaper([str(workload("heaper")), *CASES[case]]) as program:
        rows, audit = looked_at(program.pid)
        assert audit["accuracy"] == ("bounded" if case == "pieces" else "exact")
        check(rows, program.said)
        kept = sum(row["tcache_bytes"] or 0 for row in rows)
        assert kept >= program.said.in_tcaches
        assert kept == program.said.in_tcaches or case != "threads"
        assert any(row["heap_bytes"] > 64 << 20 for row in rows) == (case == "heaps")
        before = anonymous(program.pid)
        told = sum(row["trim_bytes"] or 0 for row in rows)
        program.trim()
        assert before - anonymous(program.pid) == told > 1 << 20


def test_a_heap_that_moves_is_told_with_how_far_it_may_be_off(workload: Build) -> None:
    """A thread takes and frees all the time: sums hold, and it is said if it never stood still."""
    with heaper([str(workload("heaper")), "1", "1000", "4", "churn"]) as program:
        rows, audit = looked_at(program.pid)
        moves = any(row["bound_bytes"] for row in rows)
        assert audit["accuracy"] == ("bounded" if moves else "exact"), audit["notes"]
        assert [row["arena"] for row in rows] == ["main", "1", "mmap"]
        row = rows[1]
        known = row["used_bytes"] + row["tcache_bytes"] + row["stuck_bytes"] + row["top_bytes"]
        assert known == row["heap_bytes"] > 4 << 20
        assert row["used_bytes"] > row["heap_bytes"] // 2


def test_a_process_is_neither_traced_nor_stopped_nor_changed_by_a_look(workload: Build) -> None:
    """What it has in memory, how often it slept and what it faulted is as it was before."""
    with heaper([str(workload("heaper")), "1", "300", "5"]) as program:
        assert eventually(lambda: all_wait(program.pid))
        before = facts(program.pid)
        rows, _ = looked_at(program.pid, "--explain")
        assert facts(program.pid) == before
        assert len(rows) == 3


def all_wait(pid: int) -> bool:
    """Whether all threads of a process sleep."""
    return all(waits(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir())


def facts(pid: int) -> list[str]:
    """What reading must not change: memory, faults, context switches."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = ("RssAnon", "VmSwap", "voluntary_ctxt", "nonvoluntary_ctxt", "TracerPid", "State")
    faults = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7:11]
    return [line for line in status if line.startswith(told)] + faults


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_ones_own_processes_need_no_root_and_those_of_others_do(workload: Build) -> None:
    command = [*MEMTAP, "malloc", "--heap", "-f", "json", "-p"]
    for who in (NOBODY, []):
        with heaper([*who, str(workload("heaper")), "1", "50", "6"]) as program:
            as_nobody = [*NOBODY, *command, str(program.pid)]
            done = subprocess.run(as_nobody, capture_output=True, text=True, cwd=ROOT, check=False)
            if who:
                assert done.returncode == 0, done.stderr
                check(json.loads(done.stdout)["rows"], program.said)
            else:
                assert done.returncode == 1
                what, hint = done.stderr.splitlines()
                assert what == f"memtap: process {program.pid}: its memory is not ours to read"
                assert "root" in hint


@pytest.mark.parametrize("name", OTHERS)
def test_another_allocator_is_said_to_tell_nothing(name: str, workload: Build) -> None:
    program = ["env", f"LD_PRELOAD={LIBRARIES / OTHERS[name]}", str(workload("mallocer"))]
    command = [*program, "keep", "10", "1000", "wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdin
        other.stdout.readline()
        done = memtap("malloc", "--heap", "-p", other.pid)
        other.stdin.close()
    assert done.returncode == 1
    assert f"process {other.pid}: {name} exports no symbol" in done.stderr


def test_what_is_kept_is_explained(workload: Build) -> None:
    with heaper([str(workload("heaper")), "1", "300", "5"]) as program:
        done = memtap("malloc", "--heap", "--explain", "-p", program.pid)
        text = " ".join(done.stdout.split())
        assert f"Process {program.pid} (heaper) has 2 arenas" in text
        assert "malloc_trim(0) would give" in text
        assert "MALLOC_ARENA_MAX (now 0, which is 8 for each" in text
        assert memtap("malloc", "--explain").returncode == 2
