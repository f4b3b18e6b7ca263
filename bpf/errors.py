"""Failures that are foreseen: what went wrong, and what to do about it."""

from __future__ import annotations

import errno
import os


class MemtapError(Exception):
    """Something memtap cannot do here, said in one line, with a line of what to do.

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

    `log` is what compiler or verifier said; `what` ends with the line of it that tells the cause.
    """

    def __init__(self, what: str, hint: str = "", log: str = "") -> None:
        word = cause_in(log)
        said = f"{what}: {word}" if word else what
        super().__init__(said, hint or "memtap doctor tells what this kernel allows")

    @classmethod
    def of(cls, error: OSError, log: str = "") -> LoadError:
        """What a system call said."""
        hint = ""
        if error.errno == errno.EPERM:
            hint = "run it as root; if you are root, memtap doctor tells what forbids it"
        return cls(error.strerror or os.strerror(error.errno or 0), hint, log)


# What the verifier counts, below its last word.
_FIGURES = ("processed ", "verification time ", "stack depth ")


def cause_in(log: str) -> str:
    """The first error of a compiler, or the last word of the verifier; "" if nothing was said."""
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if " error: " in line]
    words = [line for line in lines if line and not line.startswith(_FIGURES)]
    return next(iter(errors or words[::-1]), "")


# What the C library says of a shared object that does not fit, and Python of a thread.
_NO_ROOM = ("failed to map segment", "cannot allocate memory", "can't start new thread")


def shortage(error: BaseException) -> MemtapError | None:
    """What there was too little of, if an error came of that; None if it is of another kind."""
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
