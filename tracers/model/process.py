"""What reports say about a process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """A process. `uid` is -1, and the texts are "?", where they can no longer be known.

    Attributes:
        comm: its name, at most 15 bytes.
        uid, user: the number and name of its real user.
        cgroup: the path of its cgroup, in the hierarchy that memory is accounted by.
        args: its program and arguments; the name in brackets where it has none, as ps(1) does.
    """

    comm: str = "?"
    uid: int = -1
    user: str = "?"
    cgroup: str = "?"
    args: str = "?"


# A process of which nothing is known.
UNKNOWN_PROCESS = Process()
