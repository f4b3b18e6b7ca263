"""Numbers in rows that reports show as words."""

from __future__ import annotations

from enum import IntEnum


class Word(IntEnum):
    """Members are words of the contract; the one with the value 0 is what nobody knows."""

    @property
    def text(self) -> str:
        """As reports call it."""
        return self.name.lower().replace("_", "-") if self else "?"
