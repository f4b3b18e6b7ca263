"""What our BPF programs noted of processes, for those that end before we look into /proc.

That is their cgroups (memtap/cgroups.h) and the arguments of their programs (memtap/arguments.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from memtap.tracers.host.hostile import printable

if TYPE_CHECKING:
    from memtap.bpf.session import Session

_PROCESS, _COUNT, _CGROUP = struct.Struct("=I"), struct.Struct("=I"), struct.Struct("=Q")
_NAME_BYTES = 256

# With more removed cgroups than this, the oldest are forgotten: reports need them only for a while.
_REMEMBERED = 1 << 14


# The most bytes of a command line; a longer one is cut.
ARGUMENT_BYTES = 256


class Noted:
    """What was noted in a session about the process that has a number now, or had it last."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths: dict[int, str] = {}

    def arguments(self, tgid: int) -> str | None:
        """The arguments of the last program that it executed, if that was in this session."""
        size = _COUNT.size + ARGUMENT_BYTES
        found = self._session.look_up("arguments_of", _PROCESS.pack(tgid), size)
        if found is None:
            return None
        return arguments_text(found[_COUNT.size :][: _COUNT.unpack_from(found)[0]])

    def cgroup(self, tgid: int) -> str | None:
        """The path of its cgroup, from the root of the hierarchy.

        None for a process that ran before the session began, unless it was moved or has ended.
        """
        found = self._session.look_up("cgroup_of", _PROCESS.pack(tgid), _CGROUP.size)
        return None if found is None else self._path(_CGROUP.unpack(found)[0])

    def _path(self, number: int) -> str | None:
        if number not in self._paths:
            path = b"/" + b"/".join(reversed([*self._names(number)]))
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            self._paths[number] = printable(path)
        return self._paths[number]

    def _names(self, number: int) -> Iterator[bytes]:
        """The names of a cgroup and of those above it, without the root, which has no name."""
        while number:
            found = self._session.look_up(
                "cgroup_names", _CGROUP.pack(number), _CGROUP.size + _NAME_BYTES
            )
            if found is None:
                yield b"?"
                return
            number = _CGROUP.unpack_from(found)[0]
            if number:
                yield found[_CGROUP.size :].partition(b"\0")[0]


def arguments_text(raw: bytes) -> str:
    """A command line as /proc/PID/cmdline has it: safe to print, and cut as above."""
    return printable(raw[:ARGUMENT_BYTES].rstrip(b"\0").replace(b"\0", b" "))
