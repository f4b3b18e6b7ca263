"""Whose cgroup a process counts for: the one that it is in, or was in when it ended."""

from __future__ import annotations

import os
import random
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from memtap.bpf.filters import cgroup_mounts
from tests.live.tracing import Row, eventually, reporting, reports

Build = Callable[[str], Path]
PAGES = 300

BY_PROCESS = ("-b", "process", "0.3", "-f", "json")


def accounting() -> Path:
    """Where the hierarchy is mounted that memory is accounted by: v1's, else v2."""
    mounts = cgroup_mounts(Path("/proc/self/mountinfo").read_text())
    return sorted(mounts, key=lambda mount: "memory" not in mount.controllers)[0].path


HIERARCHIES = [
    mount.path
    for mount in cgroup_mounts(Path("/proc/self/mountinfo").read_text())
    if not mount.controllers or "memory" in mount.controllers
]

ROOT = accounting() / f"memtap-test-{os.getpid()}"


def remove(folder: Path) -> None:
    """A cgroup's folder; who was in it may not have left it yet."""

    def is_gone() -> bool:
        with suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    assert eventually(is_gone)


class Cgroup:
    """A cgroup that a test makes, by its path in the hierarchy."""

    def __init__(self, name: str) -> None:
        self.path = f"/{ROOT.name}/{name}"
        self.folder = ROOT / name
        self.folder.mkdir(parents=True)
        self.procs = self.folder / "cgroup.procs"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    for folder, _, _ in os.walk(ROOT, topdown=False):
        remove(Path(folder))


def cgroups_of(out: Path, column: str = "total") -> dict[int, dict[str, int]]:
    """What each process has counted by cgroup, in all reports."""
    found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for report in reports(out.read_text()):
        for row in report["rows"]:
            found[row["pid"]][row["cgroup"]] += row[column]
    return found


def rows_of(out: Path) -> list[Row]:
    return [row for report in reports(out.read_text()) for row in report["rows"]]


def told_of(out: Path, pid: int) -> list[str]:
    """The cgroup of a process in each report that has it."""
    return [row["cgroup"] for row in rows_of(out) if row["pid"] == pid]


@pytest.fixture
def spawn(workload: Build) -> Callable[..., int]:
    """Runs a short-lived program that joins a cgroup before it is executed; its number."""

    def run(cgroup: Cgroup, pages: int = PAGES) -> int:
        command = [workload("vforker"), "-c", cgroup.procs, workload("toucher"), str(pages)]
        return int(subprocess.check_output(command, text=True).split()[2])

    return run


@pytest.mark.parametrize(
    ("command", "column"),
    [("faults", "total"), ("pages", "allocs"), ("slab", "allocs"), ("malloc", "faults")],
)
def test_short_lived_processes_count_for_the_cgroup_that_they_join(
    command: str, column: str, spawn: Callable[..., int], tmp_path: Path
) -> None:
    """Random ones of three, of which one is deep, and a sibling of the parent's all the time."""
    out, truth = tmp_path / "out", {}
    choices = [Cgroup("a"), Cgroup("a/below/deep down é"), Cgroup("b")]
    with reporting(out, command, "-c", "toucher", *BY_PROCESS) as process:
        for number in range(30):
            cgroup = random.Random(number).choice(choices)
            truth[spawn(cgroup)] = cgroup.path
        process.terminate()
        assert process.wait(30) == 0
    found = cgroups_of(out, column)
    assert {pid: set(found[pid]) for pid in truth} == {pid: {path} for pid, path in truth.items()}


def test_a_cgroup_that_is_gone_at_once_has_its_name(
    spawn: Callable[..., int], tmp_path: Path
) -> None:
    """Each process has a container of its own, which is removed before anybody could look."""
    out, truth = tmp_path / "out", {}
    with reporting(out, "faults", "-c", "toucher", "-b", "cgroup", "0.5", "-f", "json") as process:
        for number in range(20):
            cgroup = Cgroup(f"pod-{number}/container-{'x' * 200}")
            spawn(cgroup, PAGES + number)
            remove(cgroup.folder)
            truth[cgroup.path] = PAGES + number
        process.terminate()
        assert process.wait(30) == 0
    found: dict[str, int] = defaultdict(int)
    for row in rows_of(out):
        found[row["cgroup"]] += row["total"]
    for path, pages in truth.items():
        assert pages < found[path] < pages + 150, path
    assert "?" not in found


def test_a_process_that_was_there_before_is_in_the_cgroup_that_it_is_moved_to(
    tmp_path: Path,
) -> None:
    """Moved by another, twice; and it ends there, while nobody looks."""
    first, last = Cgroup("first"), Cgroup("last")
    code = "import mmap, os\nwhile os.read(0, 1): mmap.mmap(-1, 1 << 20).write(b'x' * (1 << 20))"
    victim = subprocess.Popen(["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE)
    assert victim.stdin
    out = tmp_path / "out"
    with victim, reporting(out, "faults", "-p", victim.pid, *BY_PROCESS) as process:

        def asks() -> None:
            assert victim.stdin
            victim.stdin.write(b"x")
            victim.stdin.flush()

        def is_said_to_be_in(cgroup: Cgroup) -> bool:
            asks()
            return cgroup.path in cgroups_of(out).get(victim.pid, {})

        assert eventually(lambda: asks() or victim.pid in cgroups_of(out))
        assert len(cgroups_of(out)[victim.pid]) == 1
        first.procs.write_text(str(victim.pid))
        assert eventually(lambda: is_said_to_be_in(first))
        last.procs.write_text(str(victim.pid))
        asks()
        victim.stdin.close()
        victim.wait()
        remove(last.folder)
        assert process.wait(30) == 0  # there is nobody left
    own, *moved = cgroups_of(out)[victim.pid]
    assert moved == [first.path, last.path]
    assert own not in moved


LEAVES_A_THREAD = """
import mmap, os, sys, threading
procs, threads = sys.argv[1:]
open(procs, "w").write(str(os.getpid()))
def leave():
    open(threads, "w").write(str(threading.get_native_id()))
thread = threading.Thread(target=leave)
thread.start()
thread.join()
print(flush=True)
while os.read(0, 1):
    mmap.mmap(-1, 1 << 20).write(b"x" * (1 << 20))
"""


def test_a_thread_that_moves_alone_does_not_take_its_process_with_it(tmp_path: Path) -> None:
    """By `tasks` of v1, and `cgroup.threads` of v2."""
    process_in, thread_in, out = Cgroup("all"), Cgroup("all/one"), tmp_path / "out"
    alone = thread_in.folder / "tasks"
    if not alone.exists():
        (thread_in.folder / "cgroup.type").write_text("threaded")
        alone = thread_in.folder / "cgroup.threads"
    with reporting(out, "faults", "-c", "python3", *BY_PROCESS):
        command = ["/usr/bin/python3", "-c", LEAVES_A_THREAD, process_in.procs, alone]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as mover:
            assert mover.stdin and mover.stdout
            mover.stdout.readline()

            def told() -> list[str]:
                assert mover.stdin
                mover.stdin.write(b"x")
                mover.stdin.flush()
                return told_of(out, mover.pid)

            before = len(told())
            assert eventually(lambda: len(told()) >= before + 3)
            mover.stdin.close()
    assert set(told_of(out, mover.pid)[before + 1 :]) == {process_in.path}


def test_only_what_is_done_in_a_cgroup_or_below_counts(
    spawn: Callable[..., int], workload: Build, tmp_path: Path
) -> None:
    """Of who joins late, by a cgroup that is made later, and of who leaves; not of a namesake."""
    wanted, other = Cgroup("wanted"), Cgroup("wanted-too")
    out, toucher = tmp_path / "out", workload("toucher")
    how = ("faults", "--cgroup", wanted.path, *BY_PROCESS)
    shell = f"{toucher} 100; echo $$ > $0; {toucher} 200; echo $$ > $1; {toucher} 400"
    with reporting(out, *how) as process:
        late = Cgroup("wanted/made/later")
        spawn(other, 5000)
        truth = {spawn(wanted, 500): wanted.path, spawn(late, 600): late.path}
        remove(late.folder)
        subprocess.check_call(["sh", "-c", shell, wanted.procs, other.procs])
        process.terminate()
        assert process.wait(30) == 0
    found = cgroups_of(out)
    assert {pid: list(found[pid]) for pid in truth} == {pid: [path] for pid, path in truth.items()}
    touchers = {row["pid"] for row in rows_of(out) if row["comm"] == "toucher"}
    assert sorted(sum(found[pid].values()) // 100 for pid in touchers) == [2, 5, 6]


@pytest.mark.parametrize("hierarchy", range(len(HIERARCHIES)))
def test_a_cgroup_that_is_made_later_and_again_counts_from_its_first_process_on(
    hierarchy: int, workload: Build, tmp_path: Path
) -> None:
    """By its directory, in v1 and v2; with what is below it, and not a sibling's processes."""
    folder, out, toucher = HIERARCHIES[hierarchy] / ROOT.name, tmp_path / "out", workload("toucher")

    def run(cgroup: Path, pages: int) -> None:
        command = [workload("vforker"), "-c", cgroup / "cgroup.procs", toucher, str(pages)]
        subprocess.check_output(command)

    with reporting(out, "faults", "--cgroup", folder, *BY_PROCESS) as process:
        for number in range(3):
            sibling = folder.with_name(f"{folder.name}-too")
            (folder / "below").mkdir(parents=True)
            sibling.mkdir()
            run(folder, 1000 + 100 * number)
            run(folder / "below", 2000 + 100 * number)
            run(sibling, 5000)
            for each in (folder / "below", folder, sibling):
                remove(each)
        process.terminate()
        assert process.wait(30) == 0
    found: dict[int, int] = defaultdict(int)
    for row in rows_of(out):
        found[row["pid"]] += row["total"] * (row["comm"] == "toucher")
    counted = sorted(count // 100 for count in found.values() if count)
    assert counted == [10, 11, 12, 20, 21, 22]


def test_children_are_in_the_cgroup_that_they_are_born_in(
    tmp_path: Path,
) -> None:
    """Forked and gone, without executing anything, by a parent that has left it by then."""
    nursery, elsewhere, out = Cgroup("nursery"), Cgroup("elsewhere"), tmp_path / "out"
    code = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
children = []
for _ in range(10):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        x = b"x" * (4 << 20)
        os._exit(0)
    children.append((child, write))
open(sys.argv[2], "w").write(str(os.getpid()))
for child, write in children:
    os.close(write)
for child, _ in children:
    os.waitpid(child, 0)
print(*(child for child, _ in children))
"""
    with reporting(out, "faults", "-c", "python3", *BY_PROCESS) as process:
        command = ["/usr/bin/python3", "-c", code, nursery.procs, elsewhere.procs]
        children = map(int, subprocess.check_output(command, text=True).split())
        process.terminate()
        assert process.wait(30) == 0
    found = cgroups_of(out)
    assert [list(found[child]) for child in children] == [[nursery.path]] * 10
