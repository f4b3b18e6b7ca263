"""The rows that the page cache's reports are counted from, live or out of a recording."""

from __future__ import annotations

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.pagecache import Kind

# What tells one thing that is counted from another.
KEYS = ("tgid", "dev", "ino")

# `struct event` of bpf/programs/pagecache.bpf.c, with the time in `ns` (CLOCK_MONOTONIC).
ROW = np.dtype(
    [
        ("ns", "u8"),
        ("ino", "u8"),
        ("index", "u8"),
        ("dev", "u4"),
        ("tgid", "u4"),
        ("tid", "u4"),
        ("pages", "u4"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("call", "u2"),
    ]
)


def rows_of(events: Events, runs: Events) -> Events:
    """Events and counted runs as one array; a run becomes a row of kind HITS, with time 0."""
    rows = np.zeros(len(events) + len(runs), ROW)
    for name in ROW.names or ():
        rows[name][len(runs) :] = events[name]
    for name in KEYS:
        rows[name][: len(runs)] = runs[name]
    rows["pages"][: len(runs)] = runs["hits"]
    rows["kind"][: len(runs)] = Kind.HITS
    return rows
