"""Where reports go."""

from __future__ import annotations

import errno
import io
import os
import select
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Protocol, TextIO

import click

from memtap.bpf.errors import MemtapError
from memtap.cli.arrange import Order
from memtap.cli.endings import is_told_to_end
from memtap.cli.options import Shown
from memtap.cli.render import Blocks, Csv, Json, Look, Renderer, Rolling
from memtap.tracers.host.caller import caller
from memtap.tracers.host.hostile import one_line
from memtap.tracers.model.report import Report

# How many characters fit into a pipe that has room (PIPE_BUF), however they are encoded.
_PIECE = select.PIPE_BUF // 10
_PATIENCE_MS = 500


def open_output(path: Path | None) -> TextIO:
    """The file, or stdout. Raises MemtapError if the file cannot be written."""
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names can have any characters
            sys.stdout.reconfigure(errors="backslashreplace")
        return sys.stdout
    try:
        return os.fdopen(_create(path), "w", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _create(path: Path) -> int:
    """Opens a file for writing; a new file belongs to the user who called sudo."""
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, flags | os.O_TRUNC)
    except FileNotFoundError:  # also where a symbolic link leads
        new = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(os.path.realpath(path), new, 0o666)
    if owner := caller():
        with suppress(PermissionError):  # not every file system has owners
            os.fchown(fd, *owner)
    return fd


def _unwritable(path: Path, error: OSError) -> MemtapError:
    return MemtapError(f"cannot write {path}: {error.strerror}", "name another file")


@contextmanager
def readers_of(paths: Iterable[Path | None]) -> Iterator[None]:
    """Waits until each FIFO among the files has a reader, and keeps it open so that none leaves."""
    held: list[int] = []
    try:
        for path in paths:
            if path and path.is_fifo():
                held.append(_open_fifo(path))
        yield
    finally:
        for fd in held:
            os.close(fd)


def _open_fifo(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise _unwritable(path, error) from error
    click.echo(f"memtap: note: waiting for somebody to read {one_line(str(path))}", err=True)
    return os.open(path, os.O_WRONLY)


def write(stream: TextIO, text: str, what: str = "the report", option: str = "--output") -> bool:
    """Writes at once, so that a pipe has it now; False if its reader has gone away.

    Also False if a pipe is full, its reader does not read, and we are told to end. Raises
    MemtapError, which names `what` and the option, if it cannot write for another reason, such as a
    full disk.
    """
    try:
        for piece in _pieces(stream, text):
            stream.write(piece)
            stream.flush()
    except OSError as error:
        is_gone = _has_gone(stream, error)
        # Python would try once more, and complain, when it flushes stdout at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if is_gone:
            return False
        reason = f"cannot write {what}: {error.strerror}"
        raise MemtapError(reason, f"name another file with {option}") from error
    return True


def _has_gone(stream: TextIO, error: OSError) -> bool:
    """Whether the reader is gone: of a pipe, or on a terminal that was closed."""
    is_device = stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    return error.errno == errno.EPIPE or (error.errno == errno.EIO and is_device)


def _pieces(stream: TextIO, text: str) -> Iterator[str]:
    """The text as a whole, if it can be written without a long wait; else pieces, as they fit."""
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # it is no file
        yield text
        return
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        yield text
        return
    for at in range(0, len(text), _PIECE):
        _wait_for_room(descriptor)
        yield text[at : at + _PIECE]


def _wait_for_room(descriptor: int) -> None:
    """Waits until something can be written; raises EPIPE if we are told to end before."""
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    while not room.poll(_PATIENCE_MS):
        if is_told_to_end():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def is_styled(stream: TextIO) -> bool:
    """Whether headings may be bold and warnings coloured: on a terminal that can, unless NO_COLOR.

    A terminal without TERM, or with TERM=dumb, cannot.
    """
    can = os.environ.get("TERM", "dumb") != "dumb"
    return can and stream.isatty() and not os.environ.get("NO_COLOR")


def choose_renderer(
    options: Shown, stream: TextIO, rolling: bool, rows: int | None, titled: bool = False
) -> Renderer:
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
        rows=rows,
        titled=titled,
    )
    return Rolling(look) if rolling else Blocks(look)


class Display(Protocol):
    """Where reports are shown.

    Attributes:
        inputs: descriptors on which the user's input comes.
    """

    inputs: list[int]

    @property
    def closed(self) -> bool:
        """Whether the reports have no reader any more."""

    def show(self, report: Report) -> None:
        """Shows a report."""

    def listen(self) -> None:
        """Takes in what can be read from the inputs."""

    def close(self) -> None:
        """Gives the terminal back."""


class Printer:
    """Writes each report as text. A reader that has gone away ends it quietly."""

    def __init__(self, options: Shown, rolling: bool, order: Order, titled: bool = False) -> None:
        self._order = order
        self._stream = open_output(options.output)
        self._renderer = choose_renderer(options, self._stream, rolling, order.rows, titled)
        self.closed = False
        self.inputs: list[int] = []

    def beside(self, order: Order) -> Printer:
        """Another printer to the same place, for reports in another order."""
        other = copy(self)
        other._order = order
        return other

    def listen(self) -> None:
        """Does nothing: there are no inputs."""

    def close(self) -> None:
        """Does nothing: there is nothing to give back."""

    def show(self, report: Report) -> None:
        """Writes a report."""
        if not self.closed:
            text = self._renderer.render(self._order.arrange(report))
            self.closed = not write(self._stream, text)
