"""Code in rows: the numbers of instructions and of stacks, and their texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.tracers.code.aside import Aside, Question
from memtap.tracers.code.intervals import NOWHERE
from memtap.tracers.code.mappings import Place
from memtap.tracers.code.objects import Code
from memtap.tracers.code.symbols import Site, Symbols, nameless
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.model.enricher import BETWEEN

U64 = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.uint32]

# Addresses from here on are the kernel's.
_KERNEL = 1 << 63

# How many sites are remembered at a time, and how many of them may wait for their names.
_REMEMBERED, _MOST_AWAITED = 1 << 18, 1 << 12


# The most texts, and characters of texts, in a run; a traced program could make any number.
_MOST_TEXTS, _MOST_CHARACTERS = 1 << 18, 64 << 20


class Texts:
    """Numbers for texts, from 1 on, the same for the same text; 0 when there are too many.

    Attributes:
        left_out: how many were left out.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._new: dict[int, str] = {}
        self._characters = self.left_out = 0

    def number(self, text: str) -> int:
        """The number of a text."""
        number = self._numbers.get(text, 0)
        return number or self._add(text)

    def _add(self, text: str) -> int:
        self._characters += len(text)
        if len(self._numbers) >= _MOST_TEXTS or self._characters > _MOST_CHARACTERS:
            self.left_out += 1
            return 0
        number = self._numbers[text] = len(self._numbers) + 1
        self._new[number] = text
        return number

    def rename(self, number: int, text: str) -> None:
        """Gives a number another text, now that its name is known."""
        if number:
            self._new[number] = text
            self._numbers.setdefault(text, number)

    def take(self) -> dict[int, str]:
        """The texts that are new since the last call, by number."""
        new, self._new = self._new, {}
        return new


# The process, its instructions from the innermost frame on, and where they are.
Frames = tuple[int, list[int], Numbers, U64]

# Of a mapping: the process, the address, the number of its place, the offset in that.
Spot = tuple[int, int, int, int]


# The key of a name; for code of a file, the number of its place and the offset in it.
Known = tuple[int, int]


class Sites:
    """Gives each instruction, by the mapping that it is in, the number of its text.

    Attributes:
        aside: the children that read the files.
    """

    def __init__(self) -> None:
        self._symbols = Symbols()
        self.aside = Aside()
        self._known: dict[Known, Site] = {}
        self.sites, self.stacks = Texts(), Texts()
        # Sites that have numbers and whose names may still come: the question to ask again; and for
        # stacks, the site of each frame.
        self._awaited: dict[Known, Question] = {}
        self._numbers: dict[Known, int] = {}
        self._of_stacks: dict[int, list[tuple[Known, Site]]] = {}

    def of(
        self,
        tgids: Numbers,
        ips: U64,
        numbers: Numbers,
        offsets: U64,
        places: Mapping[int, Place],
        last: bool = False,
    ) -> Numbers:
        """The number of the site of each instruction; see mappings.Located for where they are."""
        group = group_numbers(tgids, ips, numbers)
        _, one = np.unique(group, return_index=True)
        spots = list(
            zip(*(column[one].tolist() for column in (tgids, ips, numbers, offsets)), strict=True)
        )
        sites = self._name(spots, places, last)
        found = [self._number(spot, sites[spot]) for spot in spots]
        return np.array(found, np.uint32)[group]

    def _number(self, spot: Spot, site: Site) -> int:
        """The number of its text; the site is kept if its name may still come."""
        number = self.sites.number(str(site))
        if spot[2:] in self._awaited:
            return self._numbers.setdefault(spot[2:], number)
        return number

    def stacks_of(
        self, stacks: Sequence[Frames], places: Mapping[int, Place], last: bool = False
    ) -> list[int]:
        """The numbers of stacks, each given from the innermost frame on."""
        spots = [
            list(zip([tgid] * len(ips), ips, numbers.tolist(), offsets.tolist(), strict=True))
            for tgid, ips, numbers, offsets in stacks
        ]
        sites = self._name([spot for each in spots for spot in each], places, last)
        return [self._stack_number([(spot[2:], sites[spot]) for spot in each]) for each in spots]

    def _stack_number(self, frames: list[tuple[Known, Site]]) -> int:
        number = self.stacks.number(_stack_text(site for _, site in frames))
        if any(key in self._awaited for key, _ in frames):
            self._of_stacks[number] = frames
        return number

    def notes(self) -> list[str]:
        """What was left out, and why, since the last call."""
        notes, self.aside.notes = self.aside.notes, []
        for what, texts in (("code", self.sites), ("stacks", self.stacks)):
            if texts.left_out:
                notes.append(f"{texts.left_out} names of {what} more than can be kept: shown as ?")
                texts.left_out = 0
        return notes

    def _name(self, spots: list[Spot], places: Mapping[int, Place], last: bool) -> dict[Spot, Site]:
        """The names of all spots; asks for those that are not known yet.

        Code of a file has the same name in all processes that have mapped it.
        """
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        if len(self._awaited) > _MOST_AWAITED:
            self._awaited.clear()
            self._numbers.clear()
            self._of_stacks.clear()
        wanted = [spot for spot in dict.fromkeys(spots) if spot[2:] not in self._known]
        codes = {
            spot: code_of(places[spot[2]], spot[1], spot[3])
            for spot in wanted
            if spot[1] < _KERNEL and spot[2] != NOWHERE
        }
        questions: dict[Hashable, Question] = {
            _key(spot, code): ("name", *spot[:2], code) for spot, code in codes.items()
        }
        if last:
            questions.update(self._awaited.items())
        answers = self.aside.ask(questions, last) if questions else {}
        kept = {key: Site(*answer) for key, answer in answers.items() if answer and len(key) == 2}
        self._known |= kept
        pending = {spot[2:] for spot, code in codes.items() if _key(spot, code) == spot[2:]}
        self._awaited |= {key: questions[key] for key in pending if key not in answers}
        self._rename()
        return {spot: self._site(spot, codes.get(spot), answers) for spot in dict.fromkeys(spots)}

    def _rename(self) -> None:
        """Sends the awaited names that have come."""
        come = [key for key in self._awaited if key in self._known]
        for key in come:
            del self._awaited[key]
            if key in self._numbers:
                self.sites.rename(self._numbers.pop(key), str(self._known[key]))
        for number, frames in list(self._of_stacks.items()) if come else ():
            known = [(key, self._known.get(key, site)) for key, site in frames]
            if known != frames:
                self.stacks.rename(number, _stack_text(site for _, site in known))
            if not any(key in self._awaited for key, _ in known):
                del self._of_stacks[number]

    def _site(self, spot: Spot, code: Code | None, answers: dict[Any, Any]) -> Site:
        if known := self._known.get(spot[2:]):
            return known
        if spot[1] >= _KERNEL:
            return self._symbols.kernel(spot[1])
        answer = answers.get(_key(spot, code)) if code else None
        return Site(*answer) if answer else nameless(spot[1], code)


def _stack_text(sites: Iterable[Site]) -> str:
    """The text of a stack, whose sites are given from the innermost on."""
    names = [site.frame.replace(BETWEEN, ":") for site in sites]
    return BETWEEN.join(reversed(names))


def _key(spot: Spot, code: Code) -> Known | Spot:
    """The key under which a name is kept; names that can change are asked for each time."""
    return spot if code.may_be_jitted else spot[2:]


def code_of(place: Place, ip: int, offset: int) -> Code:
    """The mapping of an instruction, as if the whole of its file were mapped."""
    start = (ip - offset) % 2**64
    return Code(start, 2**64 - 1, 0, place.mapped.dev, place.mapped.ino, place.mapped.path)
