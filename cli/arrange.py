"""The order of rows, and how many of them are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memtap.tracers.model.report import Column, FrameRows, Report, Row, Section


@dataclass(frozen=True)
class Order:
    """Orders rows by a column, numbers falling and texts rising; rows without a value come last.

    Attributes:
        column: the name of the column.
        reverse: whether the order is reversed.
        rows: how many are kept; None for all.
        ties: the column that orders rows with the same value in the first, largest first; None
            where such rows keep their order.
    """

    column: str
    reverse: bool = False
    rows: int | None = None
    ties: str | None = None

    def arrange(self, report: Report) -> Report:
        """The report with its rows in this order, and at most `rows` of whatever it lists."""
        sections = tuple(map(self._cut, report.sections))
        return replace(report, rows=self._first(report.rows), sections=sections)

    def _cut(self, section: Section) -> Section:
        """A section with as many items as are asked for; if no number is, the table decides."""
        if section.most is None or self.rows is None:
            return section
        return replace(section, data=section.data[: self.rows])

    def by(self, column: str) -> Order:
        """The same order, by another column."""
        return replace(self, column=column)

    def at_most(self, rows: int) -> Order:
        """The same order, with no more rows than that."""
        return replace(self, rows=rows if self.rows is None else min(rows, self.rows))

    def turned(self) -> Order:
        """The same order, reversed."""
        return replace(self, reverse=not self.reverse)

    def _first(self, rows: Sequence[Row]) -> Sequence[Row]:
        if isinstance(rows, FrameRows):
            by = [self.column, *([self.ties] if self.ties else [])]
            return rows.ordered(by, self.reverse, self.rows)
        return self._ordered(rows)[: self.rows]

    def _ordered(self, rows: Sequence[Row]) -> list[Row]:
        if ties := self.ties:
            rows = sorted(rows, key=lambda row: row[ties] or 0, reverse=True)
        known = [row for row in rows if row[self.column] is not None]
        unknown = [row for row in rows if row[self.column] is None]
        falling = bool(known) and not isinstance(known[0][self.column], str)
        known.sort(key=self._value, reverse=falling != self.reverse)
        return [*known, *unknown]

    def _value(self, row: Row) -> Any:
        return row[self.column]


class AsTheyCome(Order):
    """Keeps the order of the report."""

    def _ordered(self, rows: Sequence[Row]) -> list[Row]:
        return list(reversed(rows)) if self.reverse else list(rows)


class Tree(Order):
    """Processes below their parents, siblings in order; each row gets its `depth`."""

    def arrange(self, report: Report) -> Report:
        """See Order."""
        pids = {row["pid"] for row in report.rows}
        children: dict[int | None, list[Row]] = {None: []}
        for row in self._ordered(report.rows):
            parent = row["ppid"] if row["ppid"] in pids else None
            children.setdefault(parent, []).append(row)
        return replace(report, rows=list(_nested(children))[: self.rows])


def _nested(children: dict[int | None, list[Row]]) -> Iterator[Row]:
    """Each row before its children.

    A process number can be used again while we look, so that two processes are parents of each
    other: then the first of them that is found is on top.
    """
    for top in list(children):
        left = [(row, 0) for row in reversed(children.pop(top, []))]
        while left:
            row, depth = left.pop()
            yield row | {"depth": depth}
            left += [(child, depth + 1) for child in reversed(children.pop(row["pid"], []))]


def next_column(columns: Sequence[Column], name: str, step: int) -> str:
    """The name of the column `step` places to the right, starting again at the left."""
    names = [column.name for column in columns]
    place = names.index(name) if name in names else 0
    return names[(place + step) % len(names)]
