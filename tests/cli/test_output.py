"""Where reports go: at once, and quietly nowhere when nobody reads any more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from typing import TextIO

import pytest

from memtap.cli.arrange import Order
from memtap.cli.output import Printer, write
from tests.cli.calling import understood
from tests.cli.making import FIRST, top_report


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """Both ends."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with suppress(BrokenPipeError), os.fdopen(reader) as ours, os.fdopen(writer, "w") as theirs:
        yield ours, theirs


def test_a_report_can_be_read_at_once(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    assert write(writer, "first\n")
    assert reader.readline() == "first\n"


def test_a_reader_that_has_gone_away_closes_a_display(pipe: tuple[TextIO, TextIO]) -> None:
    reader, writer = pipe
    report = top_report(FIRST)
    with redirect_stdout(writer):
        printer = Printer(understood(), rolling=False, order=Order("hits_pages"))
    closed = []
    for gone in (False, True, True):
        if gone:
            reader.close()
        printer.show(report)
        closed.append(printer.closed)
    assert closed == [False, True, True]
