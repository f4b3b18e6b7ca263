"""Calling memtap: in this process, which is quick, or in one of its own."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from memtap.cli.endings import ENDINGS
from memtap.cli.main import main
from memtap.cli.options import Options, TracingCommand, shared

HOME = Path(__file__).resolve().parents[2]

# No process has this number. A command line that is understood ends at it, before any tracing.
NOBODY = ("-p", "999999999")

_WITHOUT_BCC = "import sys; sys.modules['bcc'] = None; from memtap.cli.main import main; main()"


@dataclass
class Done:
    """How a call ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def _stream() -> io.TextIOWrapper:
    """Takes text, and also the bytes that click writes below it."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def memtap(*arguments: object) -> Done:
    """Calls memtap in this process."""
    # Not in a child: it would have none of the threads that polars may have started here.
    trust = ["--trust"] if "--from" in arguments[:-1] else []
    before, sys.argv = sys.argv, ["memtap", *map(str, arguments), *trust]
    handlers = {number: signal.getsignal(number) for number in ENDINGS}
    status: object = 0
    with redirect_stdout(_stream()) as out, redirect_stderr(_stream()) as err:
        try:
            main()
        except SystemExit as end:
            status = end.code
        finally:
            sys.argv = before
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert isinstance(status, int)
    return Done(status, _written(out), _written(err))


def command(*arguments: object) -> list[str]:
    """The words that start memtap, where bcc cannot be imported."""
    return [sys.executable, "-c", _WITHOUT_BCC, *map(str, arguments)]


def spawn(*arguments: object, **how: Any) -> Done:
    """Calls memtap in a process of its own."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    done = subprocess.run(command(*arguments), cwd=HOME, text=True, timeout=30, **how)
    return Done(done.returncode, done.stdout or "", done.stderr or "")


def somebody() -> dict[str, Any]:
    """What makes a process that of an ordinary user, who can read this checkout."""
    if os.geteuid() != 0:
        return {}
    uid = HOME.stat().st_uid
    if uid == 0:
        if not all(folder.stat().st_mode & stat.S_IXOTH for folder in (HOME, *HOME.parents)):
            pytest.skip("only root can enter this checkout")
        uid = 65534
    return {"user": uid, "group": uid, "extra_groups": []}


def says(done: Done, what: str, hint: str) -> None:
    """A foreseen failure: status 1, and two lines on stderr."""
    assert done.status == 1, done.err
    assert "Traceback" not in done.err
    first, second = done.err.splitlines()
    assert first.startswith("memtap: ")
    assert what in first
    assert hint in second


def understood(*arguments: str) -> Options:
    """What a command with the shared options is called with."""
    calls: list[Options] = []
    command = click.command(cls=TracingCommand)(shared(("process", "file"))(calls.append))
    command.main(list(arguments), standalone_mode=False)
    (options,) = calls
    return options
