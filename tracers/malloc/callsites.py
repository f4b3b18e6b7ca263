"""Which code made malloc call the kernel: the innermost frame that is not malloc's own."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.code.aside import Question
from memtap.tracers.code.intervals import NOWHERE
from memtap.tracers.code.mappings import SPOT, Mappings
from memtap.tracers.code.sites import Sites, code_of
from memtap.tracers.code.unwind import WORD, Frames, Rule
from memtap.tracers.malloc.libraries import serves_malloc
from memtap.tracers.model.arrays import group_numbers

# More frames than there ever are between a system call and the caller of malloc.
_DEEPEST = 24

_REMEMBERED = 1 << 16

# The spot of each call, see mappings.SPOT.
Spots = npt.NDArray[np.void]


class CallSites:
    """Numbers for the code that made calls.

    Attributes:
        texts: what the numbers stand for.
        notes: see Sites.
    """

    def __init__(self, mappings: Mappings) -> None:
        self._mappings = mappings
        self._sites = Sites()
        self._known: dict[tuple[int, int], Rule | None] = {}
        self._serves: dict[int, bool] = {}
        self.texts, self.notes = self._sites.sites, self._sites.notes

    def of(self, calls: Events, last: bool = False) -> npt.NDArray[np.uint32]:
        """The number of the site of each call; calls are as from Stream.take_frames().

        If the stack cannot be unwound out of malloc, it is the last function that was found.
        """
        frames, left = _frames(calls), np.arange(len(calls))
        found, ips = np.zeros(len(calls), SPOT), np.zeros(len(calls), np.uint64)
        for depth in range(_DEEPEST):
            spots = self._locate(calls[left], frames.ip)
            there = spots["place"] != NOWHERE
            found[left[there]], ips[left[there]] = spots[there], frames.ip[there]
            inner = np.flatnonzero(there & self._of_malloc(spots["place"]))
            if len(inner) == 0:
                break
            tgids, left = calls["tgid"][left[inner]], left[inner]
            frames = self._up(frames.take(inner), tgids, spots[inner], depth > 0, last)
        places = self._mappings.places
        return self._sites.of(calls["tgid"], ips, found["place"], found["offset"], places, last)

    def _locate(self, calls: Events, ips: npt.NDArray[np.uint64]) -> Spots:
        spots = np.zeros(len(calls), SPOT)
        order = np.argsort(calls["tgid"], kind="stable")
        begins = np.flatnonzero(np.diff(calls["tgid"][order], prepend=-1))
        for mine in np.split(order, begins[1:]) if len(order) else ():
            tgid = int(calls["tgid"][mine[0]])
            spots[mine] = self._mappings.code_at(tgid, calls["ns"][mine], ips[mine])
        return spots

    def _of_malloc(self, numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        distinct, which = np.unique(numbers, return_inverse=True)
        if len(self._serves) > _REMEMBERED:
            self._serves.clear()
        for number in distinct.tolist():
            if number not in self._serves:
                self._serves[number] = serves_malloc(self._mappings.places[number].path)
        serves = np.array([self._serves[number] for number in distinct.tolist()], bool)
        return serves[which]

    def _up(
        self,
        frames: Frames,
        tgids: npt.NDArray[np.uint32],
        spots: Spots,
        returns: bool,
        last: bool,
    ) -> Frames:
        """Unwinds to the callers. A return address stands for the call instruction before it."""
        group = group_numbers(spots["place"], spots["offset"])
        _, one = np.unique(group, return_index=True)
        keys = [(number, offset - returns) for number, offset in spots[one].tolist()]
        self._ask_rules(dict(zip(keys, tgids[one].tolist(), strict=True)), last)
        return frames.up([self._known.get(key) for key in keys], group)

    def _ask_rules(self, wanted: dict[tuple[int, int], int], last: bool) -> None:
        """Asks for unknown rules, each through one of the processes that need it."""
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        questions: dict[Hashable, Question] = {
            ("rule", *key): ("rule", tgid, key[1], code_of(self._mappings.places[key[0]], 0, 0))
            for key, tgid in wanted.items()
            if key not in self._known
        }
        if questions:
            for key, rule in self._sites.aside.ask(questions, last).items():
                if key[0] == "rule":
                    self._known[key[1:]] = rule and Rule(*rule)


def _frames(calls: Events) -> Frames:
    """Calls at the frame that made them; stack words that were not copied are zero."""
    words = calls["words"].copy()
    taken = calls["used"] // np.uint32(WORD)
    words[np.arange(words.shape[1]) >= taken[:, None]] = 0
    ip, sp, bp, link = (calls[name].astype(np.uint64) for name in ("ip", "sp", "bp", "link"))
    return Frames(ip, sp, bp, sp, words, link)
