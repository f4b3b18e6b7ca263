"""Adds up the files that the walk finds, a part at a time: there can be millions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.files.columns import COUNTS

# How many parts are collected before they are added up.
_TOGETHER = 1 << 15

# By file, only this many have rows, those with the most; the others are in the totals.
MOST_FILES = 10_000

# The fields by which rows differ, by the user's key.
_FIELDS = {
    "file": "inode",
    "directory": "parent",
    "mount": "super",
    "cgroup": "cgroup",
    "process": "tgid",
}
_FACTS = ("inode", "parent", "ino", "bytes", "cgroup", "volume", "rdev", "flags")
ROW = np.dtype(
    [
        *((name, "u8") for name in ("super", "inode", "parent", "ino", "bytes", "cgroup", "tgid")),
        *((name, "u4") for name in ("volume", "rdev", "flags")),
        *((name, "u8") for name in ("files", *COUNTS)),
    ]
)
_SUMS = ("files", *COUNTS)


class Gatherer:
    """Groups files by keys.

    Attributes:
        totals: the sums over all files, each counted once, by name.
        left_out: how many files have no row of their own, because others have more.
    """

    def __init__(
        self,
        by: Sequence[str],
        holders: Events,
        sort: str,
        most: int = MOST_FILES,
        has_parts: bool = True,
    ) -> None:
        """Begins with nothing.

        Args:
            by: the keys.
            holders: pairs of inode and tgid.
            sort: one of COUNTS: files with the most of it have rows.
            most: how many files have rows, if rows are files.
            has_parts: whether a file can come in several parts.
        """
        self._most, self._has_parts = most, has_parts
        self._keys = tuple(_FIELDS[key] for key in by)
        self._is_cut, self._holders, self._sort = "file" in by, holders, sort
        self._waiting = [np.empty(0, ROW)]
        self._groups = np.empty(0, ROW)
        self.totals = dict.fromkeys(_SUMS, 0)
        self.left_out = 0

    def add(self, found: Events, of: int, open_inode: int) -> None:
        """Adds what a step found of a super block; more parts of `open_inode` may follow."""
        self._waiting.append(_rows_of(found, of))
        if sum(map(len, self._waiting)) >= _TOGETHER:
            self._settle(open_inode)

    def groups(self) -> Events:
        """The groups of all that was added, as rows of ROW with the facts of one file each."""
        self._settle(0)
        return self._groups

    def _settle(self, open_inode: int) -> None:
        files = np.concatenate(self._waiting)
        is_open = files["inode"] == open_inode
        self._waiting = [files[is_open]]
        files = files[~is_open]
        if self._has_parts:
            files = merged(files, dict.fromkeys(("inode", *self._keys)))
        files["files"] = 1
        self._sum_up(files)
        if "tgid" in self._keys:
            files = held(files, self._holders)
        groups = np.concatenate([self._groups, files])
        # No other part has more of these files: each was settled as a whole.
        self._groups = groups if "inode" in self._keys else merged(groups, self._keys)
        self._cut()

    def _sum_up(self, files: Events) -> None:
        inodes = files["inode"]
        self.totals["files"] += len(np.unique(inodes) if self._has_parts else inodes)
        for name in COUNTS:
            self.totals[name] += int(files[name].sum())

    def _cut(self) -> None:
        beyond = len(self._groups) - self._most
        if self._is_cut and beyond > 0:
            kept = np.argpartition(self._groups[self._sort], beyond)[beyond:]
            self._groups = self._groups[kept]
            self.left_out += beyond


def _rows_of(found: Events, of: int) -> Events:
    """Rows of files; a file without a known directory is in one that stands for its super block."""
    rows = np.zeros(len(found), ROW)
    for name in (*_FACTS, *COUNTS):
        rows[name] = found[name]
    rows["super"] = of
    rows["parent"][rows["parent"] == 0] = of
    return rows


def merged(rows: Events, keys: Sequence[str] | dict[str, None]) -> Events:
    """One row for all rows that agree in these fields: the first, with the sums of all."""
    if not len(rows):
        return rows
    columns = [rows[key] for key in keys]
    rows = rows[np.lexsort(columns)]
    differ = np.zeros(len(rows), bool)
    differ[0] = True
    for key in keys:
        differ[1:] |= rows[key][1:] != rows[key][:-1]
    starts = np.flatnonzero(differ)
    groups = rows[starts]
    for name in _SUMS:
        groups[name] = np.add.reduceat(rows[name], starts)
    return groups


def held(files: Events, holders: Events) -> Events:
    """Each file once for each process that has it open or mapped; tgid 0 if none has.

    `holders` are in order of their inodes.
    """
    first = np.searchsorted(holders["inode"], files["inode"], "left")
    count = np.searchsorted(holders["inode"], files["inode"], "right") - first
    rows = np.repeat(files, np.maximum(count, 1))
    starts = np.repeat(first, np.maximum(count, 1))
    within = np.arange(len(rows)) - np.repeat(
        np.cumsum(np.maximum(count, 1)) - np.maximum(count, 1), np.maximum(count, 1)
    )
    is_held = np.repeat(count > 0, np.maximum(count, 1))
    rows["tgid"][is_held] = holders["tgid"][(starts + within)[is_held]]
    return rows
