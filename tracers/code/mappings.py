"""What is mapped at an address of a process at a given time, also after the process has ended.

It is built from side-band events (sideband.py); from our own probe of mremap(2), which the kernel
does not report; and from /proc/PID/maps for processes that ran before. Nothing reports munmap(2):
where memory was unmapped, the last mapping is remembered.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memtap.bpf.sideband import Began, Ended, Forked, Mapped, SidebandEvent
from memtap.tracers.code.intervals import (
    NOWHERE,
    PAGE_BYTES,
    U64,
    Columns,
    Numbers,
    Parts,
    Places,
    Space,
    Waiting,
    locate_in,
    parts_in,
)
from memtap.tracers.host import procfs
from memtap.tracers.host.devices import Devices
from memtap.tracers.host.patience import patiently
from memtap.tracers.model.arrays import stable_order
from memtap.tracers.model.labels import Label

# Of mmap(2).
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_HUGETLB = 1, 0x40000

# Places without a mapping are forgotten when there are _MANY places, or twice as many as were in
# use the last time; and only after _CALLS calls of locate(), as the last fault of a thread becomes
# a row only in the next call.
_MANY, _CALLS = 4096, 4


class Region(Label):
    """What a mapping is for."""

    UNKNOWN = 0
    HEAP = 1
    STACK = 2
    THREAD_STACK = 3
    ANON = 4
    FILE = 5
    SHM = 6
    TEXT = 7
    DATA = 8
    VDSO = 9
    HUGETLB = 10
    UNMAPPED = 11


# Of a place: its region, whether its pages come from a file, whether it is mapped shared.
TRAITS = np.dtype([("region", "u1"), ("of_file", "?"), ("shared", "?")])

# Where an address is: the number of its place, and the offset in its file.
SPOT = np.dtype([("place", "u4"), ("offset", "u8")])

_OF_FILES = (Region.FILE, Region.TEXT, Region.DATA)


@dataclass(frozen=True)
class Place:
    """A mapping, the same for all processes that map a file alike.

    Attributes:
        mapped: its side-band event.
        region: what it is for.
        path: of its file; for bss, that of its object.
    """

    mapped: Mapped
    region: Region
    path: str

    @property
    def shared(self) -> bool:
        """Whether writes are seen by other processes that have it mapped (MAP_SHARED)."""
        return bool(self.mapped.flags & MAP_SHARED)

    @property
    def of_file(self) -> bool:
        """Whether its pages come from a file; those of bss do not, though it is data."""
        named = self.mapped.path.startswith("/") and not self.mapped.path.startswith("//anon")
        return self.region is Region.VDSO or (self.region in _OF_FILES and named)


def region_of(mapped: Mapped, kind: str) -> Region:
    """What a mapping is for, by itself and by the type of its file system: see Devices.

    Ramfs counts as a file here: it is page cache without storage.
    """
    path = mapped.path
    if mapped.flags & MAP_HUGETLB or path.startswith("/anon_hugepage") or kind == "hugetlbfs":
        return Region.HUGETLB
    if path.startswith("["):
        named = {"[heap]": Region.HEAP, "[stack]": Region.STACK, "[anon_shmem": Region.SHM}
        special = Region.VDSO if path.startswith("[v") else Region.ANON
        return named.get(path.partition(":")[0], special)
    if not path.startswith("/") or path.startswith("//anon"):
        return Region.ANON
    if path.startswith(("/memfd:", "/SYSV")):
        return Region.SHM
    if path.startswith("/dev/zero"):
        return Region.SHM if mapped.flags & MAP_SHARED else Region.ANON
    if mapped.prot & PROT_EXEC:
        return Region.TEXT
    if kind in ("tmpfs", "devtmpfs"):
        return Region.SHM
    return Region.DATA if _is_own_copy(mapped) else Region.FILE


def _is_own_copy(mapped: Mapped) -> bool:
    """Whether it is private and writable; in a program's file that is its data."""
    return bool(mapped.prot & PROT_WRITE and not mapped.flags & MAP_SHARED)


# The moved memory is of no file.
NO_FILE = -1
_PAGE_MASK = 2**32 - 1


@dataclass(frozen=True)
class Moved:
    """mremap(2) has moved memory from `source` to [start, end); the two may overlap.

    Attributes:
        page: the lowest 32 bits of the number of its first page in its file, or NO_FILE; None where
            it is not known.
    """

    ns: int
    tgid: int
    start: int
    end: int
    source: int
    page: int | None = None


@dataclass(frozen=True)
class Shares:
    """A process was forked with CLONE_VM: it shares the address space of its parent."""

    ns: int
    tgid: int
    parent: int


Heard = SidebandEvent | Moved | Shares


@dataclass(frozen=True)
class Located:
    """Where addresses were.

    Attributes:
        numbers: of their places; NOWHERE for addresses in none.
        offsets: in the file, in bytes; without a file, from the beginning of the mapping.
        parts: by row, for rows whose pages are not all in one place: see streaks.in_parts().
    """

    numbers: Numbers
    offsets: U64
    parts: dict[int, Parts]


class Mappings:
    """The address spaces of all processes.

    Attributes:
        places: by number, the same for all processes that map a file alike; the first is NOWHERE.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._devices = Devices(root)
        self._spaces: dict[int, Space] = {}
        self._sharers: dict[int, set[int]] = {}  # for each that shares its space: all that do
        self._ended: list[int] = []
        self._former: dict[int, tuple[int, Space]] = {}
        self._numbers: dict[tuple[object, ...], int] = {}
        self._code: dict[str, set[int]] = {}  # the places of each file's code
        self._traits = np.zeros(_MANY, TRAITS)
        self._latest: deque[Numbers] = deque(maxlen=_CALLS)
        self._many = self._many_spaces = _MANY
        self._missing: set[int] = set()
        nothing = Mapped(0, 0, 0, 0, 0, 0, 0, 0, 0, "")
        self.places = {NOWHERE: Place(nothing, Region.UNKNOWN, "?")}
        self._next = NOWHERE + 1

    def read(self, tgid: int) -> Space:
        """Reads a process's mappings from /proc/PID/maps, as they are now."""
        try:
            text = read_maps(tgid, self._root)
        except OSError:  # the process is gone, or stuck
            text = b""
        return self.take(tgid, text)

    def take(self, tgid: int, text: bytes) -> Space:
        """Sets a process's mappings from the text of /proc/PID/maps or smaps."""
        return self.put(tgid, parse_maps(text, tgid))

    def put(self, tgid: int, all_mapped: Iterable[Mapped]) -> Space:
        """Sets a process's mappings."""
        space = self._spaces[tgid] = Space()
        for mapped in all_mapped:
            self._put(space, mapped, self._number(space, mapped))
        return space

    def locate(
        self,
        tgids: npt.NDArray[np.uint32],
        ns: U64,
        addresses: U64,
        counts: npt.NDArray[np.uint16],
        heard: Iterable[Heard],
    ) -> Located:
        """Where each address was at its time.

        `tgids`, `ns` and `addresses` have one entry per row, in order of time; `counts` is the
        number of pages from each address on. `heard` has the side-band events since the last call,
        in order of time as well.
        """
        for tgid in self._ended:
            self._leave(tgid)
            self._spaces.pop(tgid, None)
        self._ended.clear()
        self._former.clear()
        self._devices.look()
        self._forget()
        work = _Work(self._space, self._is_stack, tgids, ns, addresses, counts)
        for each in heard:
            self._take(each, work.until)
        work.finish()
        self._latest.append(work.found)
        return Located(work.found, work.offsets, work.parts)

    def code_at(self, tgid: int, ns: U64, addresses: U64) -> npt.NDArray[np.void]:
        """Where code was that ran since the last locate() but one; see SPOT.

        It uses the space as it is now: code hardly ever moves, except when a new program begins.
        """
        began, former = self._former.get(tgid, (0, Space()))
        found, offsets, _ = self._space(tgid).locate(addresses)
        numbers_before, offsets_before, _ = former.locate(addresses)
        before = ns < began
        spots = np.empty(len(addresses), SPOT)
        spots["place"] = np.where(before, numbers_before, found)
        spots["offset"] = np.where(before, offsets_before, offsets)
        return spots

    def gone(self) -> set[int]:
        """Processes that have ended, though their exit event was lost.

        It looks for them only when there are many processes, and each must have been gone the last
        time, too: an exit event can still be on its way.
        """
        if len(self._spaces) <= self._many_spaces:
            return set()
        before, self._missing = self._missing, set(filter(self._is_gone, self._spaces))
        self._many_spaces = max(_MANY, 2 * (len(self._spaces) - len(self._missing)))
        return before & self._missing

    def _is_gone(self, tgid: int) -> bool:
        return not (self._root / f"proc/{tgid}").exists()

    def start_of(self, tgid: int, address: int) -> int:
        """Where the mapping at an address begins; 0 if it is not known."""
        space = self._space(tgid)
        first, last = space.overlapping(address, address + 1)
        return space.starts[first] if first < last else 0

    def numbers_of(self, tgid: int) -> set[int]:
        """The places that a process has mapped."""
        return set(self._space(tgid).numbers)

    @property
    def traits(self) -> npt.NDArray[np.void]:
        """The traits of each place, by number; see TRAITS."""
        return self._traits[: self._next]

    def _space(self, tgid: int) -> Space:
        return self._spaces.get(tgid) or self.read(tgid)

    def _is_stack(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        is_stack: npt.NDArray[np.bool_] = self._traits["region"][numbers] == Region.STACK
        return is_stack

    def _forget(self) -> None:
        """Forgets places that are no longer in use, when there are many."""
        if len(self.places) <= self._many:
            return
        spaces = [*self._spaces.values(), *(space for _, space in self._former.values())]
        used = {NOWHERE}.union(*(space.numbers for space in spaces))
        used.update(*(np.unique(found).tolist() for found in self._latest))
        self.places = {number: self.places[number] for number in sorted(used)}
        self._numbers = {key: number for key, number in self._numbers.items() if number in used}
        code = {path: numbers & used for path, numbers in self._code.items()}
        self._code = {path: numbers for path, numbers in code.items() if numbers}
        self._many = max(_MANY, 2 * len(used))

    def _take(self, event: Heard, until: Callable[[int, int], None]) -> None:
        """Applies a side-band event, after all earlier addresses have been located."""
        if isinstance(event, Mapped):
            space = self._space(event.tgid)
            number = self._number(space, event)
            if self._changes(space, event, number):
                self._settle(event, until)
            self._put(space, event, number)
        elif isinstance(event, Moved):
            self._move(event, until)
        elif isinstance(event, Forked):
            self._leave(event.tgid)
            self._spaces[event.tgid] = self._space(event.parent).copy()
        elif isinstance(event, Shares):
            self._join(event)
        elif isinstance(event, Began):
            until(event.tgid, event.ns)
            self._former[event.tgid] = event.ns, self._space(event.tgid)
            self._leave(event.tgid)
            self._spaces[event.tgid] = Space()
        elif isinstance(event, Ended):
            self._ended.append(event.tgid)

    def _settle(self, event: Mapped | Moved, until: Callable[[int, int], None]) -> None:
        """Locates all earlier addresses of the processes that share a space, before it changes."""
        for tgid in self._sharers.get(event.tgid, (event.tgid,)):
            until(tgid, event.ns)

    def _join(self, event: Shares) -> None:
        self._spaces[event.tgid] = self._space(event.parent)
        together = self._sharers.setdefault(event.parent, {event.parent})
        together.add(event.tgid)
        self._sharers[event.tgid] = together

    def _leave(self, tgid: int) -> None:
        self._sharers.pop(tgid, set()).discard(tgid)

    def _move(self, moved: Moved, until: Callable[[int, int], None]) -> None:
        """Memory that is not known at the source does not move: the maps may have been read since.

        Nor does the rest of a mapping of which a part was moved away, or unmapped to make room.
        """
        space = self._space(moved.tgid)
        number, offset = space.at(moved.source)
        grows = moved.start <= moved.source < moved.end
        before = moved.source - moved.start if grows else 0
        offset = (offset - before) % 2**64
        if number == NOWHERE or not _is_of(moved, self.places[number].mapped, offset):
            return
        if not grows and _stays(space, moved):
            return
        self._settle(moved, until)
        if self.places[number].region in (Region.HEAP, Region.STACK):  # only while they stay
            anon = self.places[NOWHERE].mapped._replace(path="//anon")
            number = self._number_of(anon, Region.ANON, _name(anon))
        space.put(moved.start, moved.end, number, offset)

    def _changes(self, space: Space, mapped: Mapped, number: int) -> bool:
        """Whether this mapping replaces another place."""
        first, last = space.overlapping(mapped.start, mapped.end)
        return any(old != number for old in space.numbers[first:last])

    def _put(self, space: Space, mapped: Mapped, number: int) -> None:
        start = self._end_of_bss(space, mapped)
        if start < mapped.end:
            space.put(start, mapped.end, number, _offset(mapped) + start - mapped.start)
        space.latest = mapped.end

    def _end_of_bss(self, space: Space, mapped: Mapped) -> int:
        """Where the new part begins: the kernel merges anonymous memory with a bss below it."""
        first, last = space.overlapping(mapped.start, mapped.start + 1)
        if first == last or space.starts[first] != mapped.start or _name(mapped) != "[anon]":
            return mapped.start
        place = self.places[space.numbers[first]]
        is_bss = place.region is Region.DATA and not place.of_file
        return space.ends[first] if is_bss else mapped.start

    def _number(self, space: Space, mapped: Mapped) -> int:
        """The number of a mapping's place; mappings that do not differ have the same."""
        kind = self._devices.kind(mapped.dev, mapped.tgid)
        region, path = region_of(mapped, kind), _name(mapped)
        below = self.places[space.before(mapped.start)]
        # A loader maps a bss right after the data. Memory that is mapped there later only happens
        # to be adjacent, and mprotect(2) of memory that is there sends the same event.
        is_new = self.places[space.at(mapped.start)[0]].region is not Region.ANON
        is_next = is_new and space.latest == mapped.start
        if region is Region.ANON and is_next and self._is_data_of_object(space, below):
            region, path = Region.DATA, below.path
        return self._number_of(mapped, region, path)

    def _is_data_of_object(self, space: Space, place: Place) -> bool:
        """Whether it is the data of a file that has code mapped, too; other files have no bss."""
        if place.region is not Region.DATA or not place.of_file:
            return False
        return not self._code.get(place.path, set()).isdisjoint(space.numbers)

    def _number_of(self, mapped: Mapped, region: Region, path: str) -> int:
        key = region, path, mapped.dev, mapped.ino, mapped.flags & MAP_SHARED
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self._next
            self._add(Place(mapped, region, path))
        return number

    def _add(self, place: Place) -> None:
        number = self._next
        if number == len(self._traits):
            self._traits = np.concatenate([self._traits, np.zeros_like(self._traits)])
        self._traits[number] = place.region, place.of_file, place.shared
        self.places[number] = place
        if place.region is Region.TEXT:
            self._code.setdefault(place.path, set()).add(number)
        self._next += 1


def _is_of(moved: Moved, mapped: Mapped, offset: int) -> bool:
    """Whether moved memory is part of the mapping at its source, as far as the event says.

    Several mappings can be moved at once (d23cb648e365), with gaps between them, which no event
    reports: the kernel writes down what is left beside them, too.
    """
    if moved.page is None or not mapped.ino:
        return moved.page in (None, NO_FILE)
    if not mapped.path.startswith("/"):  # named memory, whose offsets are not kept
        return moved.page != NO_FILE
    return moved.page == offset // PAGE_BYTES & _PAGE_MASK


def _stays(space: Space, moved: Moved) -> bool:
    """Whether all of the moved memory is already in one mapping with its source."""
    number, offset = space.at(moved.source)
    at = moved.start
    for part in space.parts(at, (moved.end - at) // PAGE_BYTES):
        if (part.place, part.offset) != (number, (offset + at - moved.source) % 2**64):
            return False
        at += part.pages * PAGE_BYTES
    return True


def _name(mapped: Mapped) -> str:
    """Its path; [anon] if it has none, which is //anon in perf and empty in /proc/PID/maps."""
    return "[anon]" if mapped.path in ("", "//anon") else mapped.path


def _offset(mapped: Mapped) -> int:
    """Where in its file it begins; without a file, 0."""
    return mapped.offset if mapped.path.startswith("/") else 0


class _Work:
    """Addresses to be located, process by process, up to a time."""

    def __init__(
        self,
        space: Callable[[int], Space],
        is_stack: Callable[[Numbers], npt.NDArray[np.bool_]],
        tgids: npt.NDArray[np.uint32],
        ns: U64,
        addresses: U64,
        counts: npt.NDArray[np.uint16],
    ) -> None:
        self._space, self._is_stack = space, is_stack
        self._ns, self._addresses, self._counts = ns, addresses, counts
        self._many = counts > 1
        self._has_many = bool(self._many.any())
        self._waiting = Waiting()
        self.offsets = np.zeros(len(ns), np.uint64)
        self.parts: dict[int, Parts] = {}
        self.found = np.zeros(len(ns), np.uint32)
        distinct, group = np.unique(tgids, return_inverse=True)
        order = stable_order(group.astype(np.intp))
        borders = np.searchsorted(group[order], np.arange(len(distinct) + 1))
        self._left: dict[int, npt.NDArray[np.intp]] = {
            int(tgid): order[borders[n] : borders[n + 1]] for n, tgid in enumerate(distinct)
        }

    def until(self, tgid: int, ns: int) -> None:
        """Locates those of a process that are before a time."""
        rows = self._left.get(tgid)
        if rows is None or len(rows) == 0:
            return
        settled = int(np.searchsorted(self._ns[rows], ns))
        if settled:
            self._find(self._space(tgid), rows[:settled])
            self._left[tgid] = rows[settled:]

    def finish(self) -> None:
        """Locates the rest, of all processes at once: there may be thousands with a few each."""
        for tgid, rows in self._left.items():
            if len(rows):
                self._find(self._space(tgid), rows)
        spaces, which, rows = self._waiting.take()
        if not spaces:
            return
        self._tell(rows, *locate_in(spaces, which, self._addresses[rows]))
        many = self._many[rows]
        for row, number in zip(rows[many].tolist(), which[many].tolist(), strict=True):
            self._tell_parts(row, spaces[number])

    def _find(self, space: Space, rows: Places) -> None:
        """Locates rows before their space changes, or queues them with the space as it is."""
        if not space.are_few(len(rows)):
            self._waiting.add(space, rows)
            return
        self._tell(rows, *space.locate(self._addresses[rows]))
        for row in rows[self._many[rows]].tolist() if self._has_many else ():
            self._tell_parts(row, (space.starts, space.ends, space.numbers, space.shifts))

    def _tell(self, rows: Places, found: Numbers, offsets: U64, above: Numbers) -> None:
        lost = found == NOWHERE
        if lost.any():  # a stack grows down without an event
            found[lost] = np.where(self._is_stack(above[lost]), above[lost], NOWHERE)
        self.found[rows], self.offsets[rows] = found, offsets

    def _tell_parts(self, row: int, columns: Columns) -> None:
        parts = parts_in(columns, int(self._addresses[row]), int(self._counts[row]))
        if len(parts) > 1:
            place, offset = int(self.found[row]), int(self.offsets[row])
            self.parts[row] = [parts[0]._replace(place=place, offset=offset), *parts[1:]]


_LINE = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)"
)
_BITS = {"r": PROT_READ, "w": PROT_WRITE, "x": PROT_EXEC}


def read_maps(tgid: int, root: Path = Path("/")) -> bytes:
    """/proc/PID/maps; if the main thread has ended, that of a thread that still runs.

    Raises OSError: the process is gone, not ours to read, or stuck.
    """
    text = patiently(tgid, (root / f"proc/{tgid}/maps").read_bytes)
    thread = None if text else procfs.survivor(tgid, root)
    return patiently(tgid, (thread / "maps").read_bytes) if thread else text


def parse_maps(text: bytes, tgid: int) -> list[Mapped]:
    """The lines of /proc/PID/maps, and those of /proc/PID/smaps that are the same."""
    return [_mapped(match, tgid) for line in text.splitlines() if (match := _LINE.match(line))]


def _mapped(match: re.Match[bytes], tgid: int) -> Mapped:
    start, end, modes, offset, major, minor, ino, path = match.groups()
    return Mapped(
        ns=0,
        tgid=tgid,
        start=int(start, 16),
        end=int(end, 16),
        offset=int(offset, 16),
        dev=int(major, 16) << 20 | int(minor, 16),
        ino=int(ino),
        prot=_prot(modes[:3]),
        flags=MAP_SHARED if modes[3:] == b"s" else 0,
        path=os.fsdecode(path),
    )


@cache
def _prot(letters: bytes) -> int:
    return sum(_BITS.get(letter, 0) for letter in letters.decode())
