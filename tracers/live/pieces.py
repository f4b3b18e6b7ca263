"""Divides drained events into pieces, so that the user need not wait until all are processed."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from memtap.bpf.session import Drained

# A piece has as many events as take this long to process, within the limits below.
_PIECE_S = 0.1
_LEAST, _MOST = 1 << 10, 1 << 18


class Pieces:
    """Divides drained events into pieces; the time that the last pieces took sets their size."""

    def __init__(self) -> None:
        self._size = 1 << 14

    def of(self, drained: Drained) -> Iterator[Drained]:
        """The pieces, in order of time; a piece has been processed when the next is asked for."""
        while True:
            began = time.monotonic()
            piece, rest = _first(drained, self._size)
            yield piece
            if rest is None:
                return
            drained = rest
            pace = _PIECE_S / max(time.monotonic() - began, _PIECE_S / 4)
            self._size = min(max(int(self._size * pace), _LEAST), _MOST)


def _first(drained: Drained, size: int) -> tuple[Drained, Drained | None]:
    """The first `size` events, with others of the same time; and the rest, if there is any."""
    ns = drained.events["ns"] if len(drained.events) else np.empty(0, np.uint64)
    if int(np.searchsorted(ns, drained.until_ns, "right")) <= size:
        return drained, None
    until = int(ns[size - 1])
    count = int(np.searchsorted(ns, until, "right"))
    told = bisect_right(drained.sideband, until, key=lambda each: each.ns)
    early = drained.frames["ns"] <= until if len(drained.frames) else np.zeros(0, bool)
    piece = replace(
        drained,
        events=drained.events[:count],
        runs=drained.runs[:0],
        names=[],
        sideband=drained.sideband[:told],
        until_ns=until,
        frames=drained.frames[early],
        spilled=drained.spilled[:0],
        goes_on=True,
    )
    rest = replace(
        drained,
        events=drained.events[count:],
        sideband=drained.sideband[told:],
        frames=drained.frames[~early],
    )
    return piece, rest
