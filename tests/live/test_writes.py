"""Writes: a page is dirtied once, until it is clean again; and the kernel's nr_dirtied agrees."""

from __future__ import annotations

import json
import mmap
import os
import platform
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.filesystems import PLENTY, file_system
from tests.live.tracing import (
    PAGE,
    Trace,
    build_32_bit,
    evict,
    has_large_folios,
    kept,
    make_file,
    reporting,
    reports,
)

PAGES = 2000

Build = Callable[[str], Path]
Run = Callable[..., Trace]


@pytest.fixture
def file(disk: Path) -> Path:
    """A file that is on disk, and clean."""
    return make_file(disk / "writes", PAGES)


def agrees_with_kernel(done: Trace) -> bool:
    """Whether nr_dirtied, which counts for the whole host, came about as far."""
    dirtied = sum(row["dirties_pages"] for row in done.report["rows"])
    return abs(int(done.stdout) - dirtied) <= max(8, PAGES // 50)


def test_new_pages_are_dirtied_and_not_missed(disk: Path, workload: Build, trace: Run) -> None:
    path = disk / "new"
    done = trace(workload("writer"), path, "new", str(PAGES), str(PAGE), "1")
    assert done.counts(path) == (0, 0, PAGES)
    assert done.file(path)["write_hit_pct"] == 0.0
    assert agrees_with_kernel(done)


def test_a_page_that_is_dirty_is_not_dirtied_again(disk: Path, workload: Build, trace: Run) -> None:
    path = disk / "again"
    done = trace(workload("writer"), path, "new", str(PAGES), str(PAGE), "5")
    assert done.counts(path) == (0, 0, PAGES)
    assert agrees_with_kernel(done)


def test_writes_to_cached_clean_pages_are_write_hits(
    file: Path, workload: Build, trace: Run
) -> None:
    with kept(file):
        done = trace(workload("writer"), file, "old", str(PAGES), str(PAGE), "1")
    assert done.counts(file) == (0, 0, PAGES)
    assert done.file(file)["write_hit_pct"] == 100.0
    assert agrees_with_kernel(done)


def test_part_of_a_cold_page_makes_it_dirty_and_is_no_write_hit(
    file: Path, workload: Build, trace: Run
) -> None:
    evict(file)
    done = trace(workload("writer"), file, "old", str(PAGES), "100", "1")
    assert done.counts(file) == (0, 0, PAGES)
    assert done.file(file)["write_hit_pct"] == 0.0
    assert agrees_with_kernel(done)


def test_direct_writes_are_nothing(file: Path, workload: Build, trace: Run) -> None:
    evict(file)
    done = trace(workload("writer"), file, "direct", str(PAGES), str(PAGE), "1")
    assert done.counts(file) == (0, 0, 0)


def test_direct_reads_are_nothing(file: Path, trace: Run) -> None:
    evict(file)
    done = trace("dd", f"if={file}", "of=/dev/null", "bs=64k", "iflag=direct")
    assert done.counts(file) == (0, 0, 0)


# What else of a large folio is dirty is not the program's doing.

SCATTER = """
import ctypes, json, mmap, os, random, sys
PAGE = os.sysconf("SC_PAGESIZE")
CACHESTAT = 451  # cachestat(2): cached, dirty, under writeback and evicted pages
folder, seed, ways = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
choose = random.Random(seed)
source = os.open(folder + "/source", os.O_RDONLY)

def write(fd, way, at, length):
    data = bytes(length)
    if way == "pwrite": return os.pwrite(fd, data, at)
    if way == "pwritev": return os.pwritev(fd, [data[:1], data[1:]], at)
    os.lseek(fd, at, os.SEEK_SET)
    if way == "write": return os.write(fd, data)
    if way == "writev": return os.writev(fd, [data[:length // 2], data[length // 2:]])
    if way == "sendfile": return os.sendfile(fd, source, 0, min(length, 1 << 18))
    if way == "store":
        with mmap.mmap(fd, 0) as view: view[at] = 1
        return 1
    out, into = os.pipe()
    os.write(into, data[:60000])
    return os.splice(out, fd, len(data[:60000]))

def is_cleaned(fd, pages):
    # Whether somebody else wrote back what is dirty: it is dirtied again then.
    all_of_it, counts = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 5)()
    libc.syscall(CACHESTAT, fd, all_of_it, counts, 0)
    return counts[0] and counts[1] < len(pages)

libc = ctypes.CDLL(None)
truth = {}
for path in sorted(os.listdir(folder)):
    if not path.isdigit(): continue
    fd = os.open(f"{folder}/{path}", os.O_RDWR)
    size = os.fstat(fd).st_size
    block = choose.choice([1 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 20])
    for at in range(0, size if choose.random() < 0.8 else 0, block):
        os.pread(fd, block, at)  # in blocks like these it comes in as large folios
    dirty, count = set(), 0
    for _ in range(choose.randint(1, 60)):
        if choose.random() < 0.05:
            os.fsync(fd)
            dirty.clear()
        way = choose.choice(ways)
        length = choose.choice([1, 100, PAGE - 1, PAGE, PAGE + 1, choose.randint(1, 80 * PAGE)])
        at = choose.choice([choose.randrange(size), choose.randrange(size) // PAGE * PAGE])
        done = write(fd, way, at, length)
        pages = set(range(at // PAGE, -(-(at + done) // PAGE)))
        count += len(pages - dirty)
        dirty |= pages
        if is_cleaned(fd, dirty): break
    else:
        truth[path] = count
    os.close(fd)
print(json.dumps(truth))
"""
FILES_AT_ONCE = 20
CALLS = ("pwrite", "write", "writev", "pwritev", "sendfile", "splice")


def bound_of(done: Trace) -> int:
    """How many pages more can have been dirtied than were counted."""
    notes = [note for note in done.audit["notes"] if "dirtied" in note]
    assert len(notes) == (done.audit["accuracy"] == "bounded"), done.audit
    return sum(int(note.split()[2]) for note in notes)


def check_scattered(folder: Path, trace: Run, ways: tuple[str, ...] = CALLS) -> None:
    """The pages of each file that random writes dirtied are counted.

    Left out are files that somebody else wrote back meanwhile. On btrfs nobody tells which pages of
    a large folio are written; then the counts are bounded.
    """
    source = make_file(folder / "source", 64)
    files = [
        make_file(folder / f"{number}", random.randint(1, 300), random.choice([0, 17, 4000]))
        for number in range(FILES_AT_ONCE)
    ]
    evict(*files)
    is_exact = "btrfs" not in folder.name or not has_large_folios(source)
    seed = random.randrange(1 << 30)
    done = trace("/usr/bin/python3", "-c", SCATTER, folder, str(seed), *ways)
    assert done.status == 0, done.stderr
    truth = json.loads(done.stdout)
    assert len(truth) > FILES_AT_ONCE // 2, "somebody writes back what is dirty"
    counted = {name: done.counts(folder / name)[2] for name in truth}
    if is_exact:
        assert done.audit["accuracy"] == "exact", done.audit["notes"]
        assert counted == truth
    else:
        assert all(counted[name] <= truth[name] for name in truth)
        assert sum(truth.values()) <= sum(counted.values()) + bound_of(done)


@pytest.fixture
def no_writeback() -> Iterator[None]:
    """The kernel does not write by itself what has been dirty for long: that makes it clean."""
    interval = Path("/proc/sys/vm/dirty_writeback_centisecs")
    before = interval.read_text()
    interval.write_text("0")
    yield
    interval.write_text(before)


@pytest.mark.usefixtures("no_writeback")
@pytest.mark.parametrize("kind", ["ext4", "ext4-1k", "ext2", "xfs", "btrfs"])
def test_pages_that_are_written_to_are_dirtied_whatever_their_folio(
    kind: str, disk: Path, trace: Run
) -> None:
    """Random writes in random ways to files whose folios have random sizes."""
    with file_system(kind, disk) as folder:
        check_scattered(folder, trace)


# A page that is written back between two writes to it is dirtied twice. The kernel does so early on
# a host where much is dirty, so nobody knows the truth where the device was written to.

# Else ext4 writes tables that mkfs left out, and its journal every 5 seconds.
SILENT = {"ext4": "noinit_itable,commit=1000"}


def writes_to(folder: Path) -> tuple[str, str]:
    """Sectors written to the device of a file system, and requests that are on their way."""
    number = folder.stat().st_dev
    path = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    fields = path.read_text().split()  # Documentation/block/stat.rst
    return fields[6], fields[8]


def traced_without_writeback(
    kind: str, disk: Path, trace: Run, code: str, arguments: Callable[[Path], list[str]]
) -> tuple[dict[str, int], Trace]:
    """Runs Python code on a new file system; dirties of its files by name.

    `arguments` prepares its files. What somebody wrote back meanwhile is done once more.
    """
    for _ in range(5):
        with file_system(kind, disk, options=SILENT.get(kind, "")) as folder:
            words = arguments(folder)
            before = writes_to(folder)
            done = trace("/usr/bin/python3", "-c", code, folder, *words)
            if writes_to(folder) == before:
                assert done.status == 0, done.stderr
                return {f.name: done.counts(f)[2] for f in folder.iterdir() if f.is_file()}, done
    pytest.fail("somebody writes back what is dirty")


# bytes() of this size is memory that was never touched: the kernel copies as far as it is there.

UNTOUCHED = """
import os, sys
for number, (at, size, calls) in enumerate([
    (0, 163840, 1), (4096, 163840, 3), (100, 163840, 3), (3000, 200000, 2), (20487, 819200, 3)
]):
    fd = os.open(f"{sys.argv[1]}/{number}", os.O_RDWR | os.O_CREAT)
    for call in range(calls):
        os.pwrite(fd, bytes(size), at + call * size)
    print(-(-(at + calls * size) // 4096) - at // 4096)
"""


@pytest.mark.usefixtures("no_writeback")
@pytest.mark.parametrize("kind", ["ext4", "ext2", "xfs"])
def test_pages_of_which_the_copy_was_short_are_dirtied_once(
    kind: str, disk: Path, trace: Run
) -> None:
    """Without delayed allocation ext4 takes such a page away again, and has then dirtied it."""
    found, done = traced_without_writeback(kind, disk, trace, UNTOUCHED, lambda folder: [])
    truth = {str(number): int(pages) for number, pages in enumerate(done.stdout.split())}
    assert found == truth
    assert done.audit["accuracy"] == "exact"


# On XFS, of which the kernel tells what a write is to reach before it does.

LARGE = f"""
import ctypes, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
def write(pages):
    os.pwrite(fd, bytes(pages * {PAGE}), 0)
    os.fsync(fd)
write(64)  # a folio of as many pages
"""


@pytest.mark.usefixtures("no_writeback")
def test_a_write_whose_buffer_ends_early_dirties_what_it_reached(disk: Path, trace: Run) -> None:
    code = f"""{LARGE}
libc, libc.mmap.restype = ctypes.CDLL(None), ctypes.c_void_p
buffer = libc.mmap(None, 32 * {PAGE}, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
libc.mprotect(ctypes.c_void_p(buffer + 4 * {PAGE}), 28 * {PAGE}, 0)
print(libc.pwrite(fd, ctypes.c_void_p(buffer), 32 * {PAGE}, ctypes.c_long(0)) // {PAGE})
os.pwrite(fd, b"x", 10 * {PAGE})
"""
    with file_system("xfs", disk) as folder:
        done = trace("/usr/bin/python3", "-c", code, folder / "file")
        assert done.stdout == "4\n"
        assert done.counts(folder / "file")[2] == 64 + 4 + 1
    assert done.audit["accuracy"] == "exact"


@pytest.mark.usefixtures("no_writeback")
@pytest.mark.parametrize(
    "how",
    [
        f"os.ftruncate(fd, 40 * {PAGE} + 100)",
        f"libc.fallocate(fd, 0x10, ctypes.c_long(40 * {PAGE} + 100), ctypes.c_long(200))",
        f"libc.fallocate(fd, 3, ctypes.c_long(40 * {PAGE} + 100), ctypes.c_long(200))",
    ],
    ids=["truncate", "zero", "hole"],
)
def test_a_page_of_which_a_part_becomes_zeros_is_dirtied_alone(
    how: str, disk: Path, trace: Run
) -> None:
    """Not what the write before had reached, which is clean again."""
    code = f"{LARGE}\nlibc = ctypes.CDLL(None)\nwrite(50)\n{how}"
    with file_system("xfs", disk) as folder:
        done = trace("/usr/bin/python3", "-c", code, folder / "file")
        assert done.counts(folder / "file")[2] == 64 + 50 + 1
    assert done.audit["accuracy"] == "exact"


@pytest.mark.usefixtures("no_writeback")
@pytest.mark.parametrize("kind", ["xfs", "ext4", "ext4-1k"])
def test_a_store_by_the_kernel_is_not_the_write_before(kind: str, disk: Path, trace: Run) -> None:
    """A read() into a mapping stores into one page."""
    code = f"""{LARGE}
write(50)
os.preadv(os.open("/proc/self/exe", os.O_RDONLY),
          [memoryview(mmap.mmap(fd, 0))[30 * {PAGE}:31 * {PAGE}]], 0)
"""
    with file_system(kind, disk) as folder:
        done = trace("/usr/bin/python3", "-c", code, folder / "file")
        assert done.status == 0, done.stderr
        assert done.counts(folder / "file")[2] == 64 + 50 + 1


@pytest.mark.parametrize("length", [1, 60])
def test_small_files_that_are_in_their_inodes_are_hit(length: int, disk: Path, trace: Run) -> None:
    """What is written to them never becomes dirty, and is in the page cache all the same."""
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(fd, bytes({length}), 0)
for _ in range(3): os.pread(fd, 100, 0)
"""
    with file_system("ext4-inline", disk) as folder:
        done = trace("/usr/bin/python3", "-c", code, folder / "file")
        assert done.counts(folder / "file") == (3, 0, 0)


LENGTHENS = """
import os, sys
for name, at, size in [word.split(":") for word in sys.argv[2:]]:
    fd = os.open(f"{sys.argv[1]}/{name}", os.O_RDWR)
    assert os.pwrite(fd, bytes(int(size)), int(at)) == int(size)
"""
LENGTHENED = 150


@pytest.mark.usefixtures("no_writeback")
@pytest.mark.parametrize("kind", ["ext4", "ext2", "xfs"])
def test_pages_of_short_copies_around_the_end_of_a_cold_file_are_dirtied_once(
    kind: str, disk: Path, trace: Run
) -> None:
    """ext4 takes away again what can begin in the middle of a folio; every third file is a hole."""
    truth: dict[str, int] = {}

    def calls(folder: Path) -> list[str]:
        words = []
        for number in range(LENGTHENED):
            file = make_file(folder / f"{number}", 0)
            old, size = random.randrange(1, 400_000), random.randrange(140_000, 600_000)
            os.truncate(file, old) if number % 3 == 0 else file.write_bytes(os.urandom(old))
            start = random.randrange(old)
            at = random.choice([start, start // PAGE * PAGE, 0])
            words.append(f"{number}:{at}:{size}")
            truth[file.name] = -(-(at + size) // PAGE) - at // PAGE
        evict(*(folder / name for name in truth))
        return words

    found, done = traced_without_writeback(kind, disk, trace, LENGTHENS, calls)
    assert found == truth
    assert done.audit["accuracy"] == "exact"


@pytest.mark.usefixtures("no_writeback")
@pytest.mark.parametrize("ways", [("store",), ("store", "pwrite"), ("store", *CALLS)])
def test_stores_mixed_with_writes_are_exact_where_folios_are_pages(
    ways: tuple[str, ...], disk: Path, trace: Run
) -> None:
    """On btrfs, which writes pages back by itself when it runs short of room: here it has plenty.

    A page that was written back is dirtied again, and the program cannot know.
    """
    with file_system("btrfs", disk, PLENTY) as folder:
        check_scattered(folder, trace, ways)


def test_what_the_kernel_counts_as_dirty_is_told_apart(file: Path, trace: Run) -> None:
    """Read 16 KiB at a time, the file comes in as large folios; the kernel dirties whole ones."""
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for at in range(0, {PAGES * PAGE}, 1 << 14): os.pread(fd, 1 << 14, at)
dirtied = lambda: int(open("/proc/self/io").read().split("write_bytes: ")[1].split()[0])
before = dirtied()
for page in range(5, {PAGES}, 500): os.pwrite(fd, b"x", page * {PAGE})
print((dirtied() - before) // {PAGE})
"""
    evict(file)
    done = trace("/usr/bin/python3", "-c", code, file)
    row = done.file(file)
    assert row["dirties_pages"] == len(range(5, PAGES, 500))
    assert row["dirty_folio_pages"] == int(done.stdout)


def test_stores_through_a_mapping_are_bounded(file: Path, trace: Run) -> None:
    code = f"""
import mmap, os, random, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for at in range(0, {PAGES * PAGE}, 1 << 14): os.pread(fd, 1 << 14, at)
view = mmap.mmap(fd, 0)
pages = random.sample(range({PAGES}), 300)
for page in pages: view[page * {PAGE}] = 1
"""
    evict(file)
    done = trace("/usr/bin/python3", "-c", code, file)
    row = done.file(file)
    assert row["dirties_pages"] <= 300 <= row["dirty_folio_pages"]
    if row["dirties_pages"] < 300:
        assert done.audit["accuracy"] == "bounded"
        assert row["dirties_pages"] + bound_of(done) >= 300


def test_stores_to_folios_that_writes_made_dirty_are_bounded(file: Path, trace: Run) -> None:
    """Nothing is told of them; and nobody had the file mapped when its folios became dirty."""
    code = f"""
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for at in range(0, {PAGES * PAGE}, 1 << 17): os.pread(fd, 1 << 17, at)
for page in range(0, {PAGES}, 64): os.pwrite(fd, b"x", page * {PAGE})
view = mmap.mmap(fd, 0)
for page in range(3, {PAGES}, 64): view[page * {PAGE}] = 1
for page in range(5, {PAGES}, 64): os.pwrite(fd, b"x", page * {PAGE})
"""
    evict(file)
    done = trace("/usr/bin/python3", "-c", code, file)
    truth = sum(len(range(first, PAGES, 64)) for first in (0, 3, 5))
    assert done.counts(file)[2] <= truth <= done.counts(file)[2] + bound_of(done)
    assert done.counts(file)[2] == truth or done.audit["accuracy"] == "bounded"


@pytest.mark.usefixtures("no_writeback")
@pytest.mark.parametrize("how", ["truncate", "hole"])
def test_pages_that_are_cut_off_a_dirty_folio_are_dirtied_again(
    how: str, disk: Path, trace: Run
) -> None:
    """The folio stays, and dirty; its pages behind the end, or in the hole, are clean."""
    cut = {
        "truncate": f"os.ftruncate(fd, 21 * {PAGE} + 7)",
        "hole": f"libc.fallocate(fd, 3, ctypes.c_long(21 * {PAGE}), ctypes.c_long(9 * {PAGE}))",
    }
    code = f"""{LARGE}
libc = ctypes.CDLL(None)
os.pwrite(fd, bytes(64 * {PAGE}), 0)
{cut[how]}
os.pwrite(fd, bytes(10 * {PAGE}), 20 * {PAGE})
"""
    with file_system("ext4", disk) as folder:
        done = trace("/usr/bin/python3", "-c", code, folder / "file")
        again = 8 if how == "truncate" else 9
        assert done.counts(folder / "file")[2] == 64 + 64 + again
    assert done.audit["accuracy"] == "exact"


# What no storage is behind.


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A file system that is in memory alone, and whose files the page cache has all the same."""
    point = tmp_path / "ramfs"
    point.mkdir()
    subprocess.check_call(["mount", "-t", "ramfs", "ramfs", point])
    yield point
    subprocess.check_call(["umount", point])


@pytest.mark.parametrize("length", [PAGE, 100, 5 * PAGE + 7])
def test_what_a_write_brought_in_without_storage_is_hit(
    length: int, memory: Path, trace: Run
) -> None:
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for at in range(0, 300 * {PAGE}, {PAGE}): os.pwrite(fd, bytes({length}), at)
for at in range(0, 300 * {PAGE}, {PAGE}): os.pread(fd, {PAGE}, at)
"""
    done = trace("/usr/bin/python3", "-c", code, memory / "file")
    assert done.counts(memory / "file")[:2] == (300, 0)


@pytest.fixture
def through(tmp_path: Path, disk: Path) -> Iterator[Path]:
    """A file system in user space that writes through: what is written is never dirty."""
    if not shutil.which("bindfs"):
        pytest.skip("bindfs is not installed")
    behind, point = disk / f"behind-{tmp_path.name}", tmp_path / "through"
    behind.mkdir()
    point.mkdir()
    subprocess.check_call(["bindfs", behind, point])
    yield point
    subprocess.check_call(["umount", point])


def daemon_reads(point: Path) -> int:
    """How many bytes the daemon behind a mount has read from files, by its /proc/PID/io."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            if command[0] == b"bindfs" and os.fsencode(point) in command:
                return int((process / "io").read_text().split()[1])
        except OSError:
            continue
    raise AssertionError("no daemon")


@pytest.mark.parametrize("way", ["pwrite", "write", "writev", "append"])
def test_pages_that_are_written_through_are_in_the_cache(
    way: str, through: Path, trace: Run
) -> None:
    code = f"""
import os, sys
path, way = sys.argv[1:]
fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_APPEND if way == "append" else 0))
for page in range(500):
    data = bytes({PAGE})
    if way == "pwrite": os.pwrite(fd, data, page * {PAGE})
    elif way == "writev": os.writev(fd, [data[:10], data[10:100], data[100:]])
    else: os.write(fd, data)
for page in range(500): os.pread(fd, {PAGE}, page * {PAGE})
"""
    done = trace("/usr/bin/python3", "-c", code, through / "file", way)
    assert done.counts(through / "file") == (500, 0, 0)


@pytest.mark.parametrize(("parts", "accuracy"), [(8, "exact"), (20, "bounded")])
def test_what_is_written_through_in_many_parts_is_bounded(
    parts: int, accuracy: str, through: Path, trace: Run
) -> None:
    """How far more than 8 parts go is not added up, so nobody knows which pages they fill."""
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.writev(fd, [bytes({PAGE})] * {parts})
os.pread(fd, {PAGE} * {parts}, 0)
"""
    done = trace("/usr/bin/python3", "-c", code, through / "file")
    hits, misses, _ = done.counts(through / "file")
    assert (hits + misses, done.audit["accuracy"]) == (parts, accuracy)
    assert misses <= through_bound(done)


def through_bound(done: Trace) -> int:
    """How many misses may be hits, by what the audit says of writes through."""
    notes = [note for note in done.audit["notes"] if "written through" in note]
    return sum(int(note.split()[-4]) for note in notes)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64 alone")
def test_what_32_bit_programs_write_through_is_bounded(
    through: Path, tmp_path: Path, trace: Run
) -> None:
    program = build_32_bit("reader32", tmp_path)
    done = trace(program, "write", through / "file", "50")
    hits, misses, _ = done.counts(through / "file")
    assert (hits + misses, done.audit["accuracy"]) == (50, "bounded")
    assert misses <= through_bound(done)


def test_the_journal_of_ext4_dirties_no_page_of_a_file(disk: Path, tmp_path: Path) -> None:
    """With data=journal it makes pages dirty once more when it has written them."""
    out, pages = tmp_path / "report.json", 34
    with file_system("ext4", disk, options="data=journal") as folder:
        with reporting(out, "cachetop", "0.5", "-b", "process,file", "-f", "json") as process:
            with (folder / "stored").open("w+b") as file:
                file.truncate(100 * PAGE)
                with mmap.mmap(file.fileno(), 100 * PAGE) as view:
                    for page in range(pages):
                        view[3 * page * PAGE] = 1
                    view.flush()
            os.sync()
            process.send_signal(signal.SIGINT)
            process.wait()
        path = str(folder / "stored")
    mine = [row for report in reports(out.read_text()) for row in report["rows"]]
    mine = [row for row in mine if row["path"] == path]
    journal = [row for row in mine if row["comm"].startswith("jbd2")]
    assert sum(row["dirties_pages"] for row in mine) == pages
    assert sum(row["dirties_pages"] for row in journal) == 0
    assert sum(row["dirty_folio_pages"] for row in journal) > 0


def test_a_page_of_which_a_part_was_written_through_has_to_be_read(
    through: Path, trace: Run
) -> None:
    """The daemon is asked for it; so it is missed."""
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for page in range(100): os.pwrite(fd, b"x", page * {PAGE})
for _ in range(2):
    for page in range(99): os.pread(fd, {PAGE}, page * {PAGE})
"""
    before = daemon_reads(through)
    done = trace("/usr/bin/python3", "-c", code, through / "file")
    assert daemon_reads(through) - before >= 99 * PAGE
    assert done.counts(through / "file") == (99, 99, 0)
