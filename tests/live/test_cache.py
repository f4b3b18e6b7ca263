"""What enters and leaves the page cache, and what is no page cache at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.filesystems import file_system
from tests.live.tracing import PAGE, Trace, evict, make_file, resident

PAGES = 3000
PYTHON = "/usr/bin/python3"

Build = Callable[[str], Path]
Run = Callable[..., Trace]

DROP = "import os, sys; os.posix_fadvise(os.open(sys.argv[1], 0), 0, 0, os.POSIX_FADV_DONTNEED)"
READ_AND_DROP = f"""
import pathlib, sys
from tests.live.tracing import resident
file = pathlib.Path(sys.argv[1])
file.read_bytes()
print(resident(file))
{DROP}
"""
READ_SOME = "import os, sys; os.pread(os.open(sys.argv[1], 0), 4096, 0)"


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "cached", PAGES)


def test_pages_that_are_dropped_are_evicted(file: Path, trace: Run) -> None:
    done = trace(sys.executable, "-c", READ_AND_DROP, file)
    cached = int(done.stdout)
    assert cached > 0
    assert cached - 8 <= done.file(file)["evicted_pages"] <= cached
    assert resident(file) == 0


def test_readahead_that_nobody_asked_for_is_unused(file: Path, trace: Run) -> None:
    evict(file)
    done = trace(PYTHON, "-c", READ_SOME, file)
    brought_in = done.file(file)["inserted_pages"]
    assert done.counts(file) == (0, 1, 0)
    assert brought_in > 1
    host = done.replay("cachestat", "--wide")[0]
    assert host["unused_readahead_pages"] >= brought_in - 1
    assert host["readahead_pages"] >= brought_in


def test_pages_dropped_before_they_were_asked_for_stay_unused(file: Path, trace: Run) -> None:
    evict(file)
    done = trace(PYTHON, "-c", f"{READ_SOME}; {DROP}", file)
    row = done.file(file)
    assert row["evicted_pages"] == row["inserted_pages"] > 1
    assert done.replay("cachestat", "--wide")[0]["unused_readahead_pages"] >= (
        row["inserted_pages"] - 1
    )


def test_shared_memory_pipes_and_sockets_are_no_page_cache(trace: Run) -> None:
    code = """
import ctypes, mmap, os, platform, socket
memfd = os.memfd_create("m"); os.write(memfd, bytes(1 << 20))
for _ in range(50): os.pread(memfd, 1 << 20, 0)
view = mmap.mmap(memfd, 1 << 20); sum(view[::4096])
shared = mmap.mmap(-1, 1 << 20); shared[:] = bytes(1 << 20)
out, into = os.pipe(); os.write(into, bytes(60000)); os.read(out, 60000)
a, b = socket.socketpair(); a.send(bytes(60000)); b.recv(60000)
IO_SETUP, MEMFD_SECRET = {"x86_64": (206, 447)}.get(platform.machine(), (0, 447))
ring = ctypes.c_ulong(0); ctypes.CDLL(None).syscall(IO_SETUP, 1000, ctypes.byref(ring))
secret = ctypes.CDLL(None).syscall(MEMFD_SECRET, 0)
if secret >= 0: os.ftruncate(secret, 1 << 16); mmap.mmap(secret, 1 << 16)[0] = 1
"""
    done = trace(PYTHON, "-c", code)
    assert done.status == 0, done.stderr
    unnamed = [row["path"] for row in done.report["rows"] if not row["path"].startswith("/")]
    assert unnamed == []


def test_files_on_tmpfs_are_no_page_cache(trace: Run) -> None:
    file = make_file(Path("/dev/shm/memtap-test"), 100)
    try:
        done = trace("md5sum", file)
    finally:
        file.unlink()
    assert not [row for row in done.report["rows"] if "memtap-test" in row["path"]]


def test_what_entered_is_what_the_kernel_read_from_storage(
    file: Path, workload: Build, trace: Run
) -> None:
    """read_bytes of the program's taskstats, which the audit shows."""
    evict(file)
    done = trace(workload("reader"), "read", file, "65536")
    entered = sum(row["inserted_pages"] for row in done.report["rows"])
    assert entered >= PAGES
    assert abs(done.audit["kernel"]["read_bytes"] - entered * PAGE) <= 64 * PAGE


def test_faults_of_a_program_are_those_that_it_counted(
    file: Path, workload: Build, trace: Run
) -> None:
    evict(file)
    done = trace(workload("mapper"), "random", file)
    assert PAGES <= done.audit["kernel"]["ac_majflt"] <= PAGES + 30


@pytest.mark.parametrize(
    "how",
    [
        "os.ftruncate(fd, 0)",
        "os.unlink(p); os.close(fd)",
        "os.open(p, os.O_WRONLY | os.O_TRUNC)",
        "os.rename(p + '.new', p); os.close(fd)",
        "ctypes.CDLL(None).fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(1 << 30))",
        f"mmap.mmap(fd, 100 * {PAGE}).madvise(mmap.MADV_REMOVE)",
    ],
    ids=["truncate", "unlink", "open", "rename", "hole", "madvise"],
)
def test_what_is_taken_away_with_its_file_was_not_evicted(how: str, disk: Path, trace: Run) -> None:
    file = disk / "taken"
    code = f"""
import ctypes, mmap, os, sys
p = sys.argv[1]
open(p + ".new", "w").close()
fd = os.open(p, os.O_RDWR | os.O_CREAT)
ino = os.fstat(fd).st_ino
os.pwrite(fd, bytes(100 * {PAGE}), 0)
os.fsync(fd)
{how}
print(ino)
"""
    done = trace(PYTHON, "-c", code, file)
    (row,) = [row for row in done.report["rows"] if row["ino"] == int(done.stdout)]
    assert (row["evicted_pages"], row["removed_pages"]) == (0, 100)


def test_what_is_replaced_by_another_files_extents_was_not_evicted(disk: Path, trace: Run) -> None:
    code = f"""
import fcntl, os, sys
source, target = (os.open(sys.argv[1] + end, os.O_RDWR | os.O_CREAT) for end in ("", "-copy"))
for fd in (source, target): os.pwrite(fd, bytes(100 * {PAGE}), 0)
os.fsync(target)
fcntl.ioctl(target, 0x40049409, source)  # FICLONE
"""
    with file_system("btrfs", disk) as folder:
        done = trace(PYTHON, "-c", code, folder / "file")
        assert done.status == 0, done.stderr
        row = done.file(folder / "file-copy")
    assert (row["evicted_pages"], row["removed_pages"]) == (0, 100)


def test_pages_of_an_open_file_without_a_name_are_evicted(disk: Path, trace: Run) -> None:
    """What they hold is still there to be read, as it is of temporary files."""
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.unlink(sys.argv[1])
os.pwrite(fd, bytes(100 * {PAGE}), 0)
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
os.pread(fd, 100 * {PAGE}, 0)
print(os.fstat(fd).st_ino)
"""
    done = trace(PYTHON, "-c", code, disk / "nameless")
    (row,) = [row for row in done.report["rows"] if row["ino"] == int(done.stdout)]
    assert (row["evicted_pages"], row["removed_pages"], row["misses_pages"]) == (100, 100, 100)


def test_of_a_file_that_is_cut_the_rest_stays(disk: Path, trace: Run) -> None:
    file = make_file(disk / "cut", 100)
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for page in range(100): os.pread(fd, {PAGE}, page * {PAGE})
os.ftruncate(fd, 30 * {PAGE})
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
"""
    evict(file)
    done = trace(PYTHON, "-c", code, file)
    row = done.file(file)
    assert row["evicted_pages"] + row["removed_pages"] == 100
    assert row["removed_pages"] in range(64, 71), "of a folio across the cut a part may stay"
