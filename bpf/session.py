"""An attached program: its events, its losses, and its end."""

from __future__ import annotations

import ctypes as ct
import errno
import mmap
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from operator import add, sub
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.bpf import libbpf, objects, sideband
from memtap.bpf.counters import Counters, batches
from memtap.bpf.filters import TGIDS_PER_BLOCK, CgroupPlace, tgid_blocks
from memtap.bpf.kernel import Kernel, parse_cpus
from memtap.bpf.loading import IN_USE, Loaded
from memtap.bpf.rings import Rings, ring_bytes
from memtap.bpf.sideband import Lost, SidebandEvent
from memtap.bpf.spills import NOTHING_SPILLED, Spills
from memtap.bpf.stream import Events, NameRecord, Stream

# Of uapi/linux/perf_event.h and uapi/linux/bpf.h.
_TYPE_SOFTWARE, _SW_BPF_OUTPUT = 1, 10
_SAMPLE_TIME, _SAMPLE_RAW = 1 << 2, 1 << 10
_RECORD_SAMPLE = 9

# Bits of struct perf_event_attr: mmap, comm, task, mmap_data, sample_id_all, mmap2, comm_exec and
# use_clockid. With them a ring also holds the side-band events of sideband.py.
_SIDEBAND = sum(1 << bit for bit in (8, 9, 13, 17, 18, 23, 24, 25))
_TEST_RUN_ON_CPU = 1

_BIRTHS = (sideband.Forked, sideband.Began)

# A sample's data follows its header, {u64 time; u32 size}.
_RAW_AT = 20

_CONTINUE = -2  # LIBBPF_PERF_EVENT_CONT

# LANE_BYTES of memtap/batch.h: at most so much has the record of a full batch, with its headers.
_LANE_BYTES = 16 << 10

# The map of the rings, which a program that only counts does not have; and the map of the events
# that no ring had room for.
_RINGS, _SPILLS = "records", "spills"

# The map of memtap/losses.h.
_COUNTS = "counts"

# What flush() of memtap/batch.h answers.
_BUSY, _FULL, _NO_RING = 1, 2, 4

# What memtap/losses.h counts.
_LOST, _MAP_FULL, _CAUGHT, _SPILLED, _REFUSED, _OWN = range(6)

_STACK_DEPTH = 127  # PERF_MAX_STACK_DEPTH
_IN_MORE = 0x8000  # IN_MORE of faults.bpf.c

# Of memtap/filter.h: `enum target_mark`, and how many numbers `struct counted` has.
_FOLLOWED, _PENDING = 1, 2
_AT_EXEC = 5

_FLUSH_TRIES = 1000

# How long a task that was preempted waits for its turn, mostly.
_TURN_S = 0.02


@dataclass(frozen=True)
class Losses:
    """What did not reach the report, since the session began.

    Attributes:
        lost: events dropped because a ring was full, in the units of the report's rows.
        missed: how often the kernel did not run a program because it was running already on that
            CPU (recursion_misses of struct bpf_prog_info), and ran no standby in its place.
        map_full: updates that a full map refused.
        records: side-band records that a ring had no room for (sideband.py).
        spilled: events that were added up in the kernel because a ring was full, in units of rows.
    """

    lost: int = 0
    missed: int = 0
    map_full: int = 0
    records: int = 0
    spilled: int = 0

    def __add__(self, other: Losses) -> Losses:
        return Losses(*map(add, astuple(self), astuple(other)))

    def __sub__(self, other: Losses) -> Losses:
        return Losses(*map(sub, astuple(self), astuple(other)))


@dataclass(frozen=True)
class Drained:
    """What was drained from the rings: all that came in up to a moment.

    Attributes:
        events: in order of time; see Stream.take(). Some can be later than `until_ns`.
        runs: events that the kernel counted instead of keeping each.
        names: names of files that were seen for the first time.
        sideband: side-band events of mappings, forks and new programs, in order of time.
        until_ns: CLOCK_MONOTONIC; every event before it was drained now or earlier.
        frames: registers and stacks of calls; see Stream.take_frames().
        spilled: sums of events that no ring had room for; see Spills.take().
        goes_on: whether another piece of the same drain follows; see tracers/live/pieces.py.
    """

    events: Events
    runs: Events
    names: list[NameRecord]
    sideband: list[SidebandEvent]
    until_ns: int
    frames: Events
    spilled: Events
    goes_on: bool = False


class Session:
    """A loaded and attached program. Use it as a context manager, or close() it.

    Attributes:
        loaded: the program.
        counters: its counters in the kernel, if it has any.
        births: how many forks and execs the kernel has reported.
    """

    def __init__(self, loaded: Loaded, kernel: Kernel) -> None:
        self.loaded = loaded
        self._kernel = kernel
        self._lib = libbpf.library()
        self._stream = Stream(loaded.layouts)
        self._records: list[bytes] = []
        self._sideband: list[SidebandEvent] = []
        self._lost_records = 0
        self.births = 0
        self._rings = self._open_rings() if _RINGS in loaded.maps else None
        self._spills = Spills(loaded) if _SPILLS in loaded.maps else None
        self.counters = Counters(loaded) if IN_USE in loaded.maps else None
        cgroups = self._name_cgroups(loaded.request.filter.places)
        self._links = loaded.attach(kernel.online_cpus)
        for place, wanted in cgroups:  # the cgroup may have been made since
            wanted[0] = place.id() or wanted[0]
        # Attaching is not atomic: a standby that is attached first counts work that its program
        # never refused. Subtract what was counted before tracing began.
        self._missed_early = self._missed = self._missed_by_all()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_rings(self) -> Rings:
        plan, online = self.loaded.request.plan, self._kernel.online_cpus
        size = ring_bytes(len(online))
        attributes = libbpf.PerfEventAttr(
            type=_TYPE_SOFTWARE,
            size=ct.sizeof(libbpf.PerfEventAttr),
            config=_SW_BPF_OUTPUT,
            sample_period=1,
            sample_type=_SAMPLE_TIME | _SAMPLE_RAW,
            bits=_SIDEBAND if plan.mappings else 0,
            clockid=time.CLOCK_MONOTONIC if plan.mappings else 0,
            wakeup_events=plan.wakeup or max(1, size // _LANE_BYTES // 8),
        )
        rings = Rings(self.loaded.maps[_RINGS], attributes, size, self._on_record)
        rings.open(online)
        return rings

    def _on_record(self, _context: int, _cpu: int, header: int) -> int:
        kind, size = _header(header)
        if kind == _RECORD_SAMPLE:
            self._stream.add(ct.string_at(header + _RAW_AT, size - _RAW_AT))
        elif self.loaded.request.plan.mappings and kind in sideband.KINDS:
            self._records.append(ct.string_at(header, size))
        return _CONTINUE

    def _decode(self) -> None:
        """Decodes the records that have come in.

        Not in the callback from C, where an exception could not end it.
        """
        records, self._records = self._records, []
        for event in map(sideband.decode, records):
            if isinstance(event, Lost):
                self._lost_records += event.count
            elif event:
                self._sideband.append(event)
                self.births += isinstance(event, _BIRTHS)

    @property
    def way(self) -> str:
        """The name of the variant that is attached."""
        return self.loaded.variant.name

    @property
    def layouts(self) -> Mapping[str, Any]:
        """The structs of the C program, by name."""
        return self.loaded.layouts

    @property
    def maps(self) -> Mapping[str, int]:
        """Descriptors of the maps that there are, by name."""
        return self.loaded.maps

    @property
    def programs(self) -> Mapping[str, int]:
        """Descriptors of the functions that were loaded, by name."""
        return self.loaded.programs

    @property
    def notes(self) -> list[str]:
        """What the user should know about the buffers."""
        asked = ring_bytes(len(self._kernel.online_cpus))
        if not self._rings or self._rings.bytes >= asked:
            return []
        return [
            f"without CAP_IPC_LOCK the event buffers have {self._rings.bytes >> 10} KiB for each "
            f"CPU instead of {asked >> 10} (kernel.perf_event_mlock_kb)"
        ]

    @property
    def readable(self) -> list[int]:
        """Descriptors that become readable when consume() has something to do."""
        return self._rings.readable if self._rings else []

    def consume(self) -> None:
        """Takes what is in the rings, so that they do not overflow."""
        if self._rings:
            self._rings.consume()
            self._decode()
            for cpu in self._rings.came_online():
                self._join(self._rings, cpu)

    def _join(self, rings: Rings, cpu: int) -> None:
        """Takes in a CPU that has come, or come back: what was attached to it died with it."""
        rings.renew(cpu)
        for function, links in self._links.items():
            links += self.loaded.attach_to_cpu(function, cpu)

    @property
    def waiting(self) -> int:
        """How many batches of events have come in since the last drain()."""
        return self._stream.waiting

    @property
    def received(self) -> int:
        """How many batches of events have come in since the session began."""
        return self._stream.received

    def rest(self, function: str) -> None:
        """Detaches one function for a while.

        It is not enough to disable a perf event: one that exists still costs each page fault two
        per cent.
        """
        for link in self._links.pop(function, []):
            os.close(link)

    def attach_to(
        self, function: str, path: Path, offset: int, tgid: int, *, returns: bool = False
    ) -> None:
        """Attaches a function as a uprobe at an offset in a file, for one process."""
        program = self.loaded.programs[function]
        link = objects.attach_to_process(path, offset, tgid, program, returns=returns)
        self._links.setdefault(function, []).append(link)

    def resume(self, function: str) -> None:
        """Attaches a function that rests, unless the session has been detached meanwhile."""
        if self._links:
            self._links[function] = self.loaded.attach_one(function, self._kernel.online_cpus)

    def drain(self) -> Drained:
        """Takes everything up to now, also what is still in the batches of each CPU."""
        until = time.monotonic_ns()
        self.consume()  # makes room for what the batches hold
        if self._rings:
            self._flush_all(self._rings)
        self.consume()
        events, self._sideband = self._sideband, []
        in_order = sorted(events, key=lambda each: each.ns)
        spilled = self._spills.take(self._count(_SPILLED)) if self._spills else NOTHING_SPILLED
        return Drained(*self._stream.take(), in_order, until, self._stream.take_frames(), spilled)

    def _flush_all(self, rings: Rings) -> None:
        online = self._kernel.online_cpus
        for cpu in set(online) - rings.cpus:
            self._join(rings, cpu)
        for cpu in online:
            self._flush(rings, cpu)
        if not self._links:
            self._take_from_offline(rings.cpus - set(online))

    def _take_from_offline(self, cpus: frozenset[int]) -> None:
        """Takes what CPUs that went offline still hold; no program runs that could change it."""
        places = [parse_cpus(self._kernel.possible_cpus).index(cpu) for cpu in cpus]
        for number in range(self.loaded.entries["lanes"] if places else 0):
            of_all = self._read_of_all_cpus("lanes", number, _LANE_BYTES)
            for place in places:
                self._stream.add_lane(of_all[place * _LANE_BYTES : (place + 1) * _LANE_BYTES])

    def _flush(self, rings: Rings, cpu: int) -> None:
        """Runs flush() on a CPU, and again as long as a lane is in use or a ring is full."""
        options = libbpf.TestRunOpts(sz=ct.sizeof(libbpf.TestRunOpts), cpu=cpu)
        options.flags = _TEST_RUN_ON_CPU
        for _ in range(_FLUSH_TRIES):
            failed = self._lib.bpf_prog_test_run_opts(
                self.loaded.programs["flush"], ct.byref(options)
            )
            if failed and ct.get_errno() == errno.ENXIO:  # the CPU went offline
                return
            libbpf.check(failed, "collecting events")
            if options.retval == 0:
                return
            if options.retval & _NO_RING:
                self._join(rings, cpu)
            if options.retval & _FULL:
                rings.consume()
            if options.retval & _BUSY:
                time.sleep(0.0001)

    def follow(self, tgid: int) -> None:
        """Adds a process to the traced ones."""
        self._targets()[tgid] = _FOLLOWED

    def expect(self, tgid: int) -> None:
        """Traces a process from when it executes a program; see Filter.starts."""
        self._targets()[tgid] = _PENDING

    def followed(self) -> list[int]:
        """The traced processes: those asked for, and their children, while they live."""
        return [int(tgid) for tgid in np.flatnonzero(self._targets() == _FOLLOWED)]

    def at_exec(self) -> list[int]:
        """What was counted for the expected process when it executed its program; else zeros.

        Its minor and major faults, bytes read from and written to storage, and ns on a CPU.
        """
        return [int(number) for number in self.shared("at_exec", 1, _AT_EXEC)[0]]

    def look_up(self, name: str, key: bytes, value_bytes: int) -> bytes | None:
        """The value of a key in a map; None where there is none."""
        value = ct.create_string_buffer(value_bytes)
        missing = self._lib.bpf_map_lookup_elem(self.loaded.maps[name], key, value)
        return None if missing else value.raw

    def _name_cgroups(
        self, places: list[CgroupPlace]
    ) -> list[tuple[CgroupPlace, npt.NDArray[np.uint64]]]:
        """Gives the kernel the cgroups to look for; returns each place with its kernel entry."""
        if not places:
            return []
        words = np.array([place.words() for place in places], np.uint64)
        wanted = self.shared("wanted_cgroups", *words.shape)
        wanted[:] = words
        return list(zip(places, wanted, strict=True))

    def _targets(self) -> npt.NDArray[np.uint8]:
        blocks = tgid_blocks()
        return self.shared("targets", blocks, TGIDS_PER_BLOCK // 8).view(np.uint8).reshape(-1)

    def shared(self, name: str, rows: int, columns: int) -> npt.NDArray[np.uint64]:
        """A map of u64 in shared memory (BPF_F_MMAPABLE), as a writable table."""
        view = mmap.mmap(self.loaded.maps[name], rows * columns * 8)
        return np.frombuffer(view, np.uint64).reshape(rows, columns)

    def stack(self, number: int) -> list[int]:
        """The addresses of a user stack, innermost first; none if there is no such stack."""
        name = "more_stacks" if number & _IN_MORE else "stacks"
        key, frames = ct.c_uint32(number & ~_IN_MORE), np.zeros(_STACK_DEPTH, np.uint64)
        if self._lib.bpf_map_lookup_elem(self.loaded.maps[name], ct.byref(key), frames.ctypes.data):
            return []
        return [int(frame) for frame in frames if frame]

    def read_map(
        self, name: str, key: np.dtype[np.void], value: np.dtype[np.void]
    ) -> Iterator[tuple[Events, Events]]:
        """Keys and values of a hash map, some thousands at a time; the map is not changed."""
        return batches(self._lib.bpf_map_lookup_batch, self.loaded.maps[name], key, value)

    def run(self, function: str) -> int:
        """Runs a function of kind `demand` on this CPU; gives its return value."""
        options = libbpf.TestRunOpts(sz=ct.sizeof(libbpf.TestRunOpts))
        failed = self._lib.bpf_prog_test_run_opts(self.loaded.programs[function], ct.byref(options))
        libbpf.check(failed, f"running {function}")
        return int(options.retval)

    def iterate(self, function: str, tgid: int | None) -> bytes:
        """What an iterator's function writes about a process, or about all (None).

        Nothing if there is no such function.
        """
        program = self.loaded.programs.get(function)
        return b"" if program is None else objects.iterate(program, tgid)

    def losses(self) -> Losses:
        """What was lost so far; the programs need not be attached any more."""
        # One by one: only since f008d732ab18 the kernel gives several values of such a map at once.
        lost, map_full, spilled, refused = map(self._count, (_LOST, _MAP_FULL, _SPILLED, _REFUSED))
        self._see_missed()
        missed = self._missed - self._missed_early
        records = max(0, self._lost_records - refused)  # a ring counts both in one sum
        return Losses(lost, missed, map_full, records, spilled)

    def left_out(self) -> int:
        """How many of memtap's own events the kernel has left out so far; see Filter.own."""
        return self._count(_OWN)

    def _see_missed(self) -> None:
        """Brings `_missed` up to date, unless standbys that could have caught some are detached."""
        missed = self._missed_by_all() if self._links else self._missed
        if missed > self._missed:
            time.sleep(_TURN_S)  # a standby's turn may still come, if its task was preempted
            self._missed = max(self._missed, min(missed, self._missed_by_all()))

    def _missed_by_all(self) -> int:
        """How often a program was refused and no standby took its place (COUNT_CAUGHT)."""
        refused = sum(map(self._refused, self.loaded.countable))  # first, as standbys run later
        return refused - self._count(_CAUGHT)

    def _count(self, number: int) -> int:
        """A per-CPU counter of memtap/losses.h, summed; 0 for a program that loses nothing."""
        if _COUNTS not in self.loaded.maps:
            return 0
        return int(np.frombuffer(self._read_of_all_cpus(_COUNTS, number, 8), np.uint64).sum())

    def _read_of_all_cpus(self, name: str, number: int, size: int) -> bytes:
        """An element of a per-CPU array, `size` bytes of each possible CPU."""
        key = ct.c_uint32(number)
        values = ct.create_string_buffer(size * int(self._lib.libbpf_num_possible_cpus()))
        failed = self._lib.bpf_map_lookup_elem(self.loaded.maps[name], ct.byref(key), values)
        libbpf.check(failed, f"reading {name}")
        return values.raw

    def _refused(self, function: str) -> int:
        place = self._kernel.btf.member("bpf_prog_info", "recursion_misses")
        if place is None:  # before 9ed9e9ba2337 the kernel did not count them
            return 0
        info = ct.create_string_buffer(place.offset + place.size)
        size = ct.c_uint32(len(info))
        program = self.loaded.programs[function]
        failed = self._lib.bpf_obj_get_info_by_fd(program, info, ct.byref(size))
        libbpf.check(failed, "reading misses")
        return int.from_bytes(info.raw[place.offset :], "little")

    def detach(self) -> None:
        """Ends tracing; what was collected so far can still be drained."""
        self._see_missed()
        for function in reversed(list(self._links)):  # a standby goes before its program
            self.rest(function)

    def close(self) -> None:
        """Detaches, and gives everything back."""
        self.detach()
        if self._rings:
            self._rings.close()
            self._rings = None
        self.loaded.close()


def _header(address: int) -> tuple[int, int]:
    """Kind and size of a perf record: struct perf_event_header is {u32 type; u16 misc, size}."""
    words = ct.c_uint64.from_address(address).value
    return words & 0xFFFFFFFF, words >> 48
