"""The command `memtap`: says errors in two lines, and ends quietly when it is told to end."""

from __future__ import annotations

import os
import sys

from memtap.cli.endings import end_at_once

STDERR = 2


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
        if foreseen is None:
            raise
        from memtap.cli.confined import complain

        complain(foreseen)
        sys.exit(1)
