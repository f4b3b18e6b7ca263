"""Asks the C program to look at pages that wait for an LRU list, and at segments."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events, dtype_of
from memtap.tracers.model.enricher import Source
from memtap.tracers.shm.probes import LOOK

# As in the C program: how many places note pages, the pages in a place, and its 64-bit words; how
# many requests (`wishes`) it answers at a time, and their words.
PLACES, PAGES, WORDS = 4096, 4, 16
WISHES, WISH_WORDS = 256, 3

Numbers = npt.NDArray[np.uint64]


class Looks:
    """Asks the C program, which answers by an iterator (`struct answer`)."""

    def __init__(self, session: Source) -> None:
        self._session = session
        self._answer = dtype_of(session.layouts["answer"])
        self._places = session.shared("places", PLACES, WORDS)
        self._wishes = session.shared("wishes", WISHES, WISH_WORDS)

    def waiting(self) -> Events:
        """Pages of segments that are on no list yet. Each is reported once, here or as an event."""
        noted = np.flatnonzero(self._places[:, :PAGES]).astype(np.uint64)
        wishes = np.zeros((len(noted), WISH_WORDS), np.uint64)
        wishes[:, 2] = noted + 1
        answers = self._fulfil(wishes)
        return answers[answers["owner"] > 0]

    def at(self, inodes: Numbers, segments: Numbers) -> Events:
        """The state of segments now; all 0 if the inode is gone."""
        return self._fulfil(np.stack([inodes, segments, np.zeros_like(inodes)], axis=1))

    def _fulfil(self, wishes: Numbers) -> Events:
        parts = [np.empty(0, self._answer)]
        for first in range(0, len(wishes), WISHES):
            some = wishes[first : first + WISHES]
            self._wishes[:] = 0
            self._wishes[: len(some)] = some
            parts.append(np.frombuffer(self._session.iterate(LOOK, os.getpid()), self._answer))
        return np.concatenate(parts)
