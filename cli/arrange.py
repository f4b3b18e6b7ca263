"""The order of rows, and how many of them are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from memtap.tracers.report import Column, Report, Row


@dataclass(frozen=True)
class Order:
    """Rows by a column, numbers falling and texts rising; what has no value comes last.

    Attributes:
        column: the name of the column.
        reverse: the other way round.
        rows: how many are kept; None for all.
    """

    column: str
    reverse: bool = False
    rows: int | None = None

    def arrange(self, report: Report) -> Report:
        """The report with its rows in this order, and no more than `rows` of them."""
        known = [row for row in report.rows if row[self.column] is not None]
        unknown = [row for row in report.rows if row[self.column] is None]
        falling = bool(known) and not isinstance(known[0][self.column], str)
        known.sort(key=self._value, reverse=falling != self.reverse)
        return replace(report, rows=[*known, *unknown][: self.rows])

    def by(self, column: str) -> Order:
        """The same by another column."""
        return replace(self, column=column)

    def turned(self) -> Order:
        """The same the other way round."""
        return replace(self, reverse=not self.reverse)

    def _value(self, row: Row) -> Any:
        return row[self.column]


def next_column(columns: Sequence[Column], name: str, step: int) -> str:
    """The name of the column `step` places to the right, starting again at the left."""
    names = [column.name for column in columns]
    place = names.index(name) if name in names else 0
    return names[(place + step) % len(names)]
