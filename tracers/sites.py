"""Which code: the numbers that rows have for instructions and for stacks, and their texts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from memtap.tracers.codefiles import Code
from memtap.tracers.edge import BETWEEN
from memtap.tracers.grouping import group_numbers
from memtap.tracers.mappings import Place
from memtap.tracers.space import NOWHERE
from memtap.tracers.symbols import Site, Symbols

U64 = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

# Addresses from here on are the kernel's.
_KERNEL = 1 << 63

# So many sites are remembered at a time.
_REMEMBERED = 1 << 18


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


# Of a mapping: the process, the address, the number of its place, the offset in that.
Spot = tuple[int, int, int, int]


class Sites:
    """Gives each instruction, in what is mapped where it is, the number of its text."""

    def __init__(self) -> None:
        self._symbols = Symbols()
        self._known: dict[tuple[int, int], Site] = {}
        self.sites, self.stacks = Texts(), Texts()

    def of(
        self, tgids: Numbers, ips: U64, numbers: Numbers, offsets: U64, places: Mapping[int, Place]
    ) -> Numbers:
        """The number of the site of each instruction; see mappings.Located for where they are."""
        group = group_numbers(tgids, ips, numbers)
        _, one = np.unique(group, return_index=True)
        spots = zip(
            *(column[one].tolist() for column in (tgids, ips, numbers, offsets)), strict=True
        )
        found = [self.sites.number(str(self._site(spot, places))) for spot in spots]
        return np.array(found, np.uint32)[group]

    def stack(
        self, tgid: int, ips: list[int], numbers: Numbers, offsets: U64, places: Mapping[int, Place]
    ) -> int:
        """The number of a stack, given from the innermost frame on."""
        spots = zip([tgid] * len(ips), ips, numbers.tolist(), offsets.tolist(), strict=True)
        frames = [self._site(spot, places).frame.replace(BETWEEN, ":") for spot in spots]
        return self.stacks.number(BETWEEN.join(reversed(frames)))

    def _site(self, spot: Spot, places: Mapping[int, Place]) -> Site:
        """What code of a file is called is the same for all processes that have mapped it."""
        tgid, ip, number, offset = spot
        known = self._known.get((number, offset))
        if known:
            return known
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        if ip >= _KERNEL:
            return self._symbols.kernel(ip)
        if number == NOWHERE:
            return self._symbols.name(tgid, ip, None)
        code = code_of(places[number], ip, offset)
        site = self._symbols.name(tgid, ip, code)
        if site.function and not code.may_be_jitted:
            self._known[number, offset] = site
        return site


def code_of(place: Place, ip: int, offset: int) -> Code:
    """The code around an instruction, as if the whole of its file were mapped."""
    start = (ip - offset) % 2**64
    return Code(start, 2**64 - 1, 0, place.mapped.dev, place.mapped.ino, place.mapped.path)
