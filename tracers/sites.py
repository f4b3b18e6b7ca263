"""Which code: the numbers that rows have for instructions and for stacks, and their texts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memtap.tracers.edge import BETWEEN
from memtap.tracers.grouping import group_numbers
from memtap.tracers.mappings import NOWHERE, Place
from memtap.tracers.symbols import Code, Site, Symbols

U64 = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

# Addresses from here on are the kernel's.
_KERNEL = 1 << 63


class Texts:
    """Numbers for texts, from 1 on, the same for the same text."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._new: dict[int, str] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        number = self._numbers.setdefault(text, len(self._numbers) + 1)
        if number == len(self._numbers):
            self._new[number] = text
        return number

    def take(self) -> dict[int, str]:
        """The texts that are new since the last time, by number."""
        new, self._new = self._new, {}
        return new


class Sites:
    """Gives each instruction, in what is mapped where it is, the number of its text."""

    def __init__(self) -> None:
        self._symbols = Symbols()
        self._known: dict[tuple[int, int, int], Site] = {}
        self.sites, self.stacks = Texts(), Texts()

    def of(self, tgids: Numbers, ips: U64, numbers: Numbers, places: list[Place]) -> Numbers:
        """The number of the site of each instruction; `numbers` are of the places they are in."""
        group = group_numbers(tgids, ips, numbers)
        _, one = np.unique(group, return_index=True)
        keys = zip(tgids[one].tolist(), ips[one].tolist(), numbers[one].tolist(), strict=True)
        found = [self.sites.number(str(self._site(key, places))) for key in keys]
        return np.array(found, np.uint32)[group]

    def stack(self, tgid: int, ips: list[int], numbers: Numbers, places: list[Place]) -> int:
        """The number of a stack, given from the innermost frame on."""
        keys = zip([tgid] * len(ips), ips, numbers.tolist(), strict=True)
        frames = [self._site(key, places).frame.replace(BETWEEN, ":") for key in keys]
        return self.stacks.number(BETWEEN.join(reversed(frames)))

    def _site(self, key: tuple[int, int, int], places: list[Place]) -> Site:
        if key not in self._known:
            self._known[key] = self._resolve(*key, places)
        return self._known[key]

    def _resolve(self, tgid: int, ip: int, number: int, places: list[Place]) -> Site:
        if ip >= _KERNEL:
            return self._symbols.kernel(ip)
        return self._symbols.name(tgid, ip, code_of(places[number]) if number != NOWHERE else None)


def code_of(place: Place) -> Code:
    """What has to be known of a mapping to name its code."""
    mapped = place.mapped
    return Code(mapped.start, mapped.end, mapped.offset, mapped.dev, mapped.ino, mapped.path)
