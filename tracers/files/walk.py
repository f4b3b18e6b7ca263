"""Runs the C program step by step through all inodes, and returns what it found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Session
from memtap.bpf.stream import Events, dtype_of
from memtap.tracers.files.probes import MAPPED, NAMES, OPEN, SUPERS, WALK, Step

# As in the C program: the most entries that a step fills in `files` and `supers`; how many names it
# finds at a time, and the bytes of one; the 64-bit words of the walk's state.
STEP, WISHES, NAME_BYTES, WALK_WORDS = 2048, 64, 4096 + 256, 94

# How often the inode at which a walk continues may have been freed, until we give up.
MOST_RESTARTS = 1000

BDEV, TMPFS, HUGETLBFS = 0x62646576, 0x01021994, 0x958458F6

Numbers = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Super:
    """A super block: its number in the kernel, device (dev_t), magic, and the type's name."""

    number: int
    dev: int
    magic: int
    fstype: str


@dataclass(frozen=True)
class Trail:
    """The names of a file, its own first, each ended by NUL, and its FileFlag.

    `parent` is the dentry of its directory now.
    """

    names: bytes
    flags: int
    parent: int


class Walker:
    """Walks through the kernel's inodes.

    Attributes:
        seen: how many inodes were looked at.
        restarts: how often the inode at which to continue was gone.
        given_up: how many file systems were not walked to their end.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        layouts = session.layouts
        self._file, self._super = dtype_of(layouts["file"]), dtype_of(layouts["super"])
        self._wish, self._holder = dtype_of(layouts["wish"]), dtype_of(layouts["holder"])
        words = session.shared("walks", 1, WALK_WORDS)[0]
        self._words, self._walk = words, words[:5].view(dtype_of(layouts["walk"]))[0:1]
        self._files = session.shared("files", STEP, self._file.itemsize // 8)
        self._supers = session.shared("supers", STEP, self._super.itemsize // 8)
        self._trails = session.shared("trails", WISHES, self._trail_bytes // 8).view(np.uint8)
        self.seen = self.restarts = self.given_up = 0

    @property
    def open_inode(self) -> int:
        """The inode of which more parts may follow; 0 if there is none."""
        return int(self._words[1]) if self._words[_IS_IN] else 0

    @property
    def _trail_bytes(self) -> int:
        return self._wish.itemsize + NAME_BYTES

    def _begin(self, super_block: int = 0, inode: int = 0) -> None:
        self._words[:] = 0
        self._walk["super"], self._walk["inode"] = super_block, inode

    def supers(self) -> list[Super]:
        """All super blocks whose files can have cached pages."""
        for _ in range(MOST_RESTARTS):
            self._begin()
            parts = [self._some_supers()]
            while self._walk["state"][0] == Step.GOING:
                parts.append(self._some_supers())
            if self._walk["state"][0] == Step.ENDED:
                break
        found = np.unique(np.concatenate(parts))
        types = found[["type", "type_1", "type_2", "type_3"]].copy().tolist()
        return [
            Super(int(each["super"]), int(each["dev"]), int(each["magic"]), _text(words))
            for each, words in zip(found, types, strict=True)
            if each["magic"] != HUGETLBFS
        ]

    def _some_supers(self) -> Events:
        self._session.run(SUPERS)
        return self._supers[: int(self._walk["told"][0])].copy().view(self._super).reshape(-1)

    def files(self, of: Super) -> Iterator[Events]:
        """All files of a super block that have pages, or had some (shadow entries); each once.

        If the pages of a file are charged to several cgroups, it comes in several parts.
        """
        places, reported = [0], list[Numbers]()
        restarts = 0
        self._begin(of.number)
        while self._walk["state"][0] == Step.GOING:
            found = self._step()
            if restarts:
                found = found[~np.isin(found["inode"], np.concatenate(reported))]
            reported.append(found["inode"].copy())
            yield found
            if self._walk["state"][0] == Step.LOST:
                restarts += 1
                places = places[:-1] or [0]
                self._begin(of.number, places[-1])
                self.given_up += restarts == MOST_RESTARTS
                self._walk["state"] = Step.LOST if restarts == MOST_RESTARTS else Step.GOING
            elif not self._words[_IS_IN]:
                places.append(int(self._walk["inode"][0]))
        self.restarts += restarts

    def _step(self) -> Events:
        self._session.run(WALK)
        self.seen += int(self._walk["seen"][0])
        return self._files[: int(self._walk["told"][0])].copy().view(self._file).reshape(-1)

    def names(self, wanted: list[tuple[int, int, int]]) -> list[Trail]:
        """The names of files, each by the numbers of super block and inode, and its inode number.

        A file that is gone has none.
        """
        return [
            trail
            for first in range(0, len(wanted), WISHES)
            for trail in self._some_names(wanted[first : first + WISHES])
        ]

    def _some_names(self, wanted: list[tuple[int, int, int]]) -> Iterator[Trail]:
        wishes = self._trails[:, : self._wish.itemsize].view(self._wish)[:, 0]
        wishes[:] = np.zeros((), self._wish)
        for at, (super_block, inode, ino) in enumerate(wanted):
            wishes[at]["super"], wishes[at]["inode"], wishes[at]["ino"] = super_block, inode, ino
        while left := int((wishes["inode"] > 0).sum()):
            done = max(1, self._session.run(NAMES))  # one name can be too much for one run
            yield from map(self._trail, range(done))
            wishes[: left - done] = wishes[done:left].copy()
            wishes["inode"][left - done :] = 0

    def _trail(self, at: int) -> Trail:
        head = self._trails[at, : self._wish.itemsize].view(self._wish)[0]
        start = self._wish.itemsize
        names = self._trails[at, start : start + int(head["used"])].tobytes()
        return Trail(names, int(head["flags"]), int(head["parent"]))

    def holders(self) -> Events:
        """Which process (`tgid`) has which file (`inode`) open or mapped; each pair once."""
        parts = [self._session.iterate(function, None) for function in (OPEN, MAPPED)]
        return np.unique(np.frombuffer(b"".join(parts), self._holder))


_IS_IN = 6  # of the words of `struct walk`


def _text(words: tuple[int, ...]) -> str:
    raw = b"".join(word.to_bytes(8, "little") for word in words)
    return raw.partition(b"\0")[0].decode(errors="replace")
