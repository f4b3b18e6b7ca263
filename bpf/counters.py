"""Counters that programs keep for each key and CPU (memtap/counters.h), read in batches.

They are for what happens millions of times a second, where an event for each costs too much.
"""

from __future__ import annotations

import ctypes as ct
import errno
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from memtap.bpf import libbpf
from memtap.bpf.loading import IN_USE, TABLES, Loaded
from memtap.bpf.stream import Events, dtype_of

# How many keys are read at a time; the kernel wants room for a whole bucket of its hash.
_TOGETHER = 4096

Values = npt.NDArray[np.void]


class Counters:
    """What the programs count: `struct key` to `struct sums` of each CPU, all of it u64.

    Attributes:
        row: the members of key and sums; sums are over all CPUs.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._lib = libbpf.library()
        self._in_use = loaded.maps[IN_USE]
        self._tables = [loaded.maps[name] for name in TABLES]
        self._key = dtype_of(loaded.layouts["key"])
        self._sums = dtype_of(loaded.layouts["sums"])
        self._cpus = int(self._lib.libbpf_num_possible_cpus())
        self.row = np.dtype([*members(self._key), *members(self._sums)])
        self._exchange()

    def _exchange(self) -> None:
        """Makes the programs count in the first table, and no longer in the other."""
        first, number = ct.c_uint32(0), ct.c_uint32(self._tables[0])
        failed = self._lib.bpf_map_update_elem(self._in_use, ct.byref(first), ct.byref(number), 0)
        libbpf.check(failed, "changing the table of counters")

    def take(self) -> Events:
        """A row for each key for which something was counted since the last time."""
        full = self._tables[0]
        self._tables.reverse()
        self._exchange()
        empty = self._lib.bpf_map_lookup_and_delete_batch
        parts = list(batches(empty, full, self._key, np.dtype((self._sums, self._cpus))))
        rows = np.zeros(sum(len(keys) for keys, _ in parts), self.row)
        for struct, place in (self._key, 0), (self._sums, 1):
            for name in struct.names or ():
                columns = [np.empty(0, np.uint64), *(part[place][name] for part in parts)]
                rows[name] = np.concatenate(
                    [each.sum(axis=1) if each.ndim > 1 else each for each in columns]
                )
        return rows


def batches(
    read: Callable[..., int], table: int, key: np.dtype[np.void], value: np.dtype[np.void]
) -> Iterator[tuple[Events, Values]]:
    """Keys and values of a hash map, some thousand at a time.

    Args:
        read: the function of libbpf that reads a batch, and deletes it or not.
        table: the map's descriptor.
        key: the type of a key.
        value: the type of a value, an array of them where the map is per CPU.
    """
    token, is_first, ended = ct.c_uint32(), True, False
    while not ended:
        keys, values = np.zeros(_TOGETHER, key), np.zeros(_TOGETHER, value)
        count, places = ct.c_uint32(_TOGETHER), (keys.ctypes.data, values.ctypes.data)
        begin = None if is_first else ct.byref(token)
        failed = read(table, begin, ct.byref(token), *places, ct.byref(count), None)
        ended, is_first = bool(failed) and ct.get_errno() == errno.ENOENT, False
        if failed and not ended:
            libbpf.check(failed, "reading a map")
        yield keys[: count.value], values[: count.value]


def members(struct: np.dtype[np.void]) -> list[tuple[str, np.dtype[np.generic]]]:
    """The names and types of a struct's members."""
    return [(name, struct[name]) for name in struct.names or ()]
