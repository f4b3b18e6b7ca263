"""What every report is made of: columns, rows, an audit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from memtap.tracers.model.frames import pl

Row = dict[str, Any]

Kind = Literal[
    "count",
    "pct",
    "mib",
    "kib",
    "human",
    "ms",
    "us",
    "hex",
    "time",
    "text",
    "user",
    "path",
    "tree",
    "line",
]


_TYPE_NAMES = {
    "pct": "Float64",
    "hex": "UInt64",
    **dict.fromkeys(("text", "user", "path", "tree", "line", "time"), "String"),
}
_UNITS = {"pages": "pages", "bytes": "bytes", "ns": "nanoseconds", "pct": "per cent"}


class FrameRows(Sequence[Row]):
    """Rows as a frame. There may be many, so only those that are looked at are made.

    Args:
        sums: a line for each row, with the columns that need not be made.
        make: makes rows of some of these lines: a frame of all columns.
    """

    def __init__(self, sums: pl.DataFrame, make: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        self._sums, self._make = sums, make

    @cached_property
    def _made(self) -> pl.DataFrame:
        return self._make(self._sums)

    @cached_property
    def _rows(self) -> list[Row]:
        return self._made.to_dicts()

    def __len__(self) -> int:
        return len(self._sums)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        return self._rows[at]

    def ordered(self, by: Sequence[str], reverse: bool, count: int | None) -> FrameRows:
        """The first `count` rows by these columns, see Order; other rows are not made."""
        sums = self._sums
        if count is not None and set(by) <= set(sums.columns):
            sums = _ordered(sums, by, reverse).head(count)
        made = _ordered(self._make(sums), by, reverse)
        return FrameRows(made if count is None else made.head(count), lambda made: made)

    def frame(self) -> pl.DataFrame:
        """All of them."""
        return self._made

    def json(self) -> str:
        """All of them as JSON, in less time than it takes to make them."""
        return self._made.write_json()


def _ordered(frame: pl.DataFrame, by: Sequence[str], reverse: bool) -> pl.DataFrame:
    """Numbers of the first column descending, texts ascending, or the reverse; ties descending."""
    falls = frame.schema[by[0]].is_numeric() != reverse
    descending = [falls, *(True for _ in by[1:])]
    return frame.sort(by, descending=descending, nulls_last=True, maintain_order=True)


@dataclass(frozen=True)
class Column:
    """A column of a report.

    Attributes:
        name: its name in JSON and CSV; ends in its unit.
        heading: what the table calls it.
        kind: how the table shows it: `count` a number, `pct` with one decimal and a per cent
            sign, `mib` and `kib` bytes as whole MiB and KiB, `human` bytes with a letter for their
            unit, `ms` and `us` nanoseconds in those with one decimal, `hex` an address, `time` a
            moment by the clock on the wall, `text` left-aligned, `user` the same cut to 8
            characters, `path` last and cut at its start to fit, `tree` the same indented by the
            row's `depth`, `line` last and cut at its end.
        table: whether the table shows it without being asked to.
        change: whether its numbers are changes, and so have a sign.
        help: what it means.
        unknown: whether a row may lack it: null in JSON, a dash in tables.
        obvious: whether users of ps(1) know it, so that --help need not explain it.
    """

    name: str
    heading: str
    kind: Kind = "count"
    table: bool = True
    change: bool = False
    help: str = ""
    unknown: bool = False
    obvious: bool = False

    @property
    def type_name(self) -> str:
        """The polars type of its values."""
        return _TYPE_NAMES.get(self.kind, "Int64")

    @property
    def unit(self) -> str:
        """What its numbers count, by the ending of its name; "" for texts and for plain numbers."""
        return _UNITS.get(self.name.rpartition("_")[2], "")


SectionKind = Literal["rows", "histogram", "sizes", "stacks", "text"]


@dataclass(frozen=True)
class Section:
    """A part of a report below its rows, if it was asked for.

    Attributes:
        name: its name in JSON.
        kind: what its data are: `rows` of these columns, each with the `frames` of a stack if it
            has one; a `histogram` of times by powers of two (`from_ns`, `to_ns`, `count`); `sizes`
            by powers of two (`from_bytes`, `to_bytes`, and counts); `stacks` (`frames` from the
            outermost on, `count`); or `text`, sentences.
        data: as JSON has them.
        columns: of `rows`.
        most: how many a table shows if the user gives no number; None for all.
    """

    name: str
    kind: SectionKind
    data: Sequence[Any]
    columns: tuple[Column, ...] = ()
    most: int | None = None


@dataclass(frozen=True)
class Report:
    """One report: rows of one interval and their audit.

    Attributes:
        name: of the report.
        time: the end of the interval, UTC, ISO 8601.
        interval_s: its length in seconds.
        columns: what the rows have, in order.
        rows: values by column name.
        audit: see audit.py.
        sections: what else was asked for.
        remarks: what else there is to say of the interval: why it has no rows, or that it is short.
        goes_on: whether it continues the report before, as in a timeline: then no rows means no new
            rows.
        totals: for the table alone, the sums of columns over all rows, those that are cut off
            included.
    """

    name: str
    time: str
    interval_s: float
    columns: tuple[Column, ...]
    rows: Sequence[Row]
    audit: dict[str, Any]
    sections: tuple[Section, ...] = ()
    totals: Row | None = None
    remarks: tuple[str, ...] = ()
    goes_on: bool = False

    SCHEMA = 1

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the contract."""
        return {
            "report": self.name,
            "schema": self.SCHEMA,
            "time": self.time,
            "interval_s": self.interval_s,
            "rows": [{c.name: row[c.name] for c in self.columns} for row in self.rows],
            "audit": self.audit,
            **{section.name: section.data for section in self.sections},
            **({"remarks": list(self.remarks)} if self.remarks else {}),
        }

    def frame(self) -> pl.DataFrame:
        """The rows as a polars frame, a column for each of `columns`."""
        if isinstance(self.rows, FrameRows):
            return self.rows.frame()
        from memtap.tracers.model.frames import pl

        return pl.DataFrame(
            [[row[column.name] for column in self.columns] for row in self.rows],
            schema={column.name: getattr(pl, column.type_name) for column in self.columns},
            orient="row",
        )

    def section(self, name: str) -> Sequence[Any] | None:
        """The data of a section; None if it was not asked for."""
        return next((each.data for each in self.sections if each.name == name), None)


def now() -> str:
    """The present moment in UTC as reports write it: ISO 8601, milliseconds, Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def percentage(part: int, whole: int) -> float | None:
    """`part` of `whole` in per cent; None if there is no whole.

    It is not rounded: if a table rounded it once more, it would contradict its explanation.
    """
    return 100 * part / whole if whole else None


def size_text(size: int) -> str:
    """A size in the unit that fits: 1.5 GiB, 956 KiB."""
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if abs(size) >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size >> 10} KiB"


def key_columns(keys: dict[str, tuple[Column, ...]], by: tuple[str, ...]) -> tuple[Column, ...]:
    """The columns of the keys that the user groups by; each once, shown if one key shows it."""
    columns: dict[str, Column] = {}
    for column in (column for key in by for column in keys[key]):
        if column.table or column.name not in columns:
            columns[column.name] = column
    return tuple(columns.values())


def sized(column: Column, kind: Kind) -> Column:
    """A column of bytes in another kind; the heading names the unit where the cells do not."""
    if not column.name.endswith("_bytes"):
        return column
    heading = column.heading if kind == "human" else f"{column.heading}_KB"
    return replace(column, kind=kind, heading=heading)
