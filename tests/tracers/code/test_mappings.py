"""Which mapping an address is in, at its time."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtap.bpf.sideband import Began, Ended, Forked, Mapped, SidebandEvent
from memtap.tracers.code.intervals import NOWHERE, Space
from memtap.tracers.code.mappings import (
    NO_FILE,
    Heard,
    Mappings,
    Moved,
    Place,
    Region,
    Shares,
    parse_maps,
    region_of,
)
from memtap.tracers.host.devices import Devices, kinds_by_device

GONE = 4194305  # no process has this number
TMPFS = 42


def mapped(ns: int = 0, start: int = 0x1000, end: int = 0x3000, **other: Any) -> Mapped:
    usual: dict[str, Any] = {"offset": 0, "dev": 0, "ino": 0, "prot": 3, "flags": 2}
    usual |= {"path": "//anon", "tgid": GONE}
    return Mapped(ns=ns, start=start, end=end, **usual | other)


def places(
    faults: Iterable[tuple[int, int]], told: Sequence[Heard], tgid: int = GONE
) -> list[Place]:
    """Where faults, given as (ns, address), were."""
    mappings = Mappings()
    found = locate(mappings, [(tgid, ns, address) for ns, address in faults], told)
    return [mappings.places[number] for number in found]


def locate(
    mappings: Mappings, asked: Iterable[tuple[int, int, int]], told: Iterable[Heard] = ()
) -> list[int]:
    """The numbers of the places of single addresses, given as (tgid, ns, address)."""
    tgids, ns, addresses = np.array(list(asked), np.uint64).reshape(-1, 3).T
    one = np.ones(len(ns), np.uint16)
    located = mappings.locate(tgids.astype(np.uint32), ns, addresses, one, told)
    assert not located.parts
    return [int(number) for number in located.numbers]


def regions(faults: Iterable[tuple[int, int]], told: Sequence[Heard]) -> list[Region]:
    return [place.region for place in places(faults, told)]


@pytest.mark.parametrize(
    ("path", "other", "region"),
    [
        ("[heap]", {}, Region.HEAP),
        ("[stack]", {}, Region.STACK),
        ("[vdso]", {"prot": 5}, Region.VDSO),
        ("[vvar]", {"prot": 1}, Region.VDSO),
        ("[anon:glibc: malloc]", {}, Region.ANON),
        ("[anon_shmem:x]", {"flags": 1}, Region.SHM),
        ("//anon", {}, Region.ANON),
        ("", {}, Region.ANON),
        ("/dev/zero (deleted)", {"flags": 1}, Region.SHM),
        ("/memfd:x (deleted)", {"flags": 1}, Region.SHM),
        ("/memfd:x (deleted)", {"flags": 2}, Region.SHM),
        ("/dev/zero", {"flags": 2}, Region.ANON),
        ("/SYSV00000000 (deleted)", {"flags": 1}, Region.SHM),
        ("/dev/shm/x", {"flags": 1, "dev": TMPFS}, Region.SHM),
        ("/lib/x.so", {"prot": 5, "dev": 8}, Region.TEXT),
        ("/lib/x.so", {"prot": 3, "dev": 8}, Region.DATA),
        ("/lib/x.so", {"prot": 1, "dev": 8}, Region.FILE),
        ("/var/x", {"prot": 3, "flags": 1, "dev": 8}, Region.FILE),
        ("/anon_hugepage (deleted)", {"flags": 1}, Region.HUGETLB),
        ("//anon", {"flags": 0x40002}, Region.HUGETLB),
    ],
)
def test_what_a_mapping_is_for(path: str, other: dict[str, int], region: Region) -> None:
    kind = "tmpfs" if other.get("dev") == TMPFS else ""
    assert region_of(mapped(path=path, **other), kind) is region


def test_an_address_is_in_what_was_mapped_at_its_time() -> None:
    told = [mapped(10), mapped(20, path="/x", dev=8, prot=1), mapped(30, path="[heap]")]
    faults = [(15, 0x1000), (25, 0x2FFF), (35, 0x1800), (36, 0x3000), (37, 0xFFF)]
    unknown = [Region.UNKNOWN] * 2
    assert regions(faults, told) == [Region.ANON, Region.FILE, Region.HEAP, *unknown]


def test_a_mapping_over_the_middle_of_another_leaves_its_ends() -> None:
    told = [mapped(1, 0x1000, 0x9000), mapped(2, 0x3000, 0x5000, path="[heap]")]
    faults = [(5, 0x1000), (6, 0x2FFF), (7, 0x3000), (8, 0x4FFF), (9, 0x5000), (10, 0x8FFF)]
    anon, heap = [Region.ANON] * 2, [Region.HEAP] * 2
    assert regions(faults, told) == [*anon, *heap, *anon]


CODE = mapped(0, 0x0, 0x1000, path="/lib/x.so", dev=8, prot=5)


def test_bss_belongs_to_the_object_below_it_and_to_no_file() -> None:
    data = mapped(1, 0x1000, 0x2000, path="/lib/x.so", dev=8)
    told = [CODE, data, mapped(2, 0x2000, 0x3000)]
    data, bss = places([(5, 0x1000), (6, 0x2000)], told)
    assert (data.region, data.path, data.of_file) == (Region.DATA, "/lib/x.so", True)
    assert (bss.region, bss.path, bss.of_file) == (Region.DATA, "/lib/x.so", False)


def test_bss_is_found_where_the_whole_object_was_mapped_before() -> None:
    whole = mapped(1, 0x1000, 0x9000, path="/lib/x.so", dev=8, prot=1)
    data = mapped(2, 0x2000, 0x3000, path="/lib/x.so", dev=8)
    told = [CODE, whole, data, mapped(3, 0x3000, 0x9000)]
    assert regions([(5, 0x3000)], told) == [Region.DATA]


def test_a_file_without_code_has_no_bss() -> None:
    told = [CODE, mapped(1, path="/var/x", dev=8), mapped(2, 0x3000, 0x5000)]
    assert regions([(5, 0x1000), (5, 0x3000)], told) == [Region.DATA, Region.ANON]


def test_what_is_mapped_above_data_later_is_no_bss() -> None:
    data = mapped(1, 0x1000, 0x2000, path="/lib/x.so", dev=8)
    elsewhere = mapped(2, 0x90000, 0xA0000)
    told = [CODE, data, elsewhere, mapped(3, 0x2000, 0x9000)]
    assert regions([(5, 0x2000)], told) == [Region.ANON]


def test_what_the_kernel_joins_with_a_bss_is_none() -> None:
    data = mapped(1, 0x1000, 0x2000, path="/lib/x.so", dev=8)
    told = [CODE, data, mapped(2, 0x2000, 0x3000), mapped(3, 0x2000, 0x9000)]
    assert regions([(5, 0x2000), (6, 0x3000)], told) == [Region.DATA, Region.ANON]


def test_a_stack_is_found_where_it_has_grown_to() -> None:
    told = [mapped(1, 0x1000, 0x2000), mapped(2, 0x90000, 0xA0000, path="[stack]")]
    assert regions([(5, 0x8F000), (6, 0x2000), (7, 0xA0000)], told) == [
        Region.STACK,
        Region.STACK,
        Region.UNKNOWN,
    ]


def test_no_address_is_too_high_or_too_low() -> None:
    faults = [(5, 0), (6, 2**64 - 1), (7, 2**64 - 4096)]
    assert regions(faults, [mapped(1)]) == regions(faults, []) == [Region.UNKNOWN] * 3


def test_a_child_has_what_its_parent_had_and_exec_ends_it() -> None:
    child = GONE + 1
    told: list[SidebandEvent] = [
        mapped(1),
        Forked(2, child, GONE),
        Began(4, GONE),
        mapped(6, tgid=child),
    ]
    mappings = Mappings()
    found = locate(mappings, [(child, 3, 0x1000), (GONE, 3, 0x1000), (GONE, 5, 0x1000)], told)
    assert [mappings.places[n].region for n in found] == [
        Region.ANON,
        Region.ANON,
        Region.UNKNOWN,
    ]


def test_processes_that_map_a_file_share_its_place_wherever_they_map_it() -> None:
    usual: dict[str, Any] = {"path": "/lib/x.so", "dev": 8, "prot": 5}
    told = [
        mapped(1, **usual, offset=0x4000),
        mapped(2, 0x7000, 0x9000, **usual, offset=0x1000, tgid=GONE + 1),
    ]
    mappings = Mappings()
    tgids, one = np.array([GONE, GONE + 1], np.uint32), np.ones(2, np.uint16)
    ns, addresses = np.array([9, 9], np.uint64), np.array([0x1234, 0x8234], np.uint64)
    located = mappings.locate(tgids, ns, addresses, one, told)
    assert len(mappings.places) == len(mappings.traits) == 2
    assert located.numbers.tolist() == [1, 1]
    assert located.offsets.tolist() == [0x4234, 0x2234]


def test_places_that_are_gone_are_forgotten() -> None:
    mappings = Mappings()
    for ns in range(20_000):
        told = [mapped(ns, path=f"/{ns}", ino=ns), mapped(ns, 0x8000, 0x9000, path="/kept", ino=1)]
        (kept,) = locate(mappings, [(GONE, ns + 1, 0x8000)], told)
        assert mappings.places[kept].path == "/kept"
    assert len(mappings.places) < 10_000
    assert mappings.traits[kept].tolist() == (Region.DATA, True, False)


def test_what_is_moved_stays_what_it_is() -> None:
    file = mapped(1, 0x1000, 0x3000, path="/x", dev=8, prot=1, offset=0x5000)
    told = [file, mapped(2, 0x7000, 0x8000), Moved(3, GONE, 0x9000, 0xB000, 0x1000)]
    mappings = Mappings()
    tgids, one = np.full(3, GONE, np.uint32), np.ones(3, np.uint16)
    ns, addresses = np.array([2, 4, 4], np.uint64), np.array([0x9000, 0x9000, 0xA123], np.uint64)
    located = mappings.locate(tgids, ns, addresses, one, told)
    assert located.numbers[0] == NOWHERE
    assert [mappings.places[n].path for n in located.numbers[1:].tolist()] == ["/x", "/x"]
    assert located.offsets[1:].tolist() == [0x5000, 0x6123]


def test_what_grows_below_its_beginning_keeps_its_offset() -> None:
    file = mapped(1, 0x3000, 0x5000, path="/x", dev=8, prot=1, offset=0x5000)
    told = [file, Moved(2, GONE, 0x3000, 0x9000, 0x4000)]
    mappings = Mappings()
    one, ns = np.ones(1, np.uint16), np.array([5], np.uint64)
    at = np.array([0x8000], np.uint64)
    located = mappings.locate(np.array([GONE], np.uint32), ns, at, one, told)
    assert located.offsets.tolist() == [0xA000]


@pytest.mark.parametrize(("start", "end"), [(0x1000, 0x3000), (0x4000, 0x5000)])
def test_what_is_left_beside_what_was_moved_keeps_its_offset(start: int, end: int) -> None:
    """The kernel writes it down anew, as a mapping of its own."""
    file = mapped(1, 0x1000, 0x5000, path="/x", dev=8, prot=1, offset=0x5000)
    told = [file, Moved(2, GONE, 0x9000, 0xA000, 0x3000), Moved(3, GONE, start, end, 0x3000)]
    mappings = Mappings()
    tgids, ns = np.full(2, GONE, np.uint32), np.full(2, 5, np.uint64)
    at = np.array([start, 0x9000], np.uint64)
    located = mappings.locate(tgids, ns, at, np.ones(2, np.uint16), told)
    assert located.offsets.tolist() == [0x4000 + start, 0x7000]


def test_what_is_moved_to_where_a_part_of_it_stood_before_is_all_moved() -> None:
    there = mapped(1, 0x1000, 0x9000)
    told = [there, mapped(2, 0x5000, 0x7000, path="/x", dev=8)]
    told_then: list[Heard] = [*told, Moved(3, GONE, 0x3000, 0x6000, 0x7000)]
    assert regions([(4, 0x3000), (4, 0x5000)], told_then) == [Region.ANON] * 2


@pytest.mark.parametrize(("ino", "page"), [(0, 5), (7, NO_FILE), (7, 1)])
def test_what_is_left_where_several_were_moved_stays_what_it_was(ino: int, page: int) -> None:
    """In a gap of the source there is only what was known of it before it was unmapped."""
    source = mapped(1, 0x1000, 0x4000, path="/x" if ino else "//anon", ino=ino)
    left = mapped(2, 0x11000, 0x14000, path="/y", ino=9, offset=0x4000)
    told = [source, left, Moved(3, GONE, 0x12000, 0x14000, 0x2000, page)]
    then = [*told, Moved(3, GONE, 0x11000, 0x12000, 0x1000, 0 if ino else NO_FILE)]
    assert [place.path for place in places([(4, 0x11000), (4, 0x12000)], then)] == [
        "/x" if ino else "[anon]",
        "/x" if page == 1 else "/y",
    ]


@pytest.mark.parametrize("path", ["[heap]", "[stack]"])
def test_the_heap_and_the_stack_are_only_where_they_are(path: str) -> None:
    told = [mapped(1, path=path), Moved(2, GONE, 0x7000, 0x9000, 0x1000)]
    assert regions([(3, 0x1000), (4, 0x7000)], told) == [
        Region.HEAP if path == "[heap]" else Region.STACK,
        Region.ANON,
    ]


def test_what_was_not_known_moves_nowhere() -> None:
    told = [mapped(1, path="[heap]"), Moved(2, GONE, 0x1000, 0x3000, 0x7000)]
    assert regions([(3, 0x1000)], told) == [Region.HEAP]


def test_what_was_anonymous_memory_above_data_is_no_bss_when_it_is_protected() -> None:
    code, data = mapped(0, 0x7000, 0x9000, path="/x", dev=8, prot=5), mapped(2, path="/x", dev=8)
    above = mapped(1, 0x3000, 0x5000)
    told = [code, above, data, mapped(3, path="/x", dev=8), mapped(4, 0x3000, 0x5000)]
    assert regions([(5, 0x1000), (5, 0x3000)], told) == [Region.DATA, Region.ANON]


CHILD = GONE + 1


def test_who_shares_a_space_maps_for_all_in_it() -> None:
    file = mapped(4, path="/x", dev=8, tgid=CHILD)
    told = [mapped(1), Forked(2, CHILD, GONE), Shares(3, CHILD, GONE), file]
    told += [mapped(8, 0x5000, 0x6000, path="/y", dev=8)]
    mappings = Mappings()
    asked = [(GONE, 3, 0x1000), (GONE, 5, 0x1000), (CHILD, 9, 0x5000)]
    found = [mappings.places[number].path for number in locate(mappings, asked, told)]
    assert found == ["[anon]", "/x", "/y"]


@pytest.mark.parametrize("leaves", [Began(4, CHILD), Ended(4, CHILD), Forked(4, CHILD, GONE)])
def test_who_has_left_a_space_maps_nothing_there(leaves: SidebandEvent) -> None:
    mappings = Mappings()
    told: list[Heard] = [mapped(1), Forked(2, CHILD, GONE), Shares(3, CHILD, GONE), leaves]
    locate(mappings, [(GONE, 5, 0x1000)], told)
    (found,) = locate(mappings, [(GONE, 9, 0x1000)], [mapped(8, path="/x", dev=8, tgid=CHILD)])
    assert mappings.places[found].path == "[anon]"


def test_a_process_that_ended_is_known_until_the_next_time() -> None:
    mappings = Mappings()
    told: list[SidebandEvent] = [mapped(1), Ended(2, GONE)]
    assert locate(mappings, [(GONE, 9, 0x1000)], told) != [NOWHERE]
    assert locate(mappings, [(GONE, 9, 0x1000)]) == [NOWHERE]


def test_a_process_that_was_there_before_is_read_from_proc() -> None:
    with mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = 1
        text = Path("/proc/self/maps").read_text().splitlines()
        heap = next(int(line.split("-")[0], 16) for line in text if line.endswith("[heap]"))
        stack = next(int(line.split("-")[0], 16) for line in text if line.endswith("[stack]"))
        found = places([(1, heap), (2, stack), (3, 1)], [], os.getpid())
    assert [place.region for place in found] == [Region.HEAP, Region.STACK, Region.UNKNOWN]


def test_maps_of_a_real_process_are_all_understood() -> None:
    text = Path("/proc/self/maps").read_bytes()
    found = parse_maps(text, 1)
    assert len(found) == len(text.splitlines()) > 20
    libc = next(each for each in found if "/libc" in each.path and each.prot & 4)
    status = Path(libc.path).stat()
    dev = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
    assert (libc.ino, libc.dev) == (status.st_ino, dev)


def test_a_space_agrees_with_a_table_of_every_address() -> None:
    chance = random.Random(23)
    for _ in range(50):
        space, table, offsets = Space(), np.zeros(200, np.uint32), np.zeros(200, np.uint64)
        for number in range(1, 60):
            start = chance.randrange(190)
            end = start + 1 + chance.randrange(min(40, 199 - start))
            space.put(start, end, number, 1000 * number)
            table[start:end] = number
            offsets[start:end] = 1000 * number + np.arange(end - start)
            assert space.starts == sorted(space.starts)
        found, at, _ = space.locate(np.arange(200, dtype=np.uint64))
        assert (found == table).all()
        assert (at == offsets)[found > 0].all()


def test_devices_of_file_systems_in_memory() -> None:
    text = Path("/proc/self/mountinfo").read_text()
    shm = Path("/dev/shm").stat().st_dev
    kind = subprocess.check_output(["stat", "-f", "-c", "%T", "/dev/shm"], text=True).strip()
    expected = kind == "tmpfs"
    found = kinds_by_device(text).get(os.major(shm) << 20 | os.minor(shm))
    assert (found == "tmpfs") is expected


def test_huge_pages_are_told_by_their_device_alone() -> None:
    """In /proc/PID/maps they look like other memory that is shared."""
    fd = os.memfd_create("huge", os.MFD_HUGETLB)
    os.ftruncate(fd, 32 << 20)
    without_pages = mmap.MAP_SHARED | 0x4000  # MAP_NORESERVE: there need not be any
    with mmap.mmap(fd, 32 << 20, flags=without_pages, prot=mmap.PROT_READ) as view:
        lines = Path("/proc/self/maps").read_bytes()
        (found,) = [
            each for each in parse_maps(lines, os.getpid()) if each.path.startswith("/memfd:huge")
        ]
        mappings = Mappings()
        (number,) = locate(mappings, [(os.getpid(), 1, found.start)])
        assert mappings.places[number].region is Region.HUGETLB
        assert len(view) == 32 << 20
    os.close(fd)


def test_a_process_that_is_gone_cannot_be_asked_what_is_mounted_there(tmp_path: Path) -> None:
    tables = {"self": "1 0 8:1 / / rw - ext4 x rw", "7": "2 1 0:77 / /t rw - tmpfs t rw"}
    for name, text in tables.items():
        (tmp_path / "proc" / name).mkdir(parents=True)
        (tmp_path / "proc" / name / "mountinfo").write_text(f"{text}\n")
    devices = Devices(tmp_path)
    assert [devices.kind(77, tgid) for tgid in (9, 7, 9)] == ["", "tmpfs", "tmpfs"]
    assert [devices.kind(dev, 7) for dev in (78, 8 << 20 | 1, 0)] == ["", "", ""]
