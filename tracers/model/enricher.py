"""Where what came out of the kernel becomes rows that need nothing else to be understood.

Each tracer has an enricher. What is left of it may look at /proc and talk to the kernel;
what is right of it, the reports, sees chunks alone.
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

# Whoever tells what numbers stand for remembers no more of them than this, and tells others anew.
# So whoever listens may forget all but the last ones, when nothing waits for a name.
REMEMBERED = 1 << 14

# Stands for all processes of which there is so little that they are not told apart any more.
OTHERS = 0xFFFFFFFE

_Named = TypeVar("_Named")
# A process, and two numbers of what it has something of.
Owner = tuple[int, int, int]


def tell(known: dict[int, _Named], news: Mapping[int, _Named]) -> None:
    """Adds what numbers stand for, as the last that was told."""
    for number, named in news.items():
        known.pop(number, None)
        known[number] = named


def are_many(known: Sized) -> bool:
    """Whether it is more than needs to be remembered."""
    return len(known) > 2 * REMEMBERED


def forget_first(known: dict[int, _Named], but: Container[int] = ()) -> None:
    """Forgets what was told first, `but` some, where it is more than needs to be remembered."""
    if are_many(known):
        for number in list(islice(known, len(known) - 2 * REMEMBERED)):
            if number not in but:
                del known[number]


def fold_least(
    held: defaultdict[Owner, Any], active: Container[Owner], size: Callable[[Any], int]
) -> None:
    """Adds the idle of which least is held to OTHERS, if there are too many of all.

    Who ended may have left something for good: so nobody can be kept for as long as there is some.
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
    """What a drain() became.

    Attributes:
        rows: the events, of the enricher's type.
        paths: names of files, by the number that rows have; new ones alone.
        texts: other texts that rows name for the first time, by kind and number.
        notes: what could not be seen, or told.
        unsettled: events from before the drain() that the kernel may have counted, and that become
            rows only later.
    """

    rows: Events
    paths: dict[int, FileName] = field(default_factory=dict)
    texts: Texts = field(default_factory=dict)
    notes: Sequence[str] = ()
    unsettled: int = 0


class Source(Protocol):
    """What an enricher asks of the session whose events it gets; a test can be one as well."""

    @property
    def counters(self) -> Counts | None:
        """What it counts in the kernel, if it does."""

    @property
    def births(self) -> int:
        """How many processes were told to be born, or to begin a program."""

    @property
    def received(self) -> int:
        """How many batches of events came so far."""

    @property
    def way(self) -> str:
        """The name of the way that was attached."""

    @property
    def layouts(self) -> Mapping[str, Any]:
        """The structs of the C program, by name, as dtype_of() takes them."""

    @property
    def maps(self) -> Container[str]:
        """The maps of the program that there are."""

    @property
    def programs(self) -> Container[str]:
        """Its functions that were loaded."""

    def followed(self) -> list[int]:
        """The processes that are traced, where only some are."""

    def look_up(self, name: str, key: bytes, value_bytes: int) -> bytes | None:
        """A value of a map."""

    def read_map(
        self, name: str, key: np.dtype[np.void], value: np.dtype[np.void]
    ) -> Iterator[tuple[Events, Events]]:
        """Keys and values of a hash map, some thousand at a time."""

    def shared(self, name: str, rows: int, columns: int) -> npt.NDArray[np.uint64]:
        """A map of u64 as a writable table."""

    def stack(self, number: int) -> list[int]:
        """The addresses of a stack, from the innermost on."""

    def iterate(self, function: str, tgid: int) -> bytes:
        """What a function for an iterator writes of a process."""

    def attach_to(
        self, function: str, path: Path, offset: int, tgid: int, *, returns: bool = False
    ) -> None:
        """Attaches a function for uprobes to that at an offset of a file, for one process."""

    def rest(self, function: str) -> None:
        """Detaches a function until resume()."""

    def resume(self, function: str) -> None:
        """Attaches it again."""


class Counts(Protocol):
    """Counters in the kernel."""

    def take(self) -> Events:
        """What was counted since the last time, a line for each key."""


class Enricher(ABC):
    """What one tracer does that others do not; by default it keeps nothing and waits for drain().

    Attributes:
        row: the type of its rows.
        most_batches: when so many batches of events are waiting they should be taken, though no
            interval ends.
    """

    row: np.dtype[np.void]
    most_batches: float = math.inf

    def follow(self, tgid: int) -> None:  # noqa: B027
        """A process that is there already is going to be traced."""

    def polled(self) -> float:
        """Events have come in, and are not drained yet, or nothing has for as long as it said.

        Gives how many seconds it can do without being called again.
        """
        return math.inf

    @abstractmethod
    def enrich(self, drained: Drained, last: bool) -> Taken:
        """Makes rows of what was drained; after the `last` no other comes."""

    def feedback(self, reporter: Any) -> None:  # noqa: B027
        """Tells the kernel what the report has found out that it can make use of."""


@runtime_checkable
class Divisible(Protocol):
    """An Enricher that also takes what was drained in pieces; see pieces.py."""

    def units_of(self, events: Events) -> int:
        """How much of what its reports count these events are."""
