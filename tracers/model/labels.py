"""Numbers in rows that reports show as words."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Word(IntEnum):
    """Members are words of the contract; the one with the value 0 is what nobody knows."""

    @property
    def text(self) -> str:
        """As reports call it."""
        return self.name.lower().replace("_", "-") if self else "?"

    @classmethod
    def texts(cls, numbers: Iterable[int]) -> list[str]:
        """What each number stands for; they can be many, of few kinds."""
        known = {member.value: member.text for member in cls}
        return [known[number] for number in numbers]
