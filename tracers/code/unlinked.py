"""Files that have lost their name since they were mapped.

The kernel reports a file's name when it is mapped, and not what becomes of the name. So when a row
names a file, we stat(2) its path, as a process that has it mapped sees it. Only if the file is not
there do we read /proc/PID/maps, which tells a deleted file from a renamed one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.mappings import Place, parse_maps, read_maps
from memtap.tracers.host.hostile import DELETED
from memtap.tracers.host.patience import patiently

# How often a file is looked at, and how many are at a time.
_EACH_NS = 200_000_000
_MOST = 1000

Numbers = npt.NDArray[np.uint64]

# What stat(2) says of a file: device and inode.
Identity = tuple[int, int]


class Unlinked:
    """Files by the numbers of their places; see Mappings.places.

    Attributes:
        numbers: the places whose files are known to be deleted.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.numbers: set[int] = set()
        self._root = root
        self._looked: dict[int, int] = {}  # when each was looked at, until it may be again
        self._known: dict[int, Identity] = {}  # still there, under another inode number

    def look(
        self, numbers: Numbers, tgids: Numbers, places: Mapping[int, Place], now_ns: int
    ) -> set[int]:
        """Looks at the files of faults, which are in order of time; returns those that changed.

        If several processes have mapped a file, it looks where the last one does.
        """
        self._looked = {n: ns for n, ns in self._looked.items() if now_ns - ns < _EACH_NS}
        distinct, last = np.unique(numbers[::-1], return_index=True)
        users = dict(zip(distinct.tolist(), tgids[::-1][last].tolist(), strict=True))
        by_user: defaultdict[int, list[int]] = defaultdict(list)
        for number in [n for n in users if _can_go(places[n]) and n not in self._looked][:_MOST]:
            self._looked[number] = now_ns
            by_user[users[number]].append(number)
        before = self.numbers.copy()
        for tgid, files in by_user.items():
            self._ask(tgid, {number: places[number] for number in files})
        return before ^ self.numbers

    def forget(self, places: Mapping[int, Place]) -> None:
        """Forgets places that no longer exist."""
        self.numbers &= places.keys()
        self._known = {n: what for n, what in self._known.items() if n in places}

    def _ask(self, tgid: int, files: Mapping[int, Place]) -> None:
        paths = [place.mapped.path for place in files.values()]
        try:
            found = patiently(tgid, partial(_identities, self._root / f"proc/{tgid}/root", paths))
            there = dict(zip(files, found, strict=True))
            lost = {n: files[n] for n, what in there.items() if not self._stands(n, files[n], what)}
            self.numbers -= files.keys() - lost.keys()
            if lost:
                self._tell_apart(lost, there, read_maps(tgid, self._root), tgid)
        except OSError:  # the process is gone, not ours to read, or stuck
            return

    def _stands(self, number: int, place: Place, found: Identity | None) -> bool:
        """Whether a file is still at its path. Some file systems (overlayfs) renumber it."""
        known = self._known.get(number)
        return found is not None and (found[1] == place.mapped.ino or found == known)

    def _tell_apart(
        self,
        lost: Mapping[int, Place],
        there: Mapping[int, Identity | None],
        maps: bytes,
        tgid: int,
    ) -> None:
        mapped = parse_maps(maps, tgid)
        deleted = {each.ino for each in mapped if each.path.endswith(DELETED)}
        named = {each.ino for each in mapped} - deleted
        for number, place in lost.items():
            identity = there[number]
            if place.mapped.ino in deleted:
                self.numbers.add(number)
            elif identity and place.mapped.ino in named:
                self._known[number] = identity


def _can_go(place: Place) -> bool:
    """Whether it is a file whose name can be looked up."""
    path = place.mapped.path
    return place.of_file and path.startswith("/") and not path.endswith(DELETED)


def _identities(root: Path, paths: Iterable[str]) -> list[Identity | None]:
    """The files at these paths, as a process sees them; None where there is none."""
    found: list[Identity | None] = []
    for path in paths:
        try:
            status = os.stat(f"{root}{path}")  # noqa: PTH116 (it is asked of thousands)
        except (FileNotFoundError, NotADirectoryError):
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return found
