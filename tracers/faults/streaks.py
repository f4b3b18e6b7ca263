"""Sequential runs: exceptions in a row, each one page above the one before, kept as one event.

Nothing was mapped during a run, so we locate all of it as of its first exception. All its
exceptions were completed, except perhaps the last.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events, take
from memtap.tracers.code.intervals import PAGE_BYTES, Parts
from memtap.tracers.faults.probes import Mark

# In the C program's `seen`: the bits for pages; above them, how often the task left its CPU.
ANON_BITS = 20
SWITCH_BITS = 4
_ANON_MASK = np.uint32((1 << ANON_BITS) - 1)


def ends_apart(events: Events) -> Events:
    """Splits each sequential run into two events: all but its last exception, and the last.

    When the last was raised is not known, so it gets the time of the first, and Mark.UNTIMED.
    """
    streaks = np.flatnonzero(events["count"] > 1)
    if len(streaks) == 0:
        return events
    apart = take(events, np.repeat(np.arange(len(events)), 1 + (events["count"] > 1)))
    first = streaks + np.arange(len(streaks))
    last, before = first + 1, events["count"][streaks] - np.uint16(1)
    apart["count"][first] = before
    _advance(apart, last, before)
    apart["count"][last] = 1
    apart["marks"][last] |= np.uint8(Mark.UNTIMED)
    return apart


def _advance(events: Events, which: npt.NDArray[np.intp], by: npt.NDArray[np.uint16]) -> None:
    """Moves each event forward in its sequential run, `by` so many exceptions.

    Each exception added one anonymous page to the process, or none.
    """
    seen = events["seen"][which]
    events["address"][which] += by.astype(np.uint64) * np.uint64(PAGE_BYTES)
    events["number"][which] += by
    events["seen"][which] = (seen & ~_ANON_MASK) | (seen + by & _ANON_MASK)


def in_parts(events: Events, where: Events, parts: dict[int, Parts]) -> tuple[Events, Events]:
    """Splits events that cross the borders of places; `parts` are by row.

    `where` has a row for each event, see locate.WHERE.
    """
    if not parts:
        return events, where
    copies = np.ones(len(events), np.intp)
    copies[list(parts)] = [len(each) for each in parts.values()]
    which = np.repeat(np.arange(len(events)), copies)
    cut, where = take(events, which), take(where, which)
    begins = np.cumsum(copies) - copies
    for row, each in parts.items():
        counts = np.array([part.pages for part in each], np.uint16)
        pieces = np.arange(begins[row], begins[row] + len(each))
        _advance(cut, pieces, np.cumsum(counts, dtype=np.uint16) - counts)
        cut["count"][pieces] = counts
        where["place"][pieces] = [part.place for part in each]
        where["offset"][pieces] = [part.offset for part in each]
    return cut, where
