"""A report redrawn in place on a terminal."""

from __future__ import annotations

import curses
import locale
import os
import select
import sys
from contextlib import suppress
from typing import Protocol

import click

from memtap.bpf.errors import MemtapError
from memtap.cli.arrange import Order, next_column
from memtap.cli.keys import Keys
from memtap.cli.options import Options
from memtap.cli.render import (
    Blocks,
    Look,
    audit_line,
    is_flawless,
    local_time,
    table_columns,
    table_lines,
)
from memtap.tracers.model.report import Report
from memtap.tracers.model.tracer import Tracer

KEYS_LINE = "< > sort  r reverse  b by  space pause  q quit"


class Regrouped(Protocol):
    """A reporter that can show its last interval anew.

    Attributes:
        by: the keys by which it groups.
    """

    by: tuple[str, ...]

    def report(self) -> Report:
        """The last interval, grouped by the current keys."""


class Screen:
    """Shows the reports of a tracer, and reacts to keys."""

    def __init__(self, tracer: Tracer, reporter: Regrouped, order: Order, options: Options) -> None:
        self._name, self._groups = tracer.name, list(tracer.keys)
        # Every grouping has one of these columns.
        self._usual = (order.column, tracer.showing(tracer.usual()).sort or "")
        self._is_left = False
        self._keys = Keys()
        self._terminal = sys.stdin.fileno()
        self.inputs = [self._terminal]
        self._reporter, self._order = reporter, order
        self._look = Look(wide=options.wide)
        self._verbose = options.verbose
        self._keeps_last = options.count is not None
        self._paused = False
        self._report: Report | None = None
        self._window = _open()
        self._put_all(["waiting for the first interval to end"], KEYS_LINE)

    @property
    def closed(self) -> bool:
        """Whether the user has left: by q, by Esc, or because the terminal is gone."""
        self._is_left |= self._keys.is_escape() and not _is_readable(self._terminal)
        return self._is_left

    def show(self, report: Report) -> None:
        """Shows a report, unless the user has paused at an earlier one."""
        if not self._paused:
            self._report = report
            self._draw()

    def listen(self) -> None:
        """Carries out the keys that were pressed."""
        data = _read(self._terminal)
        if not data:
            self._is_left = True
        for key in self._keys.feed(data):
            self._press(key)
        self._draw()

    def close(self) -> None:
        """Gives the terminal back; after COUNT reports the last report stays on it."""
        with suppress(curses.error):  # it is gone
            curses.endwin()
        if self._keeps_last and self._report and not self.closed:
            click.echo(Blocks(self._look).render(self._order.arrange(self._report)), nl=False)

    def _press(self, key: str) -> None:
        if key == "q":
            self._is_left = True
        elif key in (" ", "p"):
            self._paused = not self._paused
        elif key == "r":
            self._order = self._order.turned()
        elif key == "b" and self._report:
            self._group()
        elif key in ("<", ">") and self._report:
            columns = [
                c for c in table_columns(self._report, self._look) if c.kind not in ("path", "line")
            ]
            step = 1 if key == ">" else -1
            self._order = self._order.by(next_column(columns, self._order.column, step))

    def _group(self) -> None:
        """Groups by the next key, and shows the last interval anew."""
        place = self._groups.index(self._reporter.by[0])
        self._reporter.by = (self._groups[(place + 1) % len(self._groups)],)
        self._report = self._reporter.report()
        there = [column.name for column in self._report.columns]
        if self._order.column not in there:
            self._order = self._order.by(next(name for name in self._usual if name in there))

    def _draw(self) -> None:
        if self._report is None or self._is_left:
            return
        try:
            height, width = self._size()
        except OSError:  # the terminal is gone
            self._is_left = True
            return
        report = self._order.at_most(max(height - 3, 0)).arrange(self._report)
        columns = table_columns(report, self._look)
        lines = table_lines(columns, report.rows, width)
        flawless = is_flawless(report.audit) and not self._verbose
        bottom = KEYS_LINE if flawless else audit_line(report.audit)
        self._put_all([self._title(report), *lines, *report.remarks], bottom)

    def _title(self, report: Report) -> str:
        by, column = ",".join(self._reporter.by), self._order.column
        heading = next(c.heading for c in report.columns if c.name == column)
        state = "paused" if self._paused else f"{report.interval_s:.1f} s"
        order = f"{heading} {'reversed' if self._order.reverse else 'first'}"
        return f"{self._name} {local_time(report.time)}  {state}  by {by}  {order}"

    def _size(self) -> tuple[int, int]:
        """Height and width; follows a terminal that was resized."""
        size = terminal_size(sys.stdout.fileno())
        if self._window.getmaxyx() != size:
            curses.resizeterm(*size)
        return size

    def _put_all(self, lines: list[str], bottom: str) -> None:
        """A title, headings and rows, and a line at the bottom, all at once."""
        self._window.erase()
        for at, line in enumerate(lines):
            self._put(at, line, curses.A_REVERSE if at == 1 else curses.A_NORMAL)
        self._put(self._window.getmaxyx()[0] - 1, bottom, curses.A_DIM)
        self._window.refresh()

    def _put(self, line: int, text: str, attribute: int) -> None:
        height, width = self._window.getmaxyx()
        if 0 <= line < height:
            filled = text.ljust(width) if attribute == curses.A_REVERSE else text
            known = filled.encode(self._window.encoding, "replace").decode(self._window.encoding)
            # insnstr, because addnstr fails in the last column of the last line.
            self._window.insnstr(line, 0, known, width, attribute)


def can_be_drawn_on() -> bool:
    """Whether curses can place text on the terminal that TERM names."""
    try:
        curses.setupterm()
        return curses.tigetstr("cup") is not None
    except curses.error:
        return False


def terminal_size(descriptor: int) -> tuple[int, int]:
    """Lines and columns of a terminal; usual ones where they are not known (a serial line)."""
    size = os.get_terminal_size(descriptor)
    return size.lines or 24, size.columns or 80


def _open() -> curses.window:
    with suppress(locale.Error):  # LC_ALL names one that is not installed
        locale.setlocale(locale.LC_ALL, "")
    try:
        window = curses.initscr()
    except curses.error as error:
        hint = "set TERM to the kind of your terminal, or use --batch"
        raise MemtapError(f"this terminal cannot be drawn on: {error}", hint) from error
    curses.noecho()
    curses.cbreak()
    with suppress(curses.error):  # not every terminal can hide its cursor
        curses.curs_set(0)
    return window


def _is_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def _read(descriptor: int) -> bytes:
    """What a terminal sent; nothing if it is gone."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
