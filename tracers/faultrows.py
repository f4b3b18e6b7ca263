"""The rows that reports of page faults are counted from, live or out of a recording."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.faultplan import Error, Kind, Mark
from memtap.tracers.mappings import Place, Region

Numbers = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]


class Cause(IntEnum):
    """Why a fault was taken; docs/faults.md says what each means."""

    UNKNOWN = 0
    FIRST_TOUCH = 1
    ZERO_PAGE = 2
    COW = 3
    FILE_MAP = 4
    FILE_READ = 5
    SHM = 6
    SWAP_IN = 7
    THP = 8
    NUMA = 9
    USERFAULT = 10
    BAD_ACCESS = 11

    @property
    def text(self) -> str:
        """As reports call it."""
        return "?" if self is Cause.UNKNOWN else self.name.lower().replace("_", "-")


# A fault. `time_ns` is 0 where it is not known (see Mark.TIMED in `marks`); `place`, `site` and
# `stack` are numbers of texts that a chunk tells.
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("address", "u8"),
        ("time_ns", "u8"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("place", "u4"),
        ("site", "u4"),
        ("stack", "u4"),
        ("kind", "u1"),
        ("region", "u1"),
        ("cause", "u1"),
        ("marks", "u1"),
    ]
)

_LONG_NS = 1024  # the unit of times with Mark.SLOW


def rows_of(events: Events, numbers: Numbers, places: list[Place]) -> Events:
    """Events of the C program, each with the number of its place, as rows without code."""
    rows = np.zeros(len(events), ROW)
    for name in ("ns", "address", "tgid", "tid", "kind", "marks"):
        rows[name] = events[name]
    slow = events["marks"] & Mark.SLOW > 0
    rows["time_ns"] = events["time"] * np.where(slow, _LONG_NS, 1).astype(np.uint64)
    rows["place"] = numbers
    regions = np.array([place.region for place in places], np.uint8)
    of_file, shared = np.array([(place.of_file, place.shared) for place in places]).T
    region = _refined(regions[numbers], events)
    rows["region"] = region
    rows["cause"] = causes(events, region, of_file[numbers], shared[numbers])
    return rows


def _refined(region: npt.NDArray[np.uint8], events: Events) -> npt.NDArray[np.uint8]:
    """Regions, by what only the fault itself tells: thread stacks, and that there is nothing."""
    on_stack = (region == Region.ANON) & (events["marks"] & Mark.STACK > 0)
    nowhere = (region == Region.UNKNOWN) & (events["kind"] == Kind.BAD)
    choices = [(on_stack, Region.THREAD_STACK), (nowhere, Region.UNMAPPED)]
    refined: npt.NDArray[np.uint8] = np.select(
        [condition for condition, _ in choices], [found for _, found in choices], region
    ).astype(np.uint8)
    return refined


def causes(
    events: Events, region: npt.NDArray[np.uint8], of_file: Bools, shared: Bools
) -> npt.NDArray[np.uint8]:
    """Why each fault was taken: the first rule that holds.

    `of_file` and `shared` tell of each one's mapping.
    """
    major, marks = events["kind"] == Kind.MAJOR, events["marks"]
    present = events["error"] & Error.PRESENT > 0
    write = events["error"] & Error.WRITE > 0
    shm = region == Region.SHM
    rules = [
        (events["kind"] == Kind.BAD, Cause.BAD_ACCESS),
        (region == Region.UNKNOWN, Cause.UNKNOWN),
        (of_file & major, Cause.FILE_READ),
        ((of_file | shm | present) & write & ~shared, Cause.COW),
        (of_file, Cause.FILE_MAP),
        (shm & major, Cause.SWAP_IN),
        (shm, Cause.SHM),
        (marks & Mark.NUMA > 0, Cause.NUMA),
        (~present & (marks & Mark.SWAPPED > 0), Cause.SWAP_IN),
        (major, Cause.USERFAULT),
        (marks & Mark.HUGE > 0, Cause.THP),
        (write | (marks & Mark.TIMED == 0), Cause.FIRST_TOUCH),
    ]
    conditions = [condition for condition, _ in rules]
    found: npt.NDArray[np.uint8] = np.select(
        conditions, [cause for _, cause in rules], Cause.ZERO_PAGE
    ).astype(np.uint8)
    return found
