"""The command `memtap`: says errors in two lines, and ends quietly when it is told to end."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from memtap.cli.endings import end_at_once

if TYPE_CHECKING:
    from memtap.bpf.errors import MemtapError

STDERR = 2
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _open_standard_streams() -> None:
    """Opens standard streams that are closed, so that no other descriptor takes their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or os.fdopen(number, mode)
        for number, stream, mode in (
            (0, sys.stdin, "r"),
            (1, sys.stdout, "w"),
            (2, sys.stderr, "w"),
        )
    )


def _unwritten(error: Exception) -> MemtapError | None:
    """What an error says of a help or schema that standard output has no room for, if it is one."""
    from memtap.bpf.errors import MemtapError

    if not isinstance(error, OSError) or error.filename or error.errno not in _NO_ROOM:
        return None
    # Python would try once more, and complain, when it flushes stdout at its own end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return MemtapError(f"cannot write: {error.strerror}", "write to a place that has room for it")


def main() -> None:
    """Runs memtap; a foreseen failure is two lines on stderr and status 1."""
    end_at_once()  # before anything that takes time to import
    _open_standard_streams()
    from memtap.bpf.errors import MemtapError, shortage

    try:
        from memtap.cli.commands import memtap

        memtap(prog_name="memtap")
    except Exception as error:
        foreseen = error if isinstance(error, MemtapError) else shortage(error)
        foreseen = foreseen or _unwritten(error)
        if foreseen is None:
            raise
        from memtap.cli.confined import complain

        complain(foreseen)
        sys.exit(1)
