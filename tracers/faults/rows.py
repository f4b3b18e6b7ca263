"""The rows that reports of page faults are counted from, live or from a recording."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.code.mappings import Region
from memtap.tracers.faults.match import Found
from memtap.tracers.faults.probes import Kind, Mark
from memtap.tracers.model.labels import Label
from memtap.tracers.model.tracer import RowType

Bools = npt.NDArray[np.bool_]


class Cause(Label):
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
    FILE_WAIT = 12


# A fault, or `count` of them; then `address` and `offset` (in the file) are those of the first.
# `time_ns` is 0 where it is not known, `room_ns` the most that it can be, and `switched` whether
# the thread may have left its CPU in that time; see match.FAULT. `place`, `site` and `stack` are
# numbers of texts in chunks.
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("address", "u8"),
        ("offset", "u8"),
        ("time_ns", "u8"),
        ("room_ns", "u8"),
        ("count", "u4"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("place", "u4"),
        ("site", "u4"),
        ("stack", "u4"),
        ("kind", "u1"),
        ("region", "u1"),
        ("cause", "u1"),
        ("marks", "u1"),
        ("switched", "u1"),
    ]
)


def are_possible(rows: Events) -> bool:
    """Whether all numbers that stand for labels are valid."""
    return bool(((rows["region"] <= max(Region)) & (rows["cause"] <= max(Cause))).all())


ROW_TYPE = RowType(ROW, counts=("time_ns",), are_possible=are_possible)


_COPIED = [name for name in ROW.names or () if name not in ("region", "cause", "switched")]


def rows_of(faults: Events, traits: npt.NDArray[np.void], swaps: bool) -> Events:
    """Faults (match.FAULT) as rows; `traits` as in Mappings, `swaps` as in causes()."""
    rows = np.zeros(len(faults), ROW)
    for name in _COPIED:
        rows[name] = faults[name]
    region, of_file, shared = (
        traits[name][faults["place"]] for name in ("region", "of_file", "shared")
    )
    region = _refined(region, faults)
    rows["region"] = region
    rows["switched"] = faults["found"] & Found.SWITCHED > 0
    rows["cause"] = causes(faults, region, of_file, shared, swaps)
    return rows


def already_spilled(faults: Events, spilled: dict[int, int]) -> Bools:
    """Which faults (match.FAULT) have already been counted by a spilled exception.

    Those are faults of which only the completion was seen, up to the number `spilled` of each
    process, which this function reduces.
    """
    alone = faults["found"] & Found.RAISED == 0
    counted = np.zeros(len(faults), bool)
    for tgid in np.unique(faults["tgid"][alone]).tolist():
        of_process = np.flatnonzero(alone & (faults["tgid"] == tgid))[: spilled.get(tgid, 0)]
        counted[of_process] = True
        spilled[tgid] = spilled.get(tgid, 0) - len(of_process)
    return counted


def spilled_rows(spilled: Events, counts: bool, ns: int) -> Events:
    """Faults for which no ring had room, as rows: only their process is known.

    Each spilled exception stands for a completed fault, unless with `counts` only completions are
    seen. Major faults are counted separately.
    """
    if len(spilled) == 0:
        return np.empty(0, ROW)
    tgids = np.unique(spilled["tgid"])
    minor, major = (_of_each(spilled, kind, tgids) for kind in (Kind.MINOR, Kind.MAJOR))
    if not counts:
        raised = _of_each(spilled, Kind.RAISED, tgids)
        major = np.minimum(major, raised)  # the exceptions of other major faults were not spilled
        minor = raised - major
    rows = np.zeros(2 * len(tgids), ROW)
    rows["ns"], rows["tgid"] = ns, np.tile(tgids, 2)
    rows["kind"] = np.repeat([Kind.MINOR, Kind.MAJOR], len(tgids))
    rows["count"] = np.concatenate([minor, major])
    return rows[rows["count"] > 0]


def by_process(rows: Events) -> dict[int, int]:
    """How many faults each process has in rows."""
    tgids, places = np.unique(rows["tgid"], return_inverse=True)
    return dict(zip(tgids.tolist(), np.bincount(places, rows["count"]).astype(int), strict=True))


def _of_each(spilled: Events, kind: Kind, tgids: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """How many events of a kind each of these processes had."""
    of_kind = spilled[spilled["kind"] == kind]
    places = np.searchsorted(tgids, of_kind["tgid"])
    return np.bincount(places, of_kind["events"], len(tgids)).astype(np.int64)


def _refined(region: npt.NDArray[np.uint8], faults: Events) -> npt.NDArray[np.uint8]:
    """Regions, refined by what only the fault knows: heap, thread stack, or unmapped."""
    marks, anon = faults["marks"], region == Region.ANON
    nowhere = (region == Region.UNKNOWN) & (faults["kind"] == Kind.BAD)
    choices = [
        (nowhere | (marks & Mark.UNMAPPED > 0), Region.UNMAPPED),
        (anon & (marks & Mark.HEAP > 0), Region.HEAP),
        (anon & (marks & Mark.STACK > 0), Region.THREAD_STACK),
    ]
    refined: npt.NDArray[np.uint8] = np.select(
        [condition for condition, _ in choices], [found for _, found in choices], region
    ).astype(np.uint8)
    return refined


def causes(
    faults: Events, region: npt.NDArray[np.uint8], of_file: Bools, shared: Bools, swaps: bool
) -> npt.NDArray[np.uint8]:
    """Why each fault was taken: the first rule that holds.

    `of_file` and `shared` are those of each fault's mapping; `swaps` is whether there is swap at
    all: a fault that only waited is major, too.
    """
    major, found = faults["kind"] == Kind.MAJOR, faults["found"]
    present = faults["marks"] & Mark.PRESENT > 0
    write = faults["marks"] & Mark.WRITE > 0
    shm = region == Region.SHM
    rules = [
        (faults["kind"] == Kind.BAD, Cause.BAD_ACCESS),
        (found & Found.USERFAULT > 0, Cause.USERFAULT),
        (region == Region.UNKNOWN, Cause.UNKNOWN),
        (of_file & major, Cause.FILE_READ),
        (of_file & (found & Found.WAITED > 0), Cause.FILE_WAIT),
        ((of_file | shm | present) & write & ~shared, Cause.COW),
        (of_file, Cause.FILE_MAP),
        (shm & major & swaps, Cause.SWAP_IN),
        (shm, Cause.SHM),
        (found & Found.NUMA > 0, Cause.NUMA),
        ((major & swaps) | (~present & (found & Found.SWAPPED > 0)), Cause.SWAP_IN),
        (found & Found.HUGE > 0, Cause.THP),
        (write | (found & Found.RAISED == 0), Cause.FIRST_TOUCH),
    ]
    conditions = [condition for condition, _ in rules]
    why: npt.NDArray[np.uint8] = np.select(
        conditions, [cause for _, cause in rules], Cause.ZERO_PAGE
    ).astype(np.uint8)
    return why
