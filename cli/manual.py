"""The text of a command's --help, made from what is declared."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from memtap.tracers import every_declared
from memtap.tracers.model.report import Column
from memtap.tracers.model.tracer import Declared, Query

# The widths of a line, without click's indentation, and of the words at its left.
_WIDTH, _LEFT = 76, 12

_SCREEN = (
    "On a terminal the table is redrawn in place. Keys: < and > choose the column to sort by, r "
    "reverses the order, b goes on to the next grouping, space pauses, q ends."
)


def help_of(declared: Declared) -> str:
    """The text of --help: the question it answers, its columns, its terms, examples."""
    shown, hidden = _columns(declared)
    of_keys = {column.name for columns in declared.keys.values() for column in columns}
    paragraphs = [declared.question, *declared.about, *([_SCREEN] if declared.has_screen else [])]
    blocks = [
        _explained(column for column in shown if column.name in of_keys),
        _entries(declared.terms),
        _explained(column for column in shown if column.name not in of_keys),
        _headed("--wide adds", _explained(hidden)),
        *(_headed(f"--{flag.name} shows", _explained(flag.columns)) for flag in declared.flags),
        _examples(declared.examples),
    ]
    # click leaves a block as it is if it begins so.
    return "\n\n".join([*paragraphs, *("\b\n" + "\n".join(block) for block in blocks if block)])


def _columns(declared: Declared) -> tuple[list[Column], list[Column]]:
    """The columns that a table of some report shows by default, and all others."""
    queries = [Query(by=(key,), wide=wide) for wide in (False, True) for key in declared.keys]
    reports = [(query.wide, column) for query in queries for column in declared.columns(query)]
    shown = {column.name: column for wide, column in reports if column.table and not wide}
    hidden = {column.name: column for _, column in reports if column.name not in shown}
    return list(shown.values()), list(hidden.values())


def _explained(columns: Iterable[Column]) -> list[str]:
    """What columns mean, except for the obvious ones."""
    return _entries((column.heading, column.help) for column in columns if not column.obvious)


def _entries(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Lines with a word at the left and its meaning beside it."""
    return [line for word, meaning in entries for line in _entry(word, meaning)]


def _entry(word: str, meaning: str) -> list[str]:
    first, *more = textwrap.wrap(meaning, _WIDTH - _LEFT, break_on_hyphens=False)
    return [f"{word:<{_LEFT - 1}} {first}", *(" " * _LEFT + line for line in more)]


def _headed(heading: str, lines: Sequence[str]) -> list[str]:
    return [heading, *(f"  {line}" for line in lines)] if lines else []


def _examples(examples: Sequence[tuple[str, str]]) -> list[str]:
    """Command lines, each with what it is for beside it."""
    left = max(len(line) for line, _ in examples)
    return [f"memtap {line:<{left}}  {what}" for line, what in examples]


def columns_page() -> str:
    """docs/columns.md: every column of every report."""
    lines = [line for each in every_declared() for line in _page_of(each)]
    return "\n".join([_PAGE, *lines]) + "\n"


_PAGE = """# Every column

What `memtap COMMAND --help` says of columns, and their names in JSON and CSV. `memtap schema
COMMAND` is the same for programs. A column in brackets is shown with `--wide` alone."""


def _page_of(declared: Declared) -> list[str]:
    shown, hidden = _columns(declared)
    rows = [*map(_page_row, shown), *(_page_row(column, "({})") for column in hidden)]
    rows += [_page_row(column) for flag in declared.flags for column in flag.columns]
    head = ["", f"## {declared.name}", "", declared.summary, ""]
    return [
        *head,
        "| column | in JSON | unit | meaning |",
        "|---|---|---|---|",
        *dict.fromkeys(rows),
    ]


def _page_row(column: Column, heading: str = "{}") -> str:
    said = heading.format(column.heading)
    return f"| {said} | `{column.name}` | {column.unit} | {column.help} |"
