"""A session without a kernel: what an enricher asks for is what a test says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Drained
from memtap.bpf.stream import Events

NOTHING: Events = np.empty(0, np.void)


def make_drained(events: Events = NOTHING, until_ns: int = 1000) -> Drained:
    return Drained(events, NOTHING, [], [], until_ns, NOTHING, NOTHING)


class Counted:
    """Counters that give what they were given, once."""

    def __init__(self, *tables: Events) -> None:
        self._tables = list(tables)

    def take(self) -> Events:
        return self._tables.pop(0)


@dataclass
class Given:
    """See Source."""

    way: str = "counters"
    counters: Counted | None = None
    layouts: Mapping[str, Any] = field(default_factory=dict)
    tables: dict[str, list[tuple[Events, Events]]] = field(default_factory=dict)
    stacks: dict[int, list[int]] = field(default_factory=dict)
    maps: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    births: int = 0
    received: int = 0
    written: dict[int, bytes] = field(default_factory=dict)  # what iterate() finds of processes
    asked: list[int] = field(default_factory=list)  # of which it was asked
    tables_shared: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict)

    def followed(self) -> list[int]:
        return []

    def look_up(self, name: str, key: bytes, value_bytes: int) -> bytes | None:
        return None

    def read_map(
        self, name: str, key: np.dtype[np.void], value: np.dtype[np.void]
    ) -> Iterator[tuple[Events, Events]]:
        for keys, values in self.tables.get(name, []):
            assert (keys.dtype, values.dtype) == (key, value)
            yield keys, values

    def shared(self, name: str, rows: int, columns: int) -> npt.NDArray[np.uint64]:
        return self.tables_shared.setdefault(name, np.zeros((rows, columns), np.uint64))

    def stack(self, number: int) -> list[int]:
        return self.stacks.get(number, [])

    def iterate(self, function: str, tgid: int) -> bytes:
        self.asked.append(tgid)
        return self.written.get(tgid, b"")

    def attach_to(
        self, function: str, path: Path, offset: int, tgid: int, *, returns: bool = False
    ) -> None:
        raise AssertionError("nothing is attached here")

    def rest(self, function: str) -> None:
        raise AssertionError("nothing is attached here")

    def resume(self, function: str) -> None:
        raise AssertionError("nothing is attached here")
