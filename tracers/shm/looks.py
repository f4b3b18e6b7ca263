"""What user space has the C program look at: pages that wait for a list, and segments."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events, dtype_of
from memtap.tracers.model.enricher import Source
from memtap.tracers.shm.probes import LOOK

# Of the C program: where pages are noted, how many in a place, and the words of a place; how many
# wishes it fulfils at a time, and their words.
PLACES, PAGES, WORDS = 4096, 4, 16
WISHES, WISH_WORDS = 256, 3

Numbers = npt.NDArray[np.uint64]


class Looks:
    """Asks the C program, which answers for itself (`struct answer`)."""

    def __init__(self, session: Source) -> None:
        self._session = session
        self._answer = dtype_of(session.layouts["answer"])
        self._places = session.shared("places", PLACES, WORDS)
        self._wishes = session.shared("wishes", WISHES, WISH_WORDS)

    def waiting(self) -> Events:
        """Whose pages of segments are on no list yet. Each is told of once, here or as an event."""
        noted = np.flatnonzero(self._places[:, :PAGES]).astype(np.uint64)
        wishes = np.zeros((len(noted), WISH_WORDS), np.uint64)
        wishes[:, 2] = noted + 1
        answers = self._fulfil(wishes)
        return answers[answers["owner"] > 0]

    def at(self, inodes: Numbers, segments: Numbers) -> Events:
        """How segments are now; all 0 of one whose inode is gone."""
        return self._fulfil(np.stack([inodes, segments, np.zeros_like(inodes)], axis=1))

    def _fulfil(self, wishes: Numbers) -> Events:
        parts = [np.empty(0, self._answer)]
        for first in range(0, len(wishes), WISHES):
            some = wishes[first : first + WISHES]
            self._wishes[:] = 0
            self._wishes[: len(some)] = some
            parts.append(np.frombuffer(self._session.iterate(LOOK, os.getpid()), self._answer))
        return np.concatenate(parts)
