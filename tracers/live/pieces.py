"""A cut in pieces: so nobody has to wait until all of it is worked on."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from memtap.bpf.session import Cut

# A piece has so many events that work on it takes so long, and not less or more than these.
_PIECE_S = 0.1
_LEAST, _MOST = 1 << 10, 1 << 18


class Pieces:
    """Takes cuts apart; the size of the pieces follows from how long work on the last ones took."""

    def __init__(self) -> None:
        self._size = 1 << 14

    def of(self, cut: Cut) -> Iterator[Cut]:
        """The parts of a cut, in order of time; work on each is done when the next is asked for."""
        while True:
            began = time.monotonic()
            piece, rest = _first(cut, self._size)
            yield piece
            if rest is None:
                return
            cut = rest
            pace = _PIECE_S / max(time.monotonic() - began, _PIECE_S / 4)
            self._size = min(max(int(self._size * pace), _LEAST), _MOST)


def _first(cut: Cut, size: int) -> tuple[Cut, Cut | None]:
    """So many events, or some more that are of the same time; and what is left, if there is any."""
    ns = cut.events["ns"] if len(cut.events) else np.empty(0, np.uint64)
    if int(np.searchsorted(ns, cut.until_ns, "right")) <= size:
        return cut, None
    until = int(ns[size - 1])
    count = int(np.searchsorted(ns, until, "right"))
    told = bisect_right(cut.told, until, key=lambda each: each.ns)
    early = cut.frames["ns"] <= until if len(cut.frames) else np.zeros(0, bool)
    piece = replace(
        cut,
        events=cut.events[:count],
        runs=cut.runs[:0],
        names=[],
        told=cut.told[:told],
        until_ns=until,
        frames=cut.frames[early],
        spilled=cut.spilled[:0],
        goes_on=True,
    )
    rest = replace(cut, events=cut.events[count:], told=cut.told[told:], frames=cut.frames[~early])
    return piece, rest
