"""The account of all memory: under loads of known size, the line that is theirs grows by it."""

from __future__ import annotations

import mmap
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from memtap.tracers.ledger import memory, spaces
from memtap.tracers.ledger.account import UNEXPLAINED, Facts, account
from memtap.tracers.ledger.spaces import sums_of
from tests.live.limits import Limited, limited, members
from tests.live.tracing import PAGE, Row, eventually, memtap, reports

MIB = 1 << 20
SIZE = 128 * MIB
# Where PMDs and PTEs cover this much, a touched page costs itself and a page table.
PMD_SPAN = 2 * MIB
MAP_NORESERVE, MAP_HUGETLB = 0x4000, 0x40000
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")


def lines() -> dict[str, int]:
    """The account of now, in bytes."""
    facts = Facts(memory.look(), sums_of(spaces.look()))
    return {line.name: size for line, size in account(facts)}


@contextmanager
def anon(_folder: Path) -> Iterator[int]:
    with mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        for at in range(0, SIZE, PAGE):
            area[at] = 1
        yield SIZE


@contextmanager
def torn(_folder: Path) -> Iterator[int]:
    """Huge pages of which one half is given back, so that the kernel cannot have it yet."""
    thp = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not thp.exists() or "[never]" in thp.read_text():
        pytest.skip("no transparent huge pages here")
    with mmap.mmap(-1, 2 * SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, len(area), PAGE):
            area[at] = 1
        for at in range(0, len(area), PMD_SPAN):
            area.madvise(mmap.MADV_DONTNEED, at, PMD_SPAN // 2)
        yield SIZE


@contextmanager
def cached(folder: Path) -> Iterator[int]:
    path = folder / "cached"
    path.write_bytes(os.urandom(MIB) * (SIZE // MIB))
    yield SIZE
    path.unlink()


@contextmanager
def mapped(folder: Path) -> Iterator[int]:
    with (
        cached(folder),
        (folder / "cached").open("rb") as file,
        mmap.mmap(file.fileno(), SIZE, mmap.MAP_SHARED, mmap.PROT_READ) as area,
    ):
        for at in range(0, SIZE, PAGE):
            area[at]
        yield SIZE


@contextmanager
def in_memfd(_folder: Path) -> Iterator[int]:
    fd = os.memfd_create("held")
    os.write(fd, bytes(SIZE))
    yield SIZE
    os.close(fd)


@contextmanager
def shared(_folder: Path) -> Iterator[int]:
    with mmap.mmap(-1, SIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as area:
        for at in range(0, SIZE, PAGE):
            area[at] = 1
        yield SIZE


@contextmanager
def sparse(_folder: Path) -> Iterator[int]:
    """A page in every table, of the file that has nothing but zeros: no memory but the tables."""
    tables = SIZE // PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    with mmap.mmap(-1, tables * PMD_SPAN, flags) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, len(area), PMD_SPAN):
            area[at]
        yield SIZE


@contextmanager
def sockets(_folder: Path) -> Iterator[int]:
    """TCP connections that nobody reads from."""
    before = memory.look().sockets
    with ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=256))
        for _ in range(64):
            sender = held.enter_context(socket.create_connection(server.getsockname()))
            held.enter_context(server.accept()[0])
            sender.setblocking(False)
            try:
                while True:
                    sender.send(bytes(MIB))
            except BlockingIOError:
                pass
        yield memory.look().sockets - before


@contextmanager
def threads(_folder: Path) -> Iterator[int]:
    """Kernel stacks of 16 KiB."""
    go, many = threading.Event(), 1500
    begun = [threading.Thread(target=go.wait) for _ in range(many)]
    for each in begun:
        each.start()
    yield many * 16 << 10
    go.set()
    for each in begun:
        each.join()


@contextmanager
def huge_pages(_folder: Path) -> Iterator[int]:
    before = int(NR_HUGEPAGES.read_text())
    NR_HUGEPAGES.write_text(str(before + SIZE // PMD_SPAN))
    yield (int(NR_HUGEPAGES.read_text()) - before) * PMD_SPAN
    NR_HUGEPAGES.write_text(str(before))


@contextmanager
def huge_pages_in_use(folder: Path) -> Iterator[int]:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB
    with huge_pages(folder) as size, mmap.mmap(-1, size, flags) as area:
        for at in range(0, size, PMD_SPAN):
            area[at] = 1
        yield size


@contextmanager
def zram(_folder: Path) -> Iterator[int]:
    """A device of our own, filled with what does not compress."""
    control = Path("/sys/class/zram-control")
    if not control.exists():
        pytest.skip("this kernel has no zram")
    number = (control / "hot_add").read_text().strip()
    Path(f"/sys/block/zram{number}/disksize").write_text(str(SIZE))
    with Path(f"/dev/zram{number}").open("wb", buffering=0) as device:
        noise = os.urandom(MIB)
        for _ in range(SIZE // MIB):
            device.write(noise)
        os.fsync(device)
        os.posix_fadvise(device.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    yield SIZE
    Path(f"/sys/block/zram{number}/reset").write_text("1")
    (control / "hot_remove").write_text(number)


LOADS: dict[str, Callable[[Path], AbstractContextManager[int]]] = {
    "anon": anon,
    "anon-unmapped": torn,
    "file-unmapped": cached,
    "file-mapped": mapped,
    "shmem-unmapped": in_memfd,
    "shmem-mapped": shared,
    "page-tables": sparse,
    "sockets": sockets,
    "stacks": threads,
    "hugetlb-free": huge_pages,
    "hugetlb-used": huge_pages_in_use,
    "zram": zram,
}


@pytest.mark.parametrize("line", LOADS)
def test_a_load_is_in_its_line_and_nothing_of_it_is_unexplained(line: str, disk: Path) -> None:
    """Others begin and end meanwhile, so one of some attempts must be as it should."""
    found = _attempts(line, disk)
    while not any(map(_is_right, found)) and len(found) < 10:
        found += _attempts(line, disk)
    assert any(map(_is_right, found)), found


def _attempts(line: str, disk: Path) -> list[tuple[float, float, float]]:
    """What its line and `unexplained` have more than before, and than after.

    Both as parts of the load; and `unexplained` of all memory.
    """
    before = lines()
    with LOADS[line](disk) as size:
        held = lines()
    after = lines()  # page tables are given back somewhat later
    share = held[UNEXPLAINED] / memory.look().total
    return [
        ((held[line] - other[line]) / size, (held[UNEXPLAINED] - other[UNEXPLAINED]) / size, share)
        for other in (before, after)
    ]


def _is_right(attempt: tuple[float, float, float]) -> bool:
    grew, unexplained, share = attempt
    return 0.95 < grew < 1.1 and abs(unexplained) < 0.05 and abs(share) < 0.01


def test_the_table_says_what_memory_there_is() -> None:
    done = memtap("ledger", "-f", "json")
    (report,) = reports(done.stdout)
    total = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())
    parts = [row["size_bytes"] for row in report["rows"] if row["group"] != "beside"]
    assert total and sum(parts) == int(total[1]) << 10
    assert sum(row["share_pct"] or 0 for row in report["rows"]) == pytest.approx(100, abs=0.2)


def test_processes_are_told_as_ps_tells_them() -> None:
    """By its own way to the same numbers; of who holds much, and stands still."""
    with mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        for at in range(0, SIZE, PAGE):
            area[at] = 1
        found = row_of(os.getpid(), "ledger", "-b", "process")
        ps = row_of(os.getpid(), "ps", "-p", str(os.getpid()))
    told = sum(found[name] for name in ("anon_bytes", "file_bytes", "shmem_bytes"))
    assert told == pytest.approx(ps["pss_bytes"], rel=0.03)
    assert found["anon_bytes"] > SIZE
    assert found["pgtables_bytes"] == pytest.approx(ps["pgtables_bytes"], rel=0.05)


def row_of(pid: int, *arguments: str) -> Row:
    (report,) = reports(memtap(*arguments, "-f", "json").stdout)
    (row,) = (row for row in report["rows"] if row["pid"] == pid)
    return row


# Fills memory of three kinds, says so, and waits.
FILLER = f"""
import mmap, os, sys
anon = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(anon), {PAGE}):
    anon[at] = 1
for path, mib in ((sys.argv[1], 32), (sys.argv[2], 48)):
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def filled(cgroup: Limited, *files: Path) -> Iterator[None]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with cgroup.start(sys.executable, "-c", FILLER, *files, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline() == "\n"
        yield
        process.kill()


@pytest.fixture
def files(disk: Path) -> Iterator[tuple[Path, Path]]:
    """One on tmpfs, one on a disk."""
    found = Path(f"/dev/shm/memtap-test-{os.getpid()}"), disk / "filled"
    yield found
    for path in found:
        path.unlink(missing_ok=True)


def cgroup_row(path: str) -> Row:
    (report,) = reports(memtap("ledger", "-b", "cgroup", "-f", "json").stdout)
    (row,) = (row for row in report["rows"] if row["cgroup"] == path)
    return row | {"accuracy": report["audit"]["accuracy"]}


def test_a_cgroup_has_what_its_processes_made(files: tuple[Path, Path]) -> None:
    with limited(400 * MIB) as cgroup, filled(cgroup, *files):
        row = cgroup_row(cgroup.path)
        is_told = cgroup.version == 1 or "kernel" in cgroup.stat()
    assert row["accuracy"] == ("exact" if is_told else "bounded")
    assert row["limit_bytes"] == 400 * MIB
    assert row["shmem_bytes"] == pytest.approx(32 * MIB, abs=MIB)
    assert row["file_bytes"] == pytest.approx(48 * MIB, abs=8 * MIB)
    assert row["anon_bytes"] == pytest.approx(68 * MIB, abs=8 * MIB)
    kinds = ("anon_bytes", "file_bytes", "shmem_bytes", "kernel_bytes", "sockets_bytes")
    # What a CPU has charged in advance is in nothing: 64 pages each.
    ahead = 64 * PAGE * (os.cpu_count() or 1)
    assert row["size_bytes"] == pytest.approx(sum(row[kind] for kind in kinds), abs=ahead + MIB)


def test_what_a_cgroup_that_is_gone_has_is_own_of_the_one_above(files: tuple[Path, Path]) -> None:
    with limited(400 * MIB) as above:
        if above.version == 2:
            (above.folder / "cgroup.subtree_control").write_text("+memory")
        below = replace(above, folder=above.folder / "below", path=f"{above.path}/below")
        below.folder.mkdir()
        with filled(below, *files):
            held = cgroup_row(above.path)
        assert eventually(lambda: not members(below.folder))
        assert held["own_bytes"] < 8 * MIB and held["size_bytes"] > 140 * MIB
        below.folder.rmdir()
        left = cgroup_row(above.path)
        assert left["own_bytes"] == left["size_bytes"]
        assert left["own_bytes"] >= 32 * MIB
        assert above.version == 1 or left["dying"] >= 1
