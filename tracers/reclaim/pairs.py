"""Begin and end events, paired by thread and kind."""

from __future__ import annotations

import numpy as np

from memtap.bpf.stream import Events, take
from memtap.tracers.model.arrays import group_numbers, in_order, stable_order
from memtap.tracers.reclaim.probes import Edge


class Spans:
    """Pairs begins with ends, across chunks.

    Attributes:
        orphans: end events whose begin was before tracing, or was lost.
    """

    def __init__(self, row: np.dtype[np.void]) -> None:
        self._open = self._early = np.zeros(0, row)
        self.orphans = 0

    def feed(self, rows: Events, until_ns: int, last: bool) -> tuple[Events, Events]:
        """The rows that end a span now, and the rows that began them, as parallel arrays.

        A thread can move in between to another CPU, whose events come in later: so rows after
        `until_ns` wait for the next call, unless this is the last.
        """
        rows = np.concatenate([self._early, rows[rows["edge"] > 0]])
        is_early = (rows["ns"] > until_ns) & (not last)
        self._early = rows[is_early]
        return self._pair(in_order(np.concatenate([self._open, rows[~is_early]]), "ns"))

    def _pair(self, rows: Events) -> tuple[Events, Events]:
        group = group_numbers(rows["tid"], rows["kind"])
        order = stable_order(group)
        rows, group = take(rows, order), group[order]
        ends = rows["edge"] == Edge.ENDS
        follows = np.zeros(len(rows), np.bool_)
        follows[1:] = group[1:] == group[:-1]
        pairs = np.zeros(len(rows), np.bool_)
        pairs[1:] = ends[1:] & ~ends[:-1] & follows[1:]
        is_last = np.ones(len(rows), np.bool_)
        is_last[:-1] = ~follows[1:]
        self._open = rows[~ends & is_last]
        self.orphans += int((ends & ~pairs).sum())
        at = np.flatnonzero(pairs)
        return rows[at], rows[at - 1]
