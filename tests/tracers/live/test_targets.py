"""What the kernel counted for processes, from start to death, out of a /proc laid out for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from memtap.tracers.host.counters import Counters
from memtap.tracers.live.targets import Targets, read_threads

ENDED = {"ac_minflt": 5, "ac_majflt": 1, "read_bytes": 4096, "write_bytes": 0}


class Proc:
    """A /proc of threads, each with so many minor faults (and as many of the rest, times ten)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()

    def lay_out(
        self, pid: int, threads: dict[int, int], name: bytes = b"cat", state: bytes = b"S"
    ) -> None:
        """`state` is that of the process, so of its first thread."""
        self.end(pid)
        for tid, faults in threads.items():
            thread = self.root / f"proc/{pid}/task/{tid}"
            thread.mkdir(parents=True)
            numbers = b"S 1 1 1 0 -1 4 %d 99 %d 99 0 0" % (faults, faults * 10)
            (thread / "stat").write_bytes(b"%d (%s) %s\n" % (tid, name, numbers))
            io = b"rchar: 1\nwchar: 1\nread_bytes: %d\nwrite_bytes: %d\n"
            (thread / "io").write_bytes(io % (faults * 100, faults * 1000))
            (thread / "schedstat").write_bytes(b"%d 1 1\n" % (faults * 10000))
        (self.root / f"proc/{pid}/stat").write_bytes(b"%d (%s) %s 1\n" % (pid, name, state))

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / f"proc/{pid}", ignore_errors=True)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def targets(proc: Proc) -> Targets:
    """Those that process 7 is one of, with 10 faults before."""
    proc.lay_out(7, {7: 10})
    targets = Targets(proc.root)
    targets.add(7)
    return targets


def faults(targets: Targets) -> int:
    return targets.totals(targets.look()).get("ac_minflt", 0)


def counted(minor: int) -> Counters:
    return {name: value if name != "ac_minflt" else minor for name, value in ENDED.items()}


@pytest.mark.parametrize("name", [b"cat", b"a) S 1 2", b"two\nlines"])
def test_threads_are_read_whatever_their_name(name: bytes, proc: Proc) -> None:
    proc.lay_out(7, {7: 1, 8: 2}, name)
    one = {"ac_minflt": 1, "ac_majflt": 10, "read_bytes": 100, "write_bytes": 1000}
    one["cpu_run_virtual_total"] = 10000
    two = {name: 2 * value for name, value in one.items()}
    assert read_threads(proc.root / "proc/7") == {7: one, 8: two}


def test_a_kernel_without_schedstat_has_no_time_on_cpu(proc: Proc) -> None:
    proc.lay_out(7, {7: 1})
    (proc.root / "proc/7/task/7/schedstat").unlink()
    threads = read_threads(proc.root / "proc/7")
    assert threads and threads[7]["cpu_run_virtual_total"] == 0
    assert threads[7]["ac_minflt"] == 1


def test_a_process_that_is_gone_has_no_threads(proc: Proc) -> None:
    assert read_threads(proc.root / "proc/7") is None


def test_a_thread_that_ends_while_looked_at_counts_nothing(proc: Proc) -> None:
    proc.lay_out(7, {7: 1, 8: 2})
    (proc.root / "proc/7/task/8/io").unlink()
    found = read_threads(proc.root / "proc/7")
    assert found is not None
    assert found[8] == {}


def test_what_was_counted_before_is_left_out(proc: Proc, targets: Targets) -> None:
    assert faults(targets) == 0
    proc.lay_out(7, {7: 13})
    assert faults(targets) == 3


def test_a_process_that_never_was_is_no_target(targets: Targets) -> None:
    targets.add(8)
    assert 8 not in targets


@pytest.mark.parametrize("threads", [{7: 11}, {7: 11, 8: 4}, {7: 11, 8: 5}])
def test_a_thread_that_ended_counts_by_its_exit_record_alone(
    threads: dict[int, int], proc: Proc, targets: Targets
) -> None:
    proc.lay_out(7, threads)  # a thread that ended can stand in /proc for a while
    targets.died(7, 8, counted(5))
    assert faults(targets) == 6


def test_a_process_that_ended_counts_by_the_exit_records_of_its_threads(
    proc: Proc, targets: Targets
) -> None:
    proc.end(7)
    targets.died(7, 8, counted(5))
    targets.died(7, 7, counted(13))
    assert faults(targets) == 8
    assert faults(targets) == 8
    assert 7 not in targets


def test_who_executes_takes_the_number_of_the_first_thread_and_counts_on(
    proc: Proc, targets: Targets
) -> None:
    proc.lay_out(7, {7: 11, 8: 4})
    targets.died(7, 7, counted(12))  # 8 executes a program
    proc.lay_out(7, {7: 6})
    assert faults(targets) == 8
    proc.end(7)
    targets.died(7, 7, counted(9))
    assert faults(targets) == 11


def test_a_process_that_executed_and_ended_unseen_counts_all(proc: Proc, targets: Targets) -> None:
    proc.end(7)
    targets.died(7, 7, counted(12))
    targets.died(7, 7, counted(9))
    assert faults(targets) == 11


def test_a_first_thread_that_had_ended_before_counts_nothing(proc: Proc) -> None:
    proc.lay_out(7, {7: 10, 8: 3}, state=b"Z")
    targets = Targets(proc.root)
    targets.add(7)
    assert faults(targets) == 0
    proc.end(7)
    targets.died(7, 8, counted(5))
    assert faults(targets) == 2


def test_a_process_that_ends_after_the_look_is_counted_once(proc: Proc, targets: Targets) -> None:
    proc.lay_out(7, {7: 12})
    looked = targets.look()
    proc.end(7)
    targets.died(7, 7, counted(15))
    assert targets.totals(looked)["ac_minflt"] == 5
    assert faults(targets) == 5


def test_a_child_joins_with_all_it_counts(proc: Proc, targets: Targets) -> None:
    targets.forked(7, 8)
    proc.lay_out(8, {8: 4})
    assert 8 in targets
    assert faults(targets) == 4


def test_a_child_that_was_never_seen_alive_counts_by_its_exit_record(targets: Targets) -> None:
    targets.forked(7, 8)
    targets.died(8, 8, counted(5))
    assert faults(targets) == 5


def test_a_child_of_somebody_else_does_not_join(targets: Targets) -> None:
    targets.forked(1, 8)
    assert 8 not in targets


def test_a_number_used_again_keeps_what_the_first_counted(proc: Proc, targets: Targets) -> None:
    targets.forked(7, 8)
    targets.died(8, 8, counted(5))
    targets.forked(7, 8)
    proc.lay_out(8, {8: 4})
    assert faults(targets) == 9


def test_a_number_used_again_by_somebody_else_is_no_target_any_more(
    proc: Proc, targets: Targets
) -> None:
    targets.forked(7, 8)
    targets.died(8, 8, counted(5))
    targets.forked(1, 8)
    proc.lay_out(8, {8: 4})
    assert faults(targets) == 5
    assert 8 not in targets
