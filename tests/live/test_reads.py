"""Reads: a cold file of N pages gives N misses, a warm one N hits, whoever asks and however."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.tracing import (
    PAGE,
    Trace,
    evict,
    has_io_uring,
    kept,
    make_file,
    run_under_cachetop,
    scaled,
)

PAGES = scaled(4096)
SMALL = scaled(1000)
BLOCKS = [4 << 10, 128 << 10, 1 << 20, 8 << 20]
ODD_BLOCKS = [33_000, 5_000, 300_001]  # they end inside a page, and ask for it again
METHODS = ["pread", "readv", "preadv2", "sendfile", "splice"]
METHODS += ["io_uring"] if has_io_uring() else []

# Method of the workload `reader`, and bytes of a block.
WAYS = [("read", block) for block in [*BLOCKS, 64 << 10, *ODD_BLOCKS]]
WAYS += [(method, 64 << 10) for method in METHODS]

Build = Callable[[str], Path]
Run = Callable[..., Trace]


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "reads", PAGES)


def page_requests(block: int) -> int:
    """How many pages are asked for if the file is read in such blocks."""
    starts = range(0, PAGES * PAGE, block)
    return sum((min(at + block, PAGES * PAGE) - 1) // PAGE - at // PAGE + 1 for at in starts)


@pytest.fixture(scope="module")
def read_files(disk: Path) -> Iterator[dict[tuple[str, int], Path]]:
    """A file for each of WAYS."""
    files = {way: make_file(disk / f"{way[0]}-{way[1]}", PAGES) for way in WAYS}
    yield files
    for file in files.values():
        file.unlink()


@pytest.fixture(scope="module")
def cold_and_warm(
    read_files: dict[tuple[str, int], Path],
    workload: Build,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Trace, Trace]:
    """All of them read in their ways under one memtap, and once more under another."""
    folder = tmp_path_factory.mktemp("reads")
    loop = 'while [ $# -gt 0 ]; do "$0" "$1" "$2" "$3" || exit; shift 3; done'
    words = [word for (how, block), file in read_files.items() for word in (how, file, str(block))]
    program = ("sh", "-c", loop, workload("reader"), *words)
    evict(*read_files.values())
    cold = run_under_cachetop(folder, *program)
    with ExitStack() as stack:
        for file in read_files.values():
            stack.enter_context(kept(file))
        return cold, run_under_cachetop(folder, *program)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def test_each_page_is_missed_once_and_each_other_time_that_it_is_asked_for_is_a_hit(
    way: tuple[str, int],
    read_files: dict[tuple[str, int], Path],
    cold_and_warm: tuple[Trace, Trace],
) -> None:
    cold, warm = cold_and_warm
    assert (cold.status, warm.status) == (0, 0)
    asked = page_requests(way[1])
    assert cold.counts(read_files[way]) == (asked - PAGES, PAGES, 0)
    assert warm.counts(read_files[way]) == (asked, 0, 0)


def test_half_cached_is_half_hits(file: Path, workload: Build, trace: Run) -> None:
    evict(file)
    with kept(file, pages=PAGES // 2):
        done = trace(workload("reader"), "read", file, str(128 << 10))
    assert done.counts(file) == (PAGES // 2, PAGES // 2, 0)


def test_random_reads_miss_each_distinct_page_once(file: Path, workload: Build, trace: Run) -> None:
    evict(file)
    reads = 3000
    done = trace(workload("random_reader"), file, str(reads))
    distinct = int(done.stdout)
    assert distinct < reads
    hits, misses, dirties = done.counts(file)
    assert (hits + misses, dirties) == (reads, 0)
    # The kernel may take a page away between two reads of it; then it is missed once more.
    assert distinct <= misses <= distinct + 8


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as the shell allows; by default it lets a user have 1024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_each_of_many_small_files_is_a_miss_and_then_a_hit(disk: Path, trace: Run) -> None:
    files = [make_file(disk / f"small-{number}", 0, tail=3000) for number in range(SMALL)]
    evict(*files)
    done = trace("md5sum", *files)
    assert {done.counts(file) for file in files} == {(0, 1, 0)}
    with ExitStack() as stack:
        for file in files:
            stack.enter_context(kept(file))
        done = trace("md5sum", *files)
    assert {done.counts(file) for file in files} == {(1, 0, 0)}


def test_nothing_is_asked_for_past_the_end(disk: Path, trace: Run) -> None:
    file = make_file(disk / "short", 2, tail=100)
    code = "import os, sys; f = os.open(sys.argv[1], 0); print([len(os.pread(f, 65536, at)) "
    code += "for at in (8292, 8293, 12288, 1 << 40)])"
    done = trace("/usr/bin/python3", "-c", code, file)
    assert done.stdout == "[0, 0, 0, 0]\n"
    assert done.counts(file) == (0, 0, 0)


def test_a_file_with_an_empty_page_at_its_end_is_no_longer_than_its_bytes(
    disk: Path, workload: Build, trace: Run
) -> None:
    file = make_file(disk / "odd", 10, tail=1)
    evict(file)
    done = trace(workload("reader"), "read", file, str(1 << 20))
    assert done.counts(file) == (0, 11, 0)


def test_holes_are_pages_like_others(disk: Path, workload: Build, trace: Run) -> None:
    file = disk / "holes"
    with file.open("wb") as opened:
        opened.truncate(1000 * PAGE)
    reader = (workload("reader"), "read", file, str(128 << 10))
    assert trace(*reader).counts(file) == (0, 1000, 0)
    with kept(file):
        assert trace(*reader).counts(file) == (1000, 0, 0)


def test_two_threads_on_one_descriptor(file: Path, workload: Build, trace: Run) -> None:
    evict(file)
    reader = (workload("two_threads"), file, str(128 << 10))
    assert trace(*reader).counts(file) == (0, PAGES, 0)
    with kept(file):
        assert trace(*reader).counts(file) == (PAGES, 0, 0)


def test_a_reader_that_moves_between_cpus(file: Path, workload: Build, trace: Run) -> None:
    evict(file)
    done = trace(workload("migrator"), file, str(64 << 10))
    assert int(done.stdout) > 1, "one CPU is too few for this test"
    assert done.counts(file) == (0, PAGES, 0)


def test_threads_that_take_turns_in_the_middle_of_calls(
    file: Path, workload: Build, trace: Run
) -> None:
    with kept(file):
        done = trace(workload("turns"), "read", file, str(scaled(200_000)))
    assert done.counts(file) == (int(done.stdout), 0, 0)
    assert done.audit["missed"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_reads_of_any_length_at_any_place(disk: Path, trace: Run, seed: int) -> None:
    """Against a model: what a page is asked for first is a miss, then a hit."""
    file = make_file(disk / "mixed", 512)
    evict(file)
    dice = random.Random(seed)
    calls = [(dice.randrange(512 * PAGE), dice.randrange(1, 40 * PAGE)) for _ in range(400)]
    code = "import os, sys; f = os.open(sys.argv[1], 0)\n"
    code += "for at, size in " + repr(calls) + ": os.pread(f, size, at)"
    asked = [
        page
        for at, size in calls
        for page in range(at // PAGE, (min(at + size, 512 * PAGE) - 1) // PAGE + 1)
    ]
    done = trace("/usr/bin/python3", "-c", code, file)
    assert done.counts(file) == (len(asked) - len(set(asked)), len(set(asked)), 0)


def throttled(device: str, bytes_per_second: int) -> Path:
    """A new cgroup, v1 or v2, that may read a device only so fast."""
    old = Path("/sys/fs/cgroup/blkio")
    if old.is_dir():
        group = old / "memtap-slow"
        group.mkdir()
        (group / "blkio.throttle.read_bps_device").write_text(f"{device} {bytes_per_second}")
    else:
        group = Path("/sys/fs/cgroup/memtap-slow")
        (group.parent / "cgroup.subtree_control").write_text("+io")
        group.mkdir()
        (group / "io.max").write_text(f"{device} rbps={bytes_per_second}")
    return group


@pytest.fixture
def slow(disk: Path) -> Iterator[Path]:
    """A cgroup whose processes read 20 MB/s from the disk, or less of a smaller file; its list."""
    number = disk.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    whole = device.parent if (device / "partition").exists() else device
    if not (whole / "queue").exists():
        pytest.skip("the file system is on no block device that could be slowed down")
    group = throttled((whole / "dev").read_text().strip(), scaled(20 << 20))
    yield group / "cgroup.procs"
    group.rmdir()


@pytest.mark.parametrize(
    ("method", "block"), [("read", 33_000), ("pread", 5_000), ("readv", 65536)]
)
def test_reads_that_wait_for_a_slow_disk(
    method: str, block: int, slow: Path, file: Path, workload: Build, trace: Run
) -> None:
    """The kernel fires late where it has to wait, and then from a later page on."""
    evict(file)
    shell = f"echo $$ > {slow} && exec $0 $@"
    done = trace("sh", "-c", shell, workload("reader"), method, file, str(block))
    assert done.report["interval_s"] > 0.7, "the disk was not slow"
    assert done.counts(file) == (page_requests(block) - PAGES, PAGES, 0)
