"""The rows that the page cache's reports are counted from, live or from a recording."""

from __future__ import annotations

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.model.tracer import RowType
from memtap.tracers.pagecache.probes import Flag, Kind

# The members by which rows are counted.
KEYS = ("tgid", "file")

# `struct event` of bpf/programs/pagecache.bpf.c, with the time in `ns` (CLOCK_MONOTONIC).
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("file", "u8"),  # its number, see files.py
        ("index", "u8"),
        ("whole", "u4"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("pages", "u4"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("call", "u2"),
    ]
)


_ACCESSES = (Kind.READ, Kind.MAP, Kind.FAULT)


# Pages of a file are counted up to here: its size is less than 2^63 bytes.
_MOST_PAGES = 1 << 52


def are_possible(rows: Events) -> bool:
    """Whether all page numbers are possible in a file."""
    return bool((rows["index"] < _MOST_PAGES).all())


ROW_TYPE = RowType(ROW, are_possible=are_possible)


def rows_of(events: Events, runs: Events, spilled: Events) -> Events:
    """Events, counted runs and spilled events as one array.

    A run becomes a row of kind HITS, with time 0, and so do accesses whose pages are not known.
    Rows of spilled events have Flag.SPILLED, and the number of events in `index`.
    """
    kept = np.zeros(len(events), ROW)
    for name in ROW.names or ():
        kept[name] = events[name]
    counted = np.zeros(len(runs), ROW)
    for name in KEYS:
        counted[name] = runs[name]
    counted["pages"], counted["kind"] = runs["hits"], Kind.HITS
    return np.concatenate([_spilled_rows(spilled), counted, kept])


def _spilled_rows(spilled: Events) -> Events:
    if len(spilled) == 0:
        return np.empty(0, ROW)
    is_access = np.isin(spilled["kind"], _ACCESSES)
    again = is_access & (spilled["flags"] & Flag.AGAIN > 0)
    spilled, is_access = spilled[~again], is_access[~again]
    rows = np.zeros(len(spilled), ROW)
    for name in KEYS:
        rows[name] = spilled[name]
    rows["kind"] = np.where(is_access, Kind.HITS, spilled["kind"])
    rows["flags"] = spilled["flags"] | Flag.SPILLED
    rows["index"], rows["pages"] = spilled["events"], spilled["units"]
    rows["whole"] = np.where(spilled["kind"] == Kind.DIRTY, spilled["units"], 0)
    return rows
