"""Turns kernel events into rows that can be understood without looking anywhere else.

Each tracer has an enricher. An enricher may read /proc and talk to the kernel; the reports, which
come after it, see only chunks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Drained
from memtap.bpf.stream import Events
from memtap.tracers.host.files import FileName

# Between the frames in the text of a stack, from the outermost on.
BETWEEN = ";"

Texts = dict[str, dict[int, str]]

# An enricher remembers which names it has sent for at most this many numbers, and sends the others
# again. So a report that waits for no name may forget all but the latest.
REMEMBERED = 1 << 14

# Stands for all processes that hold so little that they are no longer reported apart.
OTHERS = 0xFFFFFFFE

_Named = TypeVar("_Named")
# A process, and two numbers of what it holds.
Owner = tuple[int, int, int]


def tell(known: dict[int, _Named], news: Mapping[int, _Named]) -> None:
    """Adds what numbers stand for; these become the latest."""
    for number, named in news.items():
        known.pop(number, None)
        known[number] = named


def are_many(known: Sized) -> bool:
    """Whether there is more than a report has to remember."""
    return len(known) > 2 * REMEMBERED


def forget_first(known: dict[int, _Named], but: Container[int] = ()) -> None:
    """Forgets the oldest, except `but`, if there is more than a report has to remember."""
    if are_many(known):
        for number in list(islice(known, len(known) - 2 * REMEMBERED)):
            if number not in but:
                del known[number]


def fold_least(
    held: defaultdict[Owner, Any], active: Container[Owner], size: Callable[[Any], int]
) -> None:
    """If there are too many owners, adds the idle ones that hold least to OTHERS.

    A process that ended may have left something for good, so we cannot keep each owner until it
    holds nothing.
    """
    if not are_many(held):
        return
    idle = [owner for owner in held if owner not in active and owner[0] != OTHERS]
    idle.sort(key=lambda owner: abs(size(held[owner])))
    for owner in idle[: max(0, len(idle) - REMEMBERED)]:
        others = (OTHERS, *owner[1:])
        held[others] += held.pop(owner)


@dataclass(frozen=True)
class Taken:
    """What became of one drain().

    Attributes:
        rows: the events, of the enricher's type.
        paths: names of files, by the numbers that rows use; only new ones.
        texts: other texts that rows refer to for the first time, by kind and number.
        notes: what could not be seen or named.
        unsettled: events from before the drain() that become rows only later, though the kernel may
            already have counted them.
    """

    rows: Events
    paths: dict[int, FileName] = field(default_factory=dict)
    texts: Texts = field(default_factory=dict)
    notes: Sequence[str] = ()
    unsettled: int = 0


class Source(Protocol):
    """What an enricher needs of the session whose events it gets; a test can provide one too."""

    @property
    def counters(self) -> Counts | None:
        """Its counters in the kernel; None if it has none."""

    @property
    def births(self) -> int:
        """How many forks and execs the kernel has reported."""

    @property
    def received(self) -> int:
        """How many batches of events have come so far."""

    @property
    def way(self) -> str:
        """The name of the variant that is attached."""

    @property
    def layouts(self) -> Mapping[str, Any]:
        """The structs of the C program, by name, in the form that dtype_of() takes."""

    @property
    def maps(self) -> Container[str]:
        """The maps that this program has."""

    @property
    def programs(self) -> Container[str]:
        """The functions that were loaded."""

    def followed(self) -> list[int]:
        """The traced processes, if only some are traced."""

    def look_up(self, name: str, key: bytes, value_bytes: int) -> bytes | None:
        """The value of a key in a map; None if there is none."""

    def read_map(
        self, name: str, key: np.dtype[np.void], value: np.dtype[np.void]
    ) -> Iterator[tuple[Events, Events]]:
        """Keys and values of a hash map, some thousands at a time."""

    def shared(self, name: str, rows: int, columns: int) -> npt.NDArray[np.uint64]:
        """A map of u64 values as a writable table."""

    def stack(self, number: int) -> list[int]:
        """The addresses of a stack, innermost first."""

    def iterate(self, function: str, tgid: int) -> bytes:
        """What an iterator's function writes about a process."""

    def attach_to(
        self, function: str, path: Path, offset: int, tgid: int, *, returns: bool = False
    ) -> None:
        """Attaches a function as a uprobe at an offset in a file, for one process."""

    def rest(self, function: str) -> None:
        """Detaches a function; resume() attaches it again."""

    def resume(self, function: str) -> None:
        """Attaches a function that rests."""


class Counts(Protocol):
    """Counters in the kernel."""

    def take(self) -> Events:
        """What was counted since it was last called, one line for each key."""


class Enricher(ABC):
    """What sets one tracer apart. By default it keeps no state and needs no call between drains.

    Attributes:
        row: the type of its rows.
        most_batches: how many batches may wait; with more, events are drained before the interval
            ends.
    """

    row: np.dtype[np.void]
    most_batches: float = math.inf

    def follow(self, tgid: int) -> None:  # noqa: B027
        """Prepares for a running process that is about to be traced."""

    def polled(self) -> float:
        """Is called when events have come in but are not drained, or when its time is up.

        Returns in how many seconds, at the latest, it must be called again.
        """
        return math.inf

    @abstractmethod
    def enrich(self, drained: Drained, last: bool) -> Taken:
        """Makes rows of what was drained; no drain follows the `last`."""

    def feedback(self, reporter: Any) -> None:  # noqa: B027
        """Passes to the kernel what the report has learned and the BPF program can use."""


@runtime_checkable
class Divisible(Protocol):
    """An Enricher that can also take a drain in pieces; see pieces.py."""

    def units_of(self, events: Events) -> int:
        """How many units, as its reports count them, these events stand for."""
