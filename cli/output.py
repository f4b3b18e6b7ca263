"""Where reports go."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
from pathlib import Path
from typing import TextIO

from memtap.bpf.errors import MemtapError
from memtap.cli.arrange import Order
from memtap.cli.options import Shown
from memtap.cli.render import Blocks, Csv, Json, Look, Renderer, Rolling
from memtap.tracers.report import Report


def open_output(path: Path | None) -> TextIO:
    """The file, or stdout. Raises MemtapError if the file cannot be written."""
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names have any characters
            sys.stdout.reconfigure(errors="backslashreplace")
        return sys.stdout
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise MemtapError(f"cannot write {path}: {error.strerror}", "name another file") from error


def write(stream: TextIO, text: str) -> bool:
    """Writes at once, so that a pipe has it now; False if its reader has gone away.

    Raises MemtapError if it cannot be written for another reason, such as a full disk.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        # Python would try once more, and complain, when it flushes stdout at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if error.errno == errno.EPIPE:
            return False
        reason = f"cannot write the report: {error.strerror}"
        raise MemtapError(reason, "name another file with --output") from error
    return True


def is_styled(stream: TextIO) -> bool:
    """Whether headings may be bold and warnings coloured: on a terminal, unless NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def choose_renderer(options: Shown, stream: TextIO, rolling: bool) -> Renderer:
    """The renderer of the format asked for, dressed for where it goes."""
    if options.format == "json":
        return Json()
    if options.format == "csv":
        return Csv()
    look = Look(
        width=shutil.get_terminal_size().columns if stream.isatty() else None,
        styled=is_styled(stream),
        timestamp=options.timestamp,
        verbose=options.verbose,
        wide=options.wide,
    )
    return Rolling(look) if rolling else Blocks(look)


class Printer:
    """Writes each report as text. A reader that has gone away ends it quietly."""

    def __init__(self, options: Shown, rolling: bool, order: Order) -> None:
        self._order = order
        self._stream = open_output(options.output)
        self._renderer = choose_renderer(options, self._stream, rolling)
        self.closed = False
        self.inputs: list[int] = []

    def listen(self) -> None:
        """Nobody says anything on a pipe."""

    def close(self) -> None:
        """Nothing to give back."""

    def show(self, report: Report) -> None:
        """Writes a report."""
        if not self.closed:
            text = self._renderer.render(self._order.arrange(report))
            self.closed = not write(self._stream, text)
