"""The text of /proc/PID/smaps as columns.

A process can have 65,000 mappings with 25 fields each, so numbers are read of all of them at once.
"""

from __future__ import annotations

from collections import defaultdict
from string import ascii_letters, digits
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PAGE_SIZE = "KernelPageSize"

# The first and last field of a mapping. Above them is the line with its path, in which a newline
# is escaped, so no path can look like a field.
_FIRST, _LAST = b"\nSize:", b"\nVmFlags:"

# What is deleted from the fields of a mapping to leave their names, or their numbers.
_NUMBERS, _NAMES = f"{digits} ".encode(), f"{ascii_letters}_:".encode()


class _Alike(NamedTuple):
    """Mappings with the same fields.

    Attributes:
        names: of these fields.
        at: which mappings.
        numbers: a row for each of them, with the number in each field.
    """

    names: list[str]
    at: list[int]
    numbers: npt.NDArray[np.int64]


class Smaps:
    """All mappings of a process.

    Attributes:
        maps: their lines, which are those of /proc/PID/maps.
        count: how many they are.
    """

    def __init__(self, text: bytes) -> None:
        lines, bodies = [], []
        for each in text.split(_LAST)[:-1]:
            before, _, body = each.partition(_FIRST)
            lines.append(before.rpartition(b"\n")[2])
            bodies.append(body)
        self.maps = b"\n".join(lines)
        self.count = len(lines)
        self._kinds = _kinds(bodies)

    def column(self, *fields: str) -> list[int]:
        """The sum of these fields for each mapping, in bytes; a kernel may lack some."""
        sums = np.zeros(self.count, np.int64)
        for names, at, numbers in self._kinds:
            places = [names.index(name) for name in fields if name in names]
            sums[at] = numbers[:, places].sum(axis=1) << 10
        found: list[int] = sums.tolist()
        return found


def _kinds(bodies: list[bytes]) -> list[_Alike]:
    """The fields of each mapping, without the name of the first; usually all have the same."""
    kinds: dict[bytes, list[int]] = defaultdict(list)
    for at, body in enumerate(bodies):
        kinds[body.translate(None, _NUMBERS)].append(at)
    return [_alike(kind, at, [bodies[each] for each in at]) for kind, at in kinds.items()]


def _alike(kind: bytes, at: list[int], bodies: list[bytes]) -> _Alike:
    names = ["Size", *(line.partition(b":")[0].decode() for line in kind.split(b"\n")[1:])]
    text = b" ".join(bodies).translate(None, _NAMES).decode()
    return _Alike(names, at, np.fromstring(text, np.int64, sep=" ").reshape(len(at), len(names)))
