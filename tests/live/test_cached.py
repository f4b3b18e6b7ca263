"""files against what the kernel itself says of each file, and of the page cache as a whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from memtap.bpf.btf import vmlinux
from memtap.bpf.cache import Cache
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts
from memtap.bpf.session import Session
from memtap.tracers.doctor import LOOKS
from memtap.tracers.files import asked
from memtap.tracers.files.walk import Walker
from tests.cli.calling import somebody
from tests.live.limits import limited
from tests.live.tracing import KPF_DIRTY, PAGE, memtap, page_flags, reports, resident

MIB = 1 << 20


def looked(*arguments: object) -> dict[str, Any]:
    done = memtap("files", "-f", "json", *map(str, arguments))
    assert done.returncode == 0, done.stderr
    (report,) = reports(done.stdout)
    return report


def by_path(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in report["rows"]}


def told(path: Path) -> tuple[int, int, int | None]:
    """What the kernel says is resident, dirty, and evicted, in bytes.

    Without cachestat(2) it is what it says of each page, and nobody knows what was evicted.
    """
    if not asked.has_cachestat():
        flags = page_flags(path)
        return len(flags) * PAGE, sum(flag & KPF_DIRTY > 0 for flag in flags) * PAGE, None
    with path.open("rb") as file:
        resident, dirty, _, evicted, _ = asked.cachestat(file.fileno())
    return resident * PAGE, dirty * PAGE, evicted * PAGE


def counted(row: dict[str, Any]) -> tuple[int, int, int | None]:
    evicted = row["evicted_bytes"] if asked.has_cachestat() else None
    return row["resident_bytes"], row["dirty_bytes"], evicted


def make(path: Path, size: int) -> None:
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def disturb(path: Path, chance: random.Random) -> None:
    """Drops some of a file, and writes to some."""
    fd = os.open(path, os.O_RDWR)
    for _ in range(8):
        start = chance.randrange(0, 8 * MIB, PAGE)
        length = chance.randrange(1, 40) * PAGE
        if chance.random() < 0.5:
            os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)
        else:
            os.pwrite(fd, b"x" * length, start)
    os.close(fd)


@pytest.mark.parametrize("how", [(), ("--age",)])
def test_what_is_cached_and_dirty_of_a_file_is_told(how: tuple[str, ...], disk: Path) -> None:
    """Whatever was dropped, written, or left a hole; closed files all of them."""
    chance = random.Random(len(how))
    paths = [disk / f"part-{how}-{number}" for number in range(6)]
    for path in paths:
        make(path, 8 * MIB)
    settled: list[int] = []
    attempts = 0
    while len(settled) < 3 and attempts < 10:  # whoever calls sync(2) has all written back
        attempts += 1
        for path in paths:
            disturb(path, chance)
        before = [told(path) for path in paths]
        rows = by_path(looked(*how))
        after = [told(path) for path in paths]
        settled = [at for at in range(len(paths)) if before[at] == after[at]]
    assert len(settled) >= 3
    for at in settled:
        row = rows[str(paths[at])]
        assert counted(row) == before[at]
        assert (row["kind"], row["ino"]) == ("file", paths[at].stat().st_ino)
        if how:
            ages = (row[f"{age}_bytes"] for age in ("active", "inactive", "unevictable"))
            assert sum(ages) == row["resident_bytes"]


def test_files_of_the_host_are_told_as_the_kernel_does(disk: Path) -> None:
    """Ours, and those of most, nobody knows which: large folios, evicted parts, deep trees."""
    for number in range(60):
        make(disk / f"of-host-{number}", MIB // 4 + number * PAGE)
    rows = [row for row in looked("-r", 400)["rows"] if row["kind"] == "file"]
    compared = same = 0
    for row in rows:
        path = Path(row["path"])
        if path.is_file() and path.stat().st_ino == row["ino"]:
            compared += 1
            same += counted(row) == told(path)
    assert compared > 50
    assert same > 0.8 * compared  # others run meanwhile


def test_sums_are_those_of_the_host() -> None:
    """Against /proc/meminfo, within one per cent."""
    report = looked("-b", "mount")
    kernel = report["audit"]["kernel"]
    found = {"all": 0, "bdev": 0}
    for row in report["rows"]:
        for what in ("all", row["fstype"]):
            found[what] = found.get(what, 0) + (row["resident_bytes"] >> 10)
    assert found["all"] == pytest.approx(kernel["Cached"] + kernel["Buffers"], rel=0.01)
    assert found["bdev"] == pytest.approx(kernel["Buffers"], rel=0.01, abs=1024)
    assert report["audit"]["accuracy"] == "bounded"


def test_files_without_a_name_are_told_too(disk: Path) -> None:
    deleted = disk / "deleted"
    make(deleted, 5 * MIB)
    with deleted.open("rb"):
        deleted.unlink()
        memfd = os.memfd_create("nobody's \x1b[2J file")
        os.write(memfd, b"x" * (3 * MIB + 1))
        rows = by_path(looked())
        os.close(memfd)
    assert rows[f"{deleted} (deleted)"]["resident_bytes"] == 5 * MIB
    row = rows["memfd:nobody's \\x1b[2J file (deleted)"]
    assert (row["kind"], row["resident_bytes"]) == ("shm", 3 * MIB + PAGE)


def test_mounts_and_directories_add_up(tmpfs: Path) -> None:
    for number in range(300):
        folder = tmpfs / f"{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}").write_bytes(b"x" * PAGE * (1 + number % 3))
    (tmpfs / "top").write_bytes(b"x" * PAGE)
    rows = [row for row in looked("-b", "mount,directory")["rows"] if row["mount"] == str(tmpfs)]
    assert {
        row["directory"]: (row["fstype"], row["files"], row["resident_bytes"]) for row in rows
    } == {
        str(tmpfs / f"{number}"): ("tmpfs", 100, 100 * (1 + number) * PAGE) for number in range(3)
    } | {str(tmpfs): ("tmpfs", 1, PAGE)}


def test_who_has_a_file_open_or_mapped_is_told(tmpfs: Path) -> None:
    path = tmpfs / "held"
    path.write_bytes(b"x" * 100 * PAGE)
    script = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "if sys.argv[2] == 'mapped':\n"
        "    held = mmap.mmap(fd, 0, prot=mmap.PROT_READ)\n"
        "    os.closerange(3, 64)\n"
        "print(flush=True); sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children = {
        how: subprocess.Popen([sys.executable, "-c", script, path, how], **pipes)
        for how in ("open", "mapped")
    }
    for child in children.values():
        assert child.stdout
        child.stdout.readline()
    report, (cached, *_) = looked("-b", "process,file"), told(path)  # some can be swapped out
    rows = [row for row in report["rows"] if row["path"] == str(path)]
    for child in children.values():
        child.communicate()
    tells_mapped = vmlinux().attach_id("iter", "task_vma") > 0
    found = children if tells_mapped else ("open",)
    assert {row["pid"] for row in rows} == {children[how].pid for how in found}
    assert {row["resident_bytes"] for row in rows} == {cached}
    assert any("mapped" in note for note in report["audit"]["notes"]) != tells_mapped
    others = [row for row in report["rows"] if row["pid"] is None]
    assert {row["comm"] for row in others} == {"(no process)"}


def test_the_cgroup_that_pays_is_told(disk: Path) -> None:
    path = disk / "charged"
    script = f"head -c {6 * MIB} /dev/urandom > {path}; sync {path}"
    with limited(256 * MIB) as cgroup:
        with cgroup.start("sh", "-c", script) as process:
            assert process.wait() == 0
        rows = [r for r in looked("-b", "cgroup,file")["rows"] if r["path"] == str(path)]
        assert [(r["cgroup"], r["resident_bytes"]) for r in rows] == [(cgroup.path, 6 * MIB)]
        path.unlink()


def test_files_that_stay_are_told_while_others_come_and_go(tmpfs: Path) -> None:
    stable = tmpfs / "stable"
    stable.mkdir()
    for number in range(2000):
        (stable / f"{number}").write_bytes(b"x" * PAGE)
    ends = threading.Event()

    def churn() -> None:
        while not ends.is_set():
            for number in range(500):
                (tmpfs / f"{number}").write_bytes(b"x")
            for number in range(500):
                (tmpfs / f"{number}").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        rows = looked("-b", "directory")["rows"]
        (row,) = (row for row in rows if row["directory"] == str(stable))
        assert (row["files"], row["resident_bytes"]) == (2000, 2000 * PAGE)
    finally:
        ends.set()
        thread.join()


def test_a_walk_goes_on_where_the_files_it_stood_at_are_gone(tmpfs: Path) -> None:
    """The newest come first: where the first step ended is removed before the second."""
    paths = [tmpfs / f"{number}" for number in range(5000)]
    for path in paths:
        path.write_bytes(b"x")
    inodes = {path.stat().st_ino: path for path in paths}
    kernel, device = Kernel(), tmpfs.stat().st_dev
    loaded = Attempts(LOOKS["files"], kernel, Cache()).wait()
    with Session(loaded, kernel) as session:
        walker = Walker(session)
        dev = os.major(device) << 20 | os.minor(device)
        (of,) = (each for each in walker.supers() if each.dev == dev)
        steps = walker.files(of)
        next(steps)
        for path in paths[4000:]:
            del inodes[path.stat().st_ino]
            path.unlink()
        later = [int(ino) for found in steps for ino in found["ino"]]
    assert walker.restarts == 1
    assert walker.given_up == 0
    assert sorted(ino for ino in later if ino in inodes) == sorted(inodes)


def test_files_that_are_named_need_no_root(disk: Path) -> None:
    folder = disk / "named"
    (folder / "below").mkdir(parents=True)
    make(folder / "one", 3 * MIB)
    make(folder / "below" / "two\n", 2 * MIB + 5)
    (folder / "again").hardlink_to(folder / "one")
    (folder / "link").symlink_to(folder / "one")
    os.mkfifo(folder / "fifo")
    for path in (disk, folder, folder / "below"):
        path.chmod(0o755)
    other = somebody()
    subprocess.check_call(["chown", "-R", str(other["user"]), folder])
    # What MEMTAP may name instead is root's.
    command = [sys.executable, "-m", "memtap", "files", folder, "-f", "json"]
    (report,) = reports(subprocess.check_output(command, text=True, **other))
    sizes = sorted(row["resident_bytes"] for row in report["rows"])
    assert sizes == [2 * MIB + PAGE, 3 * MIB]
    assert str(folder / "below" / "two\\n") in by_path(report)
    way = "cachestat(2)" if asked.has_cachestat() else "mincore(2)"
    assert report["audit"]["probes"] == [way]


def test_mincore_and_cachestat_agree(disk: Path) -> None:
    path = disk / "both"
    make(path, 2 * MIB)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"x", 4 * MIB)  # there is a hole before it
    found = asked.mincore(fd, path.stat().st_size)
    assert found == resident(path) == 2 * MIB // PAGE + 1
    if asked.has_cachestat():
        assert asked.cachestat(fd)[0] == found
    os.close(fd)


def test_a_path_that_leads_nowhere_is_said() -> None:
    done = memtap("files", "/nowhere\x1b")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].endswith("/nowhere\\x1b: No such file or directory")
