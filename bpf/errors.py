"""Failures that are foreseen: what went wrong, and what to do about it."""

from __future__ import annotations

import errno
import os


class MemtapError(Exception):
    """Something that memtap cannot do here, in one line, with a line of what to do.

    Attributes:
        what: what went wrong, without a full stop.
        hint: what the user can do, or "" where nothing helps.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class LoadError(MemtapError):
    """A program did not compile, load or attach.

    `log` is the output of compiler or verifier; `what` ends with its line that names the cause.
    """

    def __init__(self, what: str, hint: str = "", log: str = "") -> None:
        word = cause_in(log)
        said = f"{what}: {word}" if word else what
        super().__init__(said, hint or "memtap doctor tells what this kernel allows")

    @classmethod
    def of(cls, error: OSError, log: str = "") -> LoadError:
        """The error of a system call."""
        hint = ""
        if error.errno == errno.EPERM:
            hint = "run it as root; if you are root, memtap doctor tells what forbids it"
        return cls(error.strerror or os.strerror(error.errno or 0), hint, log)


# Figures of the verifier, which stand below its message.
_FIGURES = ("processed ", "verification time ", "stack depth ")


def cause_in(log: str) -> str:
    """The first error of a compiler, or the verifier's last message; "" if the log is empty."""
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if " error: " in line]
    words = [line for line in lines if line and not line.startswith(_FIGURES)]
    return next(iter(errors or words[::-1]), "")


# Messages of the C library about a shared object that does not fit, and of Python about a thread.
_NO_ROOM = ("failed to map segment", "cannot allocate memory", "can't start new thread")


def shortage(error: BaseException) -> MemtapError | None:
    """What an error says there was too little of; None if it is an error of another kind."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return MemtapError("too many files are open", "raise that limit first: ulimit -n 4096")
    words = str(error).lower()
    if (
        isinstance(error, MemoryError)
        or number == errno.ENOMEM
        or any(w in words for w in _NO_ROOM)
    ):
        return MemtapError(
            "there is not enough memory",
            "free some, or raise what this process or its cgroup may have (ulimit -a)",
        )
    return None
