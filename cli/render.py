"""Reports as text: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import click

from memtap.tracers.model.report import Column, FrameRows, Kind, Report, Row, Section, SectionKind

# The width of a line where none is given.
WIDTH = 79

# The least width of a column that gives way; and of a process's name, which has 15 characters,
# except for the kernel's workers.
_LEAST = 6
COMM_WIDTH = 15

# Begins a line that continues the one before.
_INDENT = "    "

# Kinds of columns that come last in a line, cut to fit; and kinds that are aligned to the left.
_LONG = ("path", "tree", "line")
_LEFT = ("text", "user", *_LONG)


class Renderer(Protocol):
    """Turns a report into text, and remembers what it has written (a header, say)."""

    def render(self, report: Report) -> str:
        """The text of one report, with its last newline."""


class Json:
    """One object per report and line."""

    def render(self, report: Report) -> str:
        """See Renderer."""
        rows = report.rows.json() if isinstance(report.rows, FrameRows) else ""
        if not rows.isascii() or not rows:  # what is not ASCII is escaped
            return json.dumps(report.to_dict()) + "\n"
        rest = json.dumps(replace(report, rows=[]).to_dict())
        return rest.replace('"rows": []', f'"rows": {rows}', 1) + "\n"


class Csv:
    """One header, then a line per row, each with the report's time."""

    def __init__(self) -> None:
        self._has_header = False

    def render(self, report: Report) -> str:
        """See Renderer."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [column.name for column in report.columns]
        if not self._has_header:
            writer.writerow(["time", *names])
            self._has_header = True
        writer.writerows([report.time, *(row[name] for name in names)] for row in report.rows)
        return text.getvalue()


@dataclass
class Look:
    """How tables look where they are shown.

    Attributes:
        width: columns of the terminal; None where lines may be of any length.
        styled: whether headings may be bold and warnings coloured.
        timestamp: whether a time stands before each table.
        verbose: whether the audit is always shown.
        wide: whether columns that a table leaves out are shown.
        rows: how many of whatever is listed are shown; None for as many as is usual.
        titled: whether the name of each report stands above it, as it is not always the same.
    """

    width: int | None = None
    styled: bool = False
    timestamp: bool = False
    verbose: bool = False
    wide: bool = False
    rows: int | None = None
    titled: bool = False

    def heading(self, text: str) -> str:
        """A line of headings."""
        return click.style(text, bold=True) if self.styled else text

    def warning(self, text: str) -> str:
        """A line that should be noticed."""
        return click.style(text, fg="yellow") if self.styled else text


def human(size: int) -> str:
    """A size with one decimal and the letter of its unit, as smem writes it; 0 as it is."""
    if size == 0:
        return "0"
    unit = min(4, max(1, (abs(size).bit_length() - 1) // 10))
    return f"{size / 1024**unit:.1f}{' KMGT'[unit]}"


def _cut(name: str) -> str:
    """A user's name as ps shows it: if it is longer than 8 characters, the first 7 and a plus."""
    return name if len(name) <= 8 else name[:7] + "+"


_SHOWN: dict[Kind, Callable[[Any], str]] = {
    "pct": lambda value: f"{value:.1f}%",
    "mib": lambda size: str(int(size / (1 << 20))),
    "kib": lambda size: str(int(size / (1 << 10))),
    "human": human,
    "ms": lambda ns: f"{ns / 1e6:.1f}",
    "us": lambda ns: f"{ns / 1e3:.1f}",
    "hex": "{:x}".format,
    "time": lambda moment: local_time(moment),
    "user": _cut,
}


def _branch(depth: int) -> str:
    """What stands before a child, as in ps --forest."""
    return "   " * (depth - 1) + " \\_ " if depth else ""


def cell(column: Column, row: Row) -> str:
    """A value as a table shows it; one that is not known is a dash."""
    value = row[column.name]
    if value is None:
        return "-"
    if column.kind == "path" and value == "?" and "ino" in row:
        return f"? dev {row['dev']} ino {row['ino']}"
    if column.kind == "tree":
        return _branch(row["depth"]) + str(value)
    text = _SHOWN.get(column.kind, str)(value)
    return "+" + text if column.change and value > 0 else text


def table_columns(report: Report, look: Look) -> list[Column]:
    """The columns that the table shows; paths, which can be long, last."""
    shown = [column for column in report.columns if column.table or look.wide]
    return sorted(shown, key=lambda column: column.kind in _LONG)


def table_lines(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[str]:
    """A line of headings and one per row, aligned; not wider than `width`, if there is one."""
    return [line for block in table_blocks(columns, rows, width) for line in block]


def table_blocks(
    columns: Sequence[Column], rows: Sequence[Row], width: int | None, totals: Row | None = None
) -> list[list[str]]:
    """The lines of table_lines(), those of each row together.

    Long columns give way; where that is not enough, each line goes on in others, indented. The
    totals stand below a rule.
    """
    texts = [[column.heading, *(cell(column, row) for row in rows)] for column in columns]
    if totals:
        for column, cells in zip(columns, texts, strict=True):
            cells.append(cell(column, totals) if column.name in totals else "")
    widths = [_widest(cells) for cells in texts]
    parts = _parts(columns, widths, width) if width else [slice(0, len(columns))]
    aligned = [_aligned(c, cells, w) for c, cells, w in zip(columns, texts, widths, strict=True)]
    blocks = _blocks([aligned[part] for part in parts])
    if totals:
        blocks[-1].insert(0, "-" * _widest(blocks[0]))
    return blocks


def _blocks(parts: Sequence[Sequence[Sequence[str]]]) -> list[list[str]]:
    """The lines of each row, from the columns of each part."""
    first, *others = ([" ".join(row).rstrip() for row in zip(*p, strict=True)] for p in parts)
    others = [[_INDENT + line for line in lines] for lines in others]
    return [list(lines) for lines in zip(first, *others, strict=True)]


def _widest(texts: Sequence[str]) -> int:
    """The cells of the widest; there may be very many."""
    return max(map(len if "".join(texts).isascii() else _cells, texts))


def _aligned(column: Column, texts: Sequence[str], width: int) -> Sequence[str]:
    """The cells of a column, each as wide as the column."""
    if column.kind in _LEFT or column.name == "comm":
        return [_placed(column, text, width) for text in texts]
    return [text.rjust(width) for text in texts]


def _parts(columns: Sequence[Column], widths: list[int], width: int) -> list[slice]:
    """The columns of each line; those that can give way become narrower, so that lines fit.

    `widths` is changed to what is left of each column.
    """
    least = [_least(column, wide) for column, wide in zip(columns, widths, strict=True)]
    parts, begin, used = [], 0, 0
    for at, needed in enumerate(least):
        if at > begin and used + needed > width:
            parts.append(slice(begin, at))
            begin, used = at, len(_INDENT)
        used += needed + 1
    parts.append(slice(begin, len(columns)))
    for part in parts:
        spaces = part.stop - part.start - 1 + (len(_INDENT) if part.start else 0)
        widths[part] = _shrunk(widths[part], least[part], width - spaces)
    return parts


def _least(column: Column, width: int) -> int:
    """How narrow a column can become."""
    if column.kind in _LONG:
        return min(width, max(len(column.heading), _LEAST))
    return min(width, COMM_WIDTH) if column.name == "comm" else width


def _shrunk(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """The widths; the widest is made narrower until all fit, or none can become narrower."""
    widths = list(widths)
    while sum(widths) > width:
        can = [at for at, wide in enumerate(widths) if wide > least[at]]
        if not can:
            break
        widest = max(can, key=lambda at: widths[at])
        widths[widest] -= 1
    return widths


def _cells(text: str) -> int:
    """How many cells of a terminal a printable text takes."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth  # takes longer to import than all that most tables need

    return wcswidth(text)


def _line(columns: Sequence[Column], texts: Sequence[str], widths: Sequence[int]) -> str:
    placed = (_placed(c, text, w) for c, text, w in zip(columns, texts, widths, strict=True))
    return " ".join(placed).rstrip()


def _placed(column: Column, text: str, width: int) -> str:
    if column.kind in _LONG and _cells(text) > width:
        text = _begin_of(text, width) if column.kind == "line" else _end_of(text, width)
    elif column.name == "comm" and len(text) > width:
        text = text[: width - 1] + "+"
    filler = " " * (width - _cells(text))
    return text + filler if column.kind in _LEFT else filler + text


def _end_of(text: str, width: int) -> str:
    """As much of the end as fits; a character can take two cells, or none."""
    text = text[-width:]
    while _cells(text) >= width:
        text = text[1:]
    return "…" + text


def _begin_of(text: str, width: int) -> str:
    """As much of the beginning as fits."""
    text = text[:width]
    while _cells(text) >= width:
        text = text[:-1]
    return text + "…"


def histogram_lines(histogram: Sequence[dict[str, int]]) -> list[str]:
    """A bar for each bucket; the longest ends at WIDTH."""
    most = max((bucket["count"] for bucket in histogram), default=0)
    digits = len(str(most))
    lines = []
    for bucket in histogram:
        span = f"{duration(bucket['from_ns']):>7} .. {duration(bucket['to_ns']):<7}"
        bar = "*" * round(bucket["count"] / most * (WIDTH - len(span) - digits - 4))
        lines.append(f"{span} {bucket['count']:>{digits}} |{bar}".rstrip())
    return lines


def size_lines(sizes: Sequence[dict[str, int]]) -> list[str]:
    """A line of headings, and one for each power of two."""
    counts = [name for name in sizes[0] if not name.endswith("_bytes")] if sizes else []
    head = [f"{'BYTES':>21}", *(f"{name.upper():>9}" for name in counts)]
    lines = [" ".join(head)] if sizes else []
    for each in sizes:
        span = f"{each['from_bytes']:>10} ..{each['to_bytes']:>9}"
        lines.append(" ".join([f"{span:>21}", *(f"{each[name]:>9}" for name in counts)]))
    return lines


def stack_lines(stacks: Sequence[Row]) -> list[str]:
    """Stacks with their counts, each from the innermost frame on."""
    lines = []
    for stack in stacks:
        first, *more = _wrapped(stack["frames"])
        lines += [f"{stack['count']:>7}{first[7:]}", *more]
    return lines


def _wrapped(frames: Sequence[str]) -> list[str]:
    """A stack from the innermost frame on, indented."""
    lines = textwrap.wrap(" < ".join(reversed(frames)), WIDTH - 8, break_on_hyphens=False)
    return [f"{'':8}{line}" for line in lines]


def row_lines(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[str]:
    """A table, each row with its stack, if it has one, below it."""
    if not rows:
        return []
    lines, *blocks = table_blocks(columns, rows, width)
    for row, block in zip(rows, blocks, strict=True):
        lines += [*block, *_wrapped(row.get("frames", ()))]
    return lines


def text_lines(sentences: Sequence[str]) -> list[str]:
    """Sentences, each on lines of its own."""
    return [line for text in sentences for line in textwrap.wrap(text, WIDTH)]


_LINES: dict[SectionKind, Callable[[Sequence[Any]], list[str]]] = {
    "histogram": histogram_lines,
    "sizes": size_lines,
    "stacks": stack_lines,
    "text": text_lines,
}


def section_lines(section: Section, look: Look) -> list[str]:
    """A section as a table has it, no longer than is usual or was asked for."""
    data = section.data[: look.rows or section.most] if section.most else section.data
    if section.kind == "rows":
        shown = [column for column in section.columns if column.table or look.wide]
        return row_lines(shown, data, look.width)
    return _LINES[section.kind](data)


def duration(ns: int) -> str:
    """A time with three digits and its unit."""
    unit = min(3, max(0, len(str(ns)) - 1) // 3)
    return f"{ns / 1000**unit:.3g} {('ns', 'us', 'ms', 's')[unit]}"


def audit_line(audit: dict[str, Any]) -> str:
    """The audit in one line."""
    events, notes = audit["events"], len(audit["notes"])
    return (
        f"audit: {audit['accuracy']}, {events} event{'s' * (events != 1)}, {audit['lost']} lost, "
        f"{audit['missed']} missed, {audit['map_full']} refused"
        + (f", {notes} note{'s' * (notes > 1)}" if notes else "")
    )


def is_flawless(audit: dict[str, Any]) -> bool:
    """Is every number exact, and was nothing lost?"""
    flaws = audit["lost"], audit["missed"], audit["map_full"]
    return audit["accuracy"] == "exact" and not any(flaws)


def happened(audit: dict[str, Any]) -> bool:
    """Is there anything that an audit could be about?"""
    return any(audit[name] for name in ("events", "lost", "missed", "map_full"))


def local_time(time: str) -> str:
    """The time of a report as a clock on the wall shows it."""
    return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S")


class _Audits:
    """The lines on how far tables can be believed: each note once, however often it is true."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._told: set[str] = set()

    def lines(self, report: Report) -> list[str]:
        """The audit, if it is wanted or not all is exact, and notes that were not shown before."""
        look, flawless = self._look, is_flawless(report.audit)
        line = audit_line(report.audit)
        if not look.verbose and report.audit["notes"]:
            line += " (-v shows them)"
        lines = [line if flawless else look.warning(line)] if look.verbose or not flawless else []
        if look.verbose:
            news = [note for note in report.audit["notes"] if note not in self._told]
            self._told.update(news)
            lines += [f"  note: {note}" for note in news]
        return lines


class Blocks:
    """A table for each report, with an empty line between two."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._audits = _Audits(look)
        self._gap = ""

    def render(self, report: Report) -> str:
        """See Renderer."""
        look = self._look
        lines = [look.heading(f"{report.name}:")] if look.titled else []
        lines += [local_time(report.time)] if look.timestamp else []
        lines += self._table(report)
        lines += report.remarks
        lines += [line for each in report.sections for line in section_lines(each, look)]
        if not lines and not happened(report.audit):
            return ""
        lines += self._audits.lines(report)
        if not lines:
            return ""
        gap, self._gap = self._gap, "\n"
        return gap + "".join(f"{line}\n" for line in lines)

    def _table(self, report: Report) -> list[str]:
        """Headings and rows; nothing if a report that goes on has no new rows."""
        if report.goes_on and not report.rows:
            return []
        columns = table_columns(report, self._look)
        head, *rows = table_blocks(columns, report.rows, self._look.width, report.totals)
        return [*map(self._look.heading, head), *(line for row in rows for line in row)]


class Rolling:
    """A line for each report of one row, under headings that come again now and then."""

    ROWS_PER_HEADING = 20
    WIDTH = 8  # of a number, so that lines of different reports stand below each other

    def __init__(self, look: Look) -> None:
        self._look = look
        self._audits = _Audits(look)
        self._until_heading = 0

    def render(self, report: Report) -> str:
        """See Renderer."""
        look, columns = self._look, table_columns(report, self._look)
        widths = [max(self.WIDTH, len(column.heading)) for column in columns]
        lines = []
        if self._until_heading == 0:
            text = _line(columns, [column.heading for column in columns], widths)
            lines.append(look.heading(("TIME     " if look.timestamp else "") + text))
            self._until_heading = self.ROWS_PER_HEADING if look.width else -1
        self._until_heading -= 1
        time = local_time(report.time) + " " if look.timestamp else ""
        for row in report.rows:
            lines.append(time + _line(columns, [cell(c, row) for c in columns], widths))
        lines += [*report.remarks, *self._audits.lines(report)]
        return "".join(f"{line}\n" for line in lines)
