"""Numbers in rows that reports show as labels."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Label(IntEnum):
    """Members are labels of the contract; the member with the value 0 means unknown."""

    @property
    def text(self) -> str:
        """The label that reports show."""
        return self.name.lower().replace("_", "-") if self else "?"

    @classmethod
    def texts(cls, numbers: Iterable[int]) -> list[str]:
        """The label of each number; there can be many numbers, of few distinct values."""
        known = {member.value: member.text for member in cls}
        return [known[number] for number in numbers]
