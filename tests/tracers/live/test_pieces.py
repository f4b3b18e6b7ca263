"""A drained in pieces is the same drained."""

from __future__ import annotations

import random

import numpy as np

from memtap.bpf.session import Drained
from memtap.bpf.sideband import Ended
from memtap.tracers.live.pieces import Pieces

EVENT = np.dtype([("ns", "u8"), ("what", "u4")])


def cut_of(times: list[int], until: int) -> Drained:
    events = np.zeros(len(times), EVENT)
    events["ns"], events["what"] = sorted(times), np.arange(len(times))
    told = [Ended(ns, 1) for ns in sorted(times)[::3]]
    frames = events[::2].copy()
    empty = events[:0]
    return Drained(events, empty, [], told, until, frames, empty)


def test_the_pieces_are_the_whole_in_order() -> None:
    chance = random.Random(3)
    for _ in range(20):
        times = [chance.randrange(200) for _ in range(chance.randrange(50_000))]
        whole = cut_of(times, until=150)
        pieces = list(Pieces().of(whole))
        assert [piece.goes_on for piece in pieces] == [True] * (len(pieces) - 1) + [False]
        for name in ("events", "frames"):
            parts = np.concatenate([getattr(piece, name) for piece in pieces])
            assert (np.sort(parts) == np.sort(getattr(whole, name))).all()
        assert [each for piece in pieces for each in piece.sideband] == whole.sideband
        for piece in pieces[:-1]:
            later = [each for each in pieces if each.until_ns > piece.until_ns]
            assert all((each.events["ns"] > piece.until_ns).all() for each in later)
        assert pieces[-1].until_ns == 150


def test_much_is_divided_and_little_is_not() -> None:
    assert len(list(Pieces().of(cut_of(list(range(100_000)), 10**6)))) > 1
    assert len(list(Pieces().of(cut_of(list(range(100)), 10**6)))) == 1
    at_once = list(Pieces().of(cut_of([7] * 100_000, 10**6)))
    assert [len(piece.events) for piece in at_once] == [100_000, 0]
