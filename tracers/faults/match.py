"""What became of each exception: completed or not, minor or major, how long it took.

An exception carries how many faults its task had completed before. So the next exception of the
task settles it: if the number is higher, this one was completed; if it is the same, this one was
not, and does not count. Other events of the same task and number add what else is known.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events, take
from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.faults.probes import Kind, Mark
from memtap.tracers.faults.streaks import ANON_BITS, SWITCH_BITS
from memtap.tracers.model.arrays import chain, group_numbers, stable_order

Places = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]


class Found(IntFlag):
    """What else is known of a fault."""

    TIMED = 1
    HUGE = 2
    SWAPPED = 4
    NUMA = 8
    RAISED = 16  # the exception was seen, so its marks are known
    USERFAULT = 32  # or, until its place is looked at, one that waits for FUSE
    WAITED = 64  # for I/O
    SWITCHED = 128  # the thread left its CPU before its next exception, or may have


# Events about an exception that say nothing about its end.
_ASIDE = {Kind.SWAPPED: Found.SWAPPED, Kind.SLEPT: Found.USERFAULT}

# A fault that was completed, or could not be (Kind.BAD); or `count` of them, with the address and
# the file offset of the first. `time_ns` is from the exception to its completion, if Found.TIMED.
# `room_ns` is the most that it, or all of them together, can have taken: the time to the thread's
# next exception, which no other fault shares; 0 if it is not known.
FAULT = np.dtype(
    [
        ("ns", "u8"),
        ("address", "u8"),
        ("offset", "u8"),
        ("time_ns", "u8"),
        ("room_ns", "u8"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("count", "u4"),
        ("stack", "u4"),
        ("place", "u4"),
        ("site", "u4"),
        ("kind", "u1"),
        ("marks", "u1"),
        ("found", "u1"),
    ]
)
_PLACED = ("place", "site", "stack", "offset")  # see locate.WHERE
_COPIED = ("ns", "address", "count", "tgid", "tid", "kind", "marks")

# A huge page has 512 pages of 4 KiB; the kernel's sum can lag by what it caches per CPU.
_HUGE_PAGES = 448
_HUGE_SHIFT = 21

# How many faults a thread has completed, by process and thread; None if it is gone.
Counter = Callable[[int, int], int | None]


class Exceptions:
    """Joins exceptions with their outcome; the last exception of each thread waits for it."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._waiting: tuple[Events, Events] | None = None

    @property
    def unsettled(self) -> int:
        """How many exceptions wait for their outcome."""
        return 0 if self._waiting is None else int((self._waiting[0]["kind"] == Kind.RAISED).sum())

    def feed(
        self,
        events: Events,
        where: Events,
        last: bool,
        *,
        settles: bool = True,
        until_ns: int = 0,
    ) -> Events:
        """Faults, as FAULT, by thread, from events in order of time.

        `where` has a row for each event, see locate.WHERE. With `settles`, these are all events up
        to `until_ns`, which is now, so that the threads' own counts in /proc can settle their last
        exceptions.
        """
        if self._waiting is not None:
            events = chain(self._waiting[0], events)
            where = chain(self._waiting[1], where)
        events, where = _by_thread(events, where)
        joined = _Joined(events, where, until_ns)
        waits = joined.open & (not last)
        if settles:
            waits[waits] = self._still_open(events[waits])
        of_waiting = waits[joined.exception]
        self._waiting = take(events, of_waiting), take(where, of_waiting)
        return joined.faults(~waits)

    def _still_open(self, events: Events) -> Bools:
        """Which of the threads' last exceptions are new, or still not completed."""
        known = set() if self._waiting is None else set(self._waiting[0]["ns"].tolist())
        return np.array([e["ns"] not in known or self._is_open(e) for e in events], bool)

    def _is_open(self, event: np.void) -> bool:
        count = self._counter(int(event["tgid"]), int(event["tid"]))
        return count is not None and count & 0xFFFF == event["number"]


def _by_thread(events: Events, where: Events) -> tuple[Events, Events]:
    """Both in order of thread, then of time."""
    if (events["tid"] == events["tid"][:1]).all():
        return events, where
    order = stable_order(group_numbers(events["tid"]))
    return take(events, order), take(where, order)


def _last_of(which: Bools) -> Places:
    """For each index the last selected index up to it; 0 where there is none."""
    return np.maximum.accumulate(np.where(which, np.arange(len(which)), 0))


def _tried_again(events: Events) -> Bools:
    """Which exceptions are the one before again, retried after it had waited for I/O.

    Where our probe is at handle_mm_fault(), the kernel calls that again after a wait.
    """
    kind = events["kind"]
    again: Bools = kind == Kind.RAISED
    if not (kind == Kind.WAITED).any():
        return np.zeros(len(events), bool)
    wait = np.maximum(np.arange(len(events)) - 1, 0)
    first = _last_of(again)[wait]
    again &= kind[wait] == Kind.WAITED
    for name in ("tid", "number"):
        again &= (events[name][wait] == events[name]) & (events[name][first] == events[name])
    again &= events["address"][first] == events["address"]
    return again


class _Joined:
    """Events by thread and time, and the exception that each belongs to.

    Attributes:
        exception: for each event, the index of its exception; its own if it has none.
        open: which are exceptions whose outcome is not known yet.
    """

    def __init__(self, events: Events, where: Events, until_ns: int) -> None:
        self._events, self._where, self._until_ns = events, where, until_ns
        kind, place = events["kind"], np.arange(len(events))
        raised = (kind == Kind.RAISED) & ~_tried_again(events)
        before = _last_of(raised)
        same = (events["tid"][before] == events["tid"]) & raised[before]
        same &= (events["number"][before] == events["number"]) & (kind != Kind.THREAD)
        self.exception: Places = np.where(same, before, place)
        self._completed = np.isin(kind, (Kind.MINOR, Kind.MAJOR))
        ended = np.zeros(len(events), bool)
        ended[self.exception[self._completed | (kind == Kind.BAD)]] = True
        following, has_following = self._following(raised)
        again = events["number"][following] == events["number"]
        self._undone = raised & ~ended & has_following & again
        self.open = raised & ~ended & ~has_following
        self._raised = raised
        switches = events["seen"] >> np.uint32(ANON_BITS) & np.uint32((1 << SWITCH_BITS) - 1)
        self._switched = raised & ~(has_following & (switches[following] == switches))

    def _following(self, raised: Bools) -> tuple[Places, Bools]:
        """The next exception of each event's thread, and whether there is one."""
        events = self._events
        place = np.arange(len(events))
        later = np.where(raised, place, len(events))
        following = np.append(np.minimum.accumulate(later[::-1])[::-1][1:], len(events))
        known = following < len(events)
        following = np.where(known, following, place)
        return following, known & (events["tid"][following] == events["tid"])

    def faults(self, wanted: Bools) -> Events:
        """The wanted exceptions as faults, and completed faults without a seen exception."""
        events = self._events
        alone = (self.exception == np.arange(len(events))) & ~self._raised
        alone &= self._completed | (events["kind"] == Kind.BAD)
        chosen = np.flatnonzero((self._raised & wanted & ~self._undone) | alone)
        faults = np.zeros(len(chosen), FAULT)
        all_of_them = len(chosen) == len(events)
        for name in _COPIED:
            faults[name] = events[name] if all_of_them else events[name][chosen]
        for name in _PLACED:
            faults[name] = self._where[name] if all_of_them else self._where[name][chosen]
        raised = events["kind"][chosen] == Kind.RAISED
        faults["kind"][raised] = Kind.MINOR
        faults["found"][raised] = Found.RAISED
        faults["found"] |= np.where(self._switched[chosen], Found.SWITCHED, 0).astype(np.uint8)
        faults["room_ns"] = self._room()[chosen]
        row = np.full(len(events), -1)
        row[chosen] = np.arange(len(chosen))
        self._tell_ends(faults, row)
        self._tell_seen(faults, chosen)
        return faults

    def _room(self) -> U64:
        """Time from each exception to its thread's next; a sequential run shares it evenly."""
        events = self._events
        room, raised = np.zeros(len(events), np.uint64), np.flatnonzero(self._raised)
        if len(raised) == 0:
            return room
        tid, ns, count = (events[name][raised] for name in ("tid", "ns", "count"))
        begins = np.append(True, (tid[1:] != tid[:-1]) | (ns[1:] != ns[:-1]))
        first, of = np.flatnonzero(begins), np.cumsum(begins) - 1
        end = np.full(len(first), max(self._until_ns, int(ns.max())), np.uint64)
        followed = tid[first[1:]] == tid[first[:-1]]
        end[:-1][followed] = ns[first[1:]][followed]
        each = (np.maximum(end, ns[first]) - ns[first]) / np.add.reduceat(count.astype(int), first)
        room[raised] = each[of] * count
        return room

    def _tell_ends(self, faults: Events, row: Places) -> None:
        """Sets kind and time, by the events that report an exception's end or a wait."""
        events = self._events
        of_other = self.exception != np.arange(len(events))
        for kind in (*_ASIDE, Kind.WAITED, Kind.MINOR, Kind.MAJOR, Kind.BAD):
            telling = np.flatnonzero((events["kind"] == kind) & of_other)
            telling = telling[row[self.exception[telling]] >= 0]
            at = row[self.exception[telling]]
            if kind in _ASIDE:
                faults["found"][at] |= np.uint8(_ASIDE[kind])
                continue
            if kind == Kind.WAITED:  # the rest of the fault takes microseconds
                faults["found"][at] |= np.uint8(Found.WAITED)
            else:
                faults["kind"][at] = kind
                faults["marks"][at] |= events["marks"][telling] & np.uint8(Mark.UNMAPPED)
            timed = faults["marks"][at] & Mark.UNTIMED == 0
            at, telling = at[timed], telling[timed]
            faults["time_ns"][at] = events["ns"][telling] - faults["ns"][at]
            faults["found"][at] |= np.uint8(Found.TIMED)

    def _tell_seen(self, faults: Events, chosen: Places) -> None:
        """Sets huge pages and NUMA hints, by the growth of counters until a thread's next event."""
        events = self._events
        following = np.minimum(chosen + 1, len(events) - 1)
        same = (events["tid"][following] == events["tid"][chosen]) & (following > chosen)
        seen, later = events["seen"][chosen], events["seen"][following]
        small = events["count"][chosen] - np.uint32(1)  # a run that goes on is not huge
        anon = (later - seen - small) & np.uint32((1 << ANON_BITS) - 1)
        huge = same & (anon >= _HUGE_PAGES) & (anon < 1 << (ANON_BITS - 1))
        huge = _without_small(faults, huge, same & ~huge)
        above = np.uint32(ANON_BITS + SWITCH_BITS)
        hinted = same & (later >> above != seen >> above)
        faults["found"] |= np.where(huge, Found.HUGE, 0).astype(np.uint8)
        faults["found"] |= np.where(hinted, Found.NUMA, 0).astype(np.uint8)


def _without_small(faults: Events, huge: Bools, small: Bools) -> Bools:
    """The possible huge faults in whose 2 MiB the process took no small fault.

    While a thread does not run, other threads can touch as many small pages as a huge one has; but
    where a huge page is mapped, no small page is left to touch.
    """
    if not huge.any():
        return huge
    first, last = _blocks(faults)
    spans = (last - first)[small].astype(np.intp) + 1
    within = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
    taken = np.repeat(first[small], spans) + within.astype(np.uint64)
    alone: Bools = huge & ~np.isin(first, taken)
    return alone


def _blocks(faults: Events) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The 2 MiB block that each begins in, and that it ends in; numbered across processes."""
    process = faults["tgid"].astype(np.uint64) << np.uint64(64 - _HUGE_SHIFT)
    beyond = (faults["count"] - np.uint32(1)).astype(np.uint64) * np.uint64(PAGE_BYTES)
    first, last = (faults["address"] + more >> np.uint64(_HUGE_SHIFT) for more in (0, beyond))
    return first ^ process, last ^ process
