"""Work on files from strangers, in a process with limits on memory and time.

A bound that is checked beforehand limits only what a file says about itself, and some libraries end
the process when there is no memory. So a child does the work, and may end in any way.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import click

from memtap.bpf.errors import MemtapError
from memtap.cli.endings import ENDINGS
from memtap.tracers.host.hostile import one_line

# What the child's own data may take. Its code and its libraries take some 80 MiB more.
_MOST_BYTES = 400 << 20
_PDEATHSIG = 1  # of uapi/linux/prctl.h


def complain(error: MemtapError) -> None:
    """Says what went wrong, and what to do, in a line each."""
    click.echo(f"memtap: {one_line(error.what)}", err=True)
    if error.hint:
        click.echo(one_line(error.hint), err=True)


def run_confined(work: Callable[[], None], about: str, cpu_s: int, hint: str) -> None:
    """Does work on a file in a child, and ends with its status if it fails.

    Raises MemtapError if it took too much of something.

    Args:
        work: what to do.
        about: the file, for error messages.
        cpu_s: how long it may take on a CPU.
        hint: what to do if it needs more of something.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_child(work, about, cpu_s, hint)
    for number in ENDINGS:
        signal.signal(number, lambda number, _: _tell(child, number))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGXCPU:
        raise MemtapError(f"{about} takes more than {cpu_s} s to be worked on", hint)
    if status < 0:
        raise _too_large(about, hint)
    if status:
        raise SystemExit(status)


def _tell(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _too_large(about: str, hint: str) -> MemtapError:
    what = f"{about} takes more than {_MOST_BYTES >> 20} MiB to be worked on, or does harm"
    return MemtapError(what, hint)


def _be_child(work: Callable[[], None], about: str, cpu_s: int, hint: str) -> NoReturn:
    status = 1
    try:
        _confine(cpu_s)
        status = _status(work, about, hint)
        sys.stdout.flush()
    finally:
        os._exit(status)


def _confine(cpu_s: int) -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, most in ((resource.RLIMIT_DATA, _MOST_BYTES), (resource.RLIMIT_CPU, cpu_s)):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, hard))
    # Libraries that end the process write messages of their own to stderr.
    sys.stderr = os.fdopen(os.dup(2), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _status(work: Callable[[], None], about: str, hint: str) -> int:
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except MemtapError as error:
        complain(error)
        return 1
    except MemoryError:
        complain(_too_large(about, hint))
        return 1
    except BaseException as error:  # a file from strangers can be wrong in ways not known here
        what = f"cannot read {about}: it contradicts itself ({type(error).__name__})"
        complain(MemtapError(what, "it is damaged, or was not recorded by memtap"))
        return 1
    return 0
