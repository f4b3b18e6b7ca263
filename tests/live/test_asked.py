"""Files of which some pages are cached, read in every way, on several file systems.

MEMTAP_CASES is how many cases are tried, MEMTAP_SEED which ones.
"""

from __future__ import annotations

import ctypes
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from memtap.tracers.pagecache.counts import BATCH
from tests.live.asking import Case, cache_some, case_at_random, ways
from tests.live.filesystems import MAKE, file_system, make_image, squashfs
from tests.live.tracing import (
    PAGE,
    Trace,
    build_32_bit,
    evict,
    has_io_uring,
    kept,
    make_file,
    reporting,
    reports,
)

Build = Callable[[str], Path]
Run = Callable[..., Trace]

CASES = int(os.environ.get("MEMTAP_CASES", "75"))
SEED = int(os.environ.get("MEMTAP_SEED", "0")) or random.randrange(1 << 30)
FILES = 15  # of each file system
MOST_PAGES = 600

KINDS = ("xfs", "btrfs", "ext4-1k", "xfs-16k")
IMAGE_BYTES = 400 << 20


def mount(stack: ExitStack, kind: str, disk: Path) -> Path | None:
    """A folder on a new file system; None if it cannot be made here, or mounted."""
    if not shutil.which(MAKE[kind][0]):
        return None
    image, place = disk / f"{kind}.image", disk / kind
    make_image(kind, image, IMAGE_BYTES)
    stack.callback(image.unlink)
    place.mkdir()
    stack.callback(place.rmdir)
    if subprocess.run(["mount", "-o", "loop", image, place]).returncode:
        return None
    stack.callback(subprocess.check_call, ["umount", place])
    return place


@pytest.fixture(scope="module")
def files(disk: Path) -> Iterator[list[Path]]:
    """Files of all sizes on all file systems that there can be, the disk's own first."""
    dice = random.Random(SEED)
    with ExitStack() as stack:
        folders = [disk, *filter(None, (mount(stack, kind, disk) for kind in KINDS))]
        yield [
            make_file(folder / f"asked-{n}", dice.randrange(MOST_PAGES), dice.randrange(1, PAGE))
            for folder in folders
            for n in range(FILES)
        ]


def ways_for(file: Path, disk: Path) -> list[str]:
    """What is exact and does not go past the page cache.

    copy_file_range(2) makes extents shared where it can, and does not leave its file system.
    """
    return [way for way in ways() if way != "copy" or file.parent == disk]


def test_reads_at_random(
    files: list[Path], disk: Path, workload: Build, tmp_path: Path, trace: Run
) -> None:
    """Counted for each file as mincore(2), the calls' results and getrusage(2) have it."""
    dice = random.Random(SEED)
    for _ in range(max(CASES // len(files), 1)):
        cases = [case_at_random(dice, file, ways_for(file, disk)) for file in files]
        done = run(cases, (workload("asker"), disk / "copied"), tmp_path, trace)
        assert done.audit["accuracy"] == "exact"
        assert wrong(cases, done) == [], f"MEMTAP_SEED={SEED}"


def run(
    cases: list[Case], asker: tuple[Path, Path], folder: Path, trace: Callable[..., Trace]
) -> Trace:
    """All cases under one memtap."""
    script = folder / "script"
    script.write_text("".join(case.lines for case in cases))
    done = trace("sh", "-c", f"exec {asker[0]} {asker[1]} < {script}")
    assert done.status == 0, done.stderr
    return done


def wrong(cases: list[Case], done: Trace) -> list[tuple[Case, tuple[int, int], tuple[int, int]]]:
    """The cases of which not the truth was counted: the truth, and what was.

    Left out are files of which the kernel took pages away meanwhile: nobody knows before what.
    """
    lines = done.stdout.splitlines()
    found = []
    for case, cached, got in zip(cases, lines[::2], lines[1::2], strict=True):
        truth, counted = case.truth(cached, got), done.counts(case.file)[:2]
        if truth != counted and not done.file(case.file).get("evicted_pages"):
            found.append((case, truth, counted))
    return found


@pytest.mark.parametrize("way", ["uring-batch", "uring-async", "uring-sqpoll"])
def test_each_process_has_its_own_requests(
    way: str, disk: Path, workload: Build, tmp_path: Path, trace: Run
) -> None:
    """Two read halves of one file at the same time."""
    if not has_io_uring():
        pytest.skip("no io_uring")
    half, block = 1920, 32 * PAGE
    file = make_file(disk / "halves", 2 * half)
    evict(file)
    asker, scripts = workload("asker"), [tmp_path / "first", tmp_path / "second"]
    for script, begin in zip(scripts, (0, half * PAGE), strict=True):
        reads = [(at, block) for at in range(begin, begin + half * PAGE, block)]
        script.write_text(Case(way, file, 0, reads).lines)
    line = "".join(f"{asker} {tmp_path}/copied < {script} & " for script in scripts)
    done = trace("sh", "-c", f"{line} wait")
    rows = [
        row for row in done.replay("cachetop", "-b", "process,file") if row["path"] == str(file)
    ]
    asked = [row["hits_pages"] + row["misses_pages"] for row in rows]
    assert (asked, done.audit["accuracy"]) == ([half, half], "exact")


@contextmanager
def loop_device(file: Path) -> Iterator[str]:
    """A loop device that reads a file."""
    command = ["losetup", "-f", "--show", file]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        pytest.skip("this kernel has no loop devices")
    yield found.stdout.strip()
    subprocess.check_call(["losetup", "-d", found.stdout.strip()])


@pytest.fixture
def looped(disk: Path) -> Iterator[tuple[Path, str]]:
    """A file and a loop device that reads it."""
    file = make_file(disk / "looped", 1000)
    with loop_device(file) as device:
        yield file, device


def counted_behind(device: str, file: Path, folder: Path, block: str) -> tuple[int, int]:
    """Hits and misses of the file while the device is read once."""
    subprocess.check_call(["blockdev", "--flushbufs", device])
    out = folder / "looped.json"
    out.unlink(missing_ok=True)
    with reporting(out, "cachetop", "0.5", "-b", "file", "-f", "json") as process:
        command = ["dd", f"if={device}", "of=/dev/null", f"bs={block}"]
        subprocess.check_call(command, stderr=subprocess.DEVNULL)
        process.send_signal(signal.SIGINT)
        process.wait()
    rows = [row for report in reports(out.read_text()) for row in report["rows"]]
    mine = [row for row in rows if row["path"] == str(file)]
    return sum(row["hits_pages"] for row in mine), sum(row["misses_pages"] for row in mine)


@pytest.mark.parametrize("block", ["4k", "64k", "1M"])
def test_a_loop_device_reads_each_page_of_its_file_once(
    block: str, looped: tuple[Path, str], tmp_path: Path
) -> None:
    file, device = looped
    evict(file)
    assert counted_behind(device, file, tmp_path, block) == (0, 1000)
    with kept(file):
        assert counted_behind(device, file, tmp_path, block) == (1000, 0)


def test_a_loop_device_over_overlayfs_reads_each_page_once(disk: Path, tmp_path: Path) -> None:
    """The pages are those of the file below."""
    with ExitStack() as stack:
        folder = overlay(stack, disk)
        file = make_file(folder / "image", 1000)
        below = folder.parent / "upper/image"
        device = stack.enter_context(loop_device(file))
        evict(below)
        assert counted_behind(device, below, tmp_path, "64k") == (0, 1000)


# What is not exact.


@pytest.mark.parametrize("reads", [1, 3])
def test_reads_past_the_end_on_squashfs_are_said_to_be_missing(
    reads: int, disk: Path, trace: Run
) -> None:
    """The note is there though nothing is told of them; what is read is `bounded`."""
    code = "import os, sys; fd = os.open(sys.argv[1], 0)\n"
    code += f"for _ in range({reads}): os.pread(fd, 1 << 17, 0)"
    with squashfs({"small": os.urandom(5 * PAGE + 7)}, disk) as folder:
        for accuracies in (["bounded"], ["bounded", "exact"]):
            done = trace("/usr/bin/python3", "-c", code, folder / "small")
            assert done.audit["accuracy"] in accuracies
            assert sum(done.counts(folder / "small")) <= 6 * reads
            assert any("squashfs is mounted" in note for note in done.audit["notes"])


def overlay(stack: ExitStack, disk: Path) -> Path:
    """An overlayfs over a folder of the disk."""
    root = Path(tempfile.mkdtemp(prefix="overlay-", dir=disk))
    lower, upper, work, point = (root / name for name in ("lower", "upper", "work", "point"))
    for folder in (lower, upper, work, point):
        folder.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    command = ["mount", "-t", "overlay", "-o", options, "overlay", point]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("no overlayfs")
    stack.callback(subprocess.check_call, ["umount", "--lazy", point])
    return point


@pytest.mark.parametrize("way", ["uring-skip", "uring-skip-async", "uring-skip-sqpoll"])
def test_silent_requests_through_overlayfs_are_exact_or_bounded(
    way: str, disk: Path, workload: Build, tmp_path: Path, trace: Run
) -> None:
    """A worker knows its request; who has it on its stack only may not find it."""
    if not has_io_uring():
        pytest.skip("no io_uring")
    reads = [(0, 1 << 18), (1 << 18, 300_000), (5, 100), (100_000, 1 << 19)]
    with ExitStack() as stack:
        folder = overlay(stack, disk)
        file = make_file(folder / "over", 400)
        evict(file)
        case = Case(way, file, 0, reads)
        done = run([case, case], (workload("asker"), disk / "copied"), tmp_path, trace)
    cached, got = done.stdout.splitlines()[:2]
    hits, misses = case.truth(cached, got)
    row = next(row for row in done.report["rows"] if row["path"].endswith("/over"))
    counted = row["hits_pages"], row["misses_pages"]
    if done.audit["accuracy"] == "exact":
        assert counted == (2 * hits + misses, misses)
    else:
        assert sum(counted) <= 2 * (hits + misses)


def off_by(done: Trace, file: Path, truth: tuple[int, int]) -> tuple[int, int]:
    """How many pages were counted wrong, and how many the audit says it can be."""
    counted = done.counts(file)[:2]
    notes = [note for note in done.audit["notes"] if note.startswith("where")]
    bound = sum(int(note.split()[1]) for note in notes) * BATCH
    return max(abs(one - other) for one, other in zip(counted, truth, strict=True)), bound


# Reads with flags of preadv2(2), and prints for each page whether it was cached, and what was got.
FLAGGED = """
import os, pathlib, sys
from tests.live.tracing import cached_pages
path, flags, size, parts = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
print("".join(map(str, cached_pages(path))))
fd, got = os.open(path, os.O_RDONLY), []
for at in range(0, path.stat().st_size, size):
    try:
        got.append(os.preadv(fd, [bytearray(size // parts) for _ in range(parts)], at, flags))
    except BlockingIOError:
        got.append(0)
print(*got)
"""
RWF_NOWAIT, RWF_DONTCACHE = 8, 128


def flagged(
    file: Path, trace: Run, flags: int, size: int, parts: int = 1
) -> tuple[Trace, tuple[int, int]]:
    """Reads of a file in a row, and what is true of them."""
    done = trace(sys.executable, "-c", FLAGGED, file, str(flags), str(size), str(parts))
    if "not supported" in done.stderr:
        pytest.skip("this kernel has no such flag")
    assert done.status == 0, done.stderr
    cached, got = done.stdout.splitlines()
    reads = [(at, size) for at in range(0, file.stat().st_size, size)]
    return done, Case("preadv2", file, 0, reads).truth(cached, got)


@pytest.mark.parametrize("size", [16 * PAGE, 300 * PAGE])
def test_reads_that_do_not_wait_are_bounded(size: int, disk: Path, trace: Run) -> None:
    """They end where the next page is not cached; the kernel tells how far they were to go."""
    file = make_file(disk / f"nowait-{size}", 1000)
    evict(file)
    with kept(file, 400):
        done, truth = flagged(file, trace, RWF_NOWAIT, size)
    off, bound = off_by(done, file, truth)
    assert sum(truth) in range(400, 1000)
    assert off <= bound
    assert done.audit["accuracy"] == "bounded"


def test_requests_that_do_not_wait_are_bounded(
    disk: Path, workload: Build, tmp_path: Path, trace: Run
) -> None:
    """Of io_submit(2), as those of preadv2(2)."""
    file = make_file(disk / "nowait-aio", 1000)
    evict(file)
    reads = [(at * PAGE, 16 * PAGE) for at in range(0, 1000, 20)]
    case = Case("aio-nowait", file, 1, reads)
    with kept(file, 405):
        done = run([case], (workload("asker"), disk / "copied"), tmp_path, trace)
    truth = case.truth(*done.stdout.splitlines())
    off, bound = off_by(done, file, truth)
    assert sum(truth) in range(325, 1000)
    assert off <= bound
    assert done.audit["accuracy"] == "bounded"


def test_pages_that_a_read_drops_behind_it_were_missed(disk: Path, trace: Run) -> None:
    file = make_file(disk / "dropped", 1000)
    evict(file)
    with kept(file, every=3):
        done, truth = flagged(file, trace, RWF_DONTCACHE, 16 * PAGE)
    assert (done.counts(file)[:2], done.audit["accuracy"]) == (truth, "exact")


def test_long_vectors_in_large_blocks_are_exact_or_bounded(files: list[Path], trace: Run) -> None:
    """Whole blocks are looked up, and how much of the last was asked for is not added up."""
    found = [file for file in files if file.parent.name == "xfs-16k" and file.stat().st_size]
    if not found:
        pytest.skip("no blocks that are larger than pages")
    done, truth = flagged(found[0], trace, 0, 5000, parts=20)
    off, bound = off_by(done, found[0], truth)
    assert off <= bound


def test_direct_requests_that_fall_back_to_the_page_cache_are_bounded(
    disk: Path, workload: Build, tmp_path: Path, trace: Run
) -> None:
    """What btrfs has compressed cannot be read past the page cache."""
    if not has_io_uring() or not shutil.which("chattr"):
        pytest.skip("no io_uring, or no chattr")
    with file_system("btrfs", disk) as folder:
        subprocess.check_call(["chattr", "+c", folder])
        file = folder / "compressed"
        file.write_bytes(b"compressible" * (100 * PAGE // 4))
        evict(file)
        case = Case("uring-direct", file, 0, [(at * PAGE, 5 * PAGE) for at in range(0, 300, 5)])
        done = run([case], (workload("asker"), disk / "copied"), tmp_path, trace)
        off, bound = off_by(done, file, case.truth(*done.stdout.splitlines()))
    assert off <= bound
    assert done.audit["accuracy"] == "bounded"


@contextmanager
def erofs(files: dict[str, bytes], folder: Path) -> Iterator[Path]:
    """An erofs of these files, mounted without a loop device; skips the test if it cannot be."""
    if not shutil.which("mkfs.erofs"):
        pytest.skip("mkfs.erofs is not installed")
    source, point = (Path(tempfile.mkdtemp(prefix="erofs-", dir=folder)) for _ in range(2))
    image = point.with_suffix(".img")
    for name, content in files.items():
        (source / name).write_bytes(content)
    subprocess.check_call(["mkfs.erofs", image, source], stdout=subprocess.DEVNULL)
    evict(image)
    libc, place = ctypes.CDLL(None, use_errno=True), os.fsencode(point)
    if libc.mount(os.fsencode(image), place, b"erofs", 1, None):
        pytest.skip("this kernel mounts no erofs from a file")
    yield point
    subprocess.check_call(["umount", point])


def test_a_file_for_which_another_one_is_read_is_exact(
    disk: Path, workload: Build, trace: Run
) -> None:
    """The image is read in the same call: what is known of the file is not mixed up with it."""
    with erofs({"file": os.urandom(100 * PAGE)}, disk) as folder:
        done = trace(workload("reader"), "pread", folder / "file", "300000")
        assert done.counts(folder / "file") == (1, 100, 0)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64 alone")
def test_reads_of_32_bit_programs_are_bounded(disk: Path, tmp_path: Path, trace: Run) -> None:
    """The arguments of their calls are not looked at."""
    program, dice = build_32_bit("reader32", tmp_path), random.Random(SEED)
    file = make_file(disk / "bits32", 700)
    cache_some(dice, file)
    done = trace(program, "read", file, str(dice.randrange(1 << 20)))
    cached, told = done.stdout.splitlines()
    starts, got = told.split()[::2], told.split()[1::2]
    truth = Case("pread", file, 0, [(int(at), 0) for at in starts]).truth(cached, " ".join(got))
    off, bound = off_by(done, file, truth)
    assert off <= bound, f"MEMTAP_SEED={SEED}"
    assert done.audit["accuracy"] == "bounded"


def test_splices_from_within_a_page_are_exact_or_bounded(
    files: list[Path], disk: Path, workload: Build, tmp_path: Path, trace: Run
) -> None:
    """Each fills its pipe, and looks up one page more, which may still be being read then."""
    dice, block = random.Random(SEED), 16 * PAGE
    cases = []
    for file in files:
        evict(file)
        start = dice.randrange(1, PAGE)
        ends = range(start, file.stat().st_size, block)[:60]
        cases.append(Case("splice", file, 0, [(at, block) for at in ends]))
    done = run(cases, (workload("asker"), disk / "copied"), tmp_path, trace)
    assert done.audit["accuracy"] == "bounded"
    unsure = next(int(note.split()[1]) for note in done.audit["notes"] if note.startswith("where"))
    off = sum(abs(sum(truth) - sum(counted)) for _, truth, counted in wrong(cases, done))
    assert off <= unsure * BATCH


# Reads each file three times, from the beginning to behind its end, in the way it is named for.
REREADER = """
import os, sys
null = os.open("/dev/null", os.O_WRONLY)
for path in sys.argv[1:] * 3:
    file = os.open(path, os.O_RDONLY)
    if path.endswith("-read"):
        os.read(file, 1 << 20)
    elif path.endswith("-pread"):
        os.pread(file, 1 << 20, 0)
    else:
        os.sendfile(null, file, 0, 1 << 20)
    os.close(file)
"""


def test_files_that_were_just_written_are_hit_as_a_whole(disk: Path, trace: Run) -> None:
    """The end of the last folio is still to be filled: what is before fires nothing then."""
    with file_system("ext4-1k", disk) as folder:
        files = {
            make_file(folder / f"{pages}-{way}", pages - 1, 700): 3 * pages
            for way in ("read", "pread", "sendfile")
            for pages in (4, 14)
        }
        done = trace(sys.executable, "-c", REREADER, *files)
        counted = {file: done.counts(file)[:2] for file in files}
    assert counted == {file: (hits, 0) for file, hits in files.items()}
    assert done.audit["accuracy"] == "exact"


# Fills one pipe from two files in turn, with what lies at the same place in the pipe.
INTERLEAVER = """
import os, sys
files = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
(taken, filled), null = os.pipe(), os.open("/dev/null", os.O_WRONLY)
for place in range(0, 400, 8):
    left = os.splice(files[place // 8 % 2], filled, 8 * 4096, offset_src=place * 4096)
    while left:
        left -= os.splice(taken, null, left)
"""


def test_files_that_are_spliced_in_turn_are_told_apart(disk: Path, trace: Run) -> None:
    """The pipe's place in line advances with the place in each of them."""
    files = [make_file(disk / f"in-turn-{n}", 450) for n in range(2)]
    done = trace(sys.executable, "-c", INTERLEAVER, *files)
    assert [sum(done.counts(file)) for file in files] == [200, 200]
