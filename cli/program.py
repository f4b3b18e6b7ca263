"""PROGRAM after `--`: started by us, held until tracing has begun."""

from __future__ import annotations

import errno
import os
import pwd
import select
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.tracers.host.caller import caller

# What Python ignores (an ignored signal stays so in a new program), and what ends a run.
_OURS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM)

_SIGNAL_STATUS = 128  # a shell's status for a program that a signal ended is 128 + its number


class Program:
    """A child process that becomes PROGRAM when it is told to go.

    It is forked before this process has threads. What it does before it executes PROGRAM is not
    traced, but that is as little as can be: it waits as the user who called sudo, with nothing
    left to do but to execute PROGRAM. If we die before go(), it never does.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        """Raises MemtapError if there is no such program; go() raises what is found out later."""
        self._name = argv[0]
        if shutil.which(self._name) is None:  # before the time for compiling is spent
            raise self._cannot_run(errno.EACCES if Path(self._name).exists() else errno.ENOENT)
        wait, self._go = os.pipe()
        self._failure, fail = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            os.close(self._failure)
            _become(list(argv), wait, fail)
        os.close(wait)
        os.close(fail)
        self.pidfd = os.pidfd_open(self.pid)
        self._status: int | None = None

    def go(self) -> None:
        """Lets PROGRAM start. Raises MemtapError if it cannot be run."""
        with suppress(BrokenPipeError):  # the child was killed: its status will show it
            os.write(self._go, b"g")
        os.close(self._go)
        number = os.read(self._failure, 16)
        if number:
            self.status()
            raise self._cannot_run(int(number))

    def _cannot_run(self, number: int) -> MemtapError:
        what = f"cannot run {self._name}: {os.strerror(number)}"
        return MemtapError(what, "name a program to trace")

    def status(self) -> int:
        """Waits for its end; gives its exit status as a shell would."""
        if self._status is None:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._status = code if code >= 0 else _SIGNAL_STATUS - code
        return self._status

    def has_ended(self) -> bool:
        """Whether it has ended, without waiting."""
        return bool(select.select([self.pidfd], [], [], 0)[0])

    def end(self) -> None:
        """Ends it by SIGTERM if it still runs; PROGRAM, once started, may end in its own way."""
        if self._status is None and not self.has_ended():
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)


def _become(argv: list[str], wait: int, fail: int) -> None:
    """The child: gives up root, waits for go(), and becomes the program; never returns."""
    try:
        for number in _OURS:
            signal.signal(number, signal.SIG_DFL)
        _be_the_caller()
        if os.read(wait, 1) != b"g":
            os._exit(0)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(fail, str(error.errno or errno.EINVAL).encode())
    finally:
        os._exit(1)


def _be_the_caller() -> None:
    """Becomes the user who called sudo, if there is one."""
    numbers = caller()
    if numbers is None:
        return
    uid, gid = numbers
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        os.setgroups([gid])
    else:
        os.initgroups(user.pw_name, gid)
        os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    os.setgid(gid)
    os.setuid(uid)
