"""What the kernel log says about processes that the OOM killer killed."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass

from memtap.tracers.oom.rows import Constraint

# No kernel has larger records (PRINTKRB_RECORD_MAX, and its dictionary).
_RECORD_BYTES = 8192

# Names can hold anything but what the kernel has escaped, so what follows them is matched from
# the end.
_WHY = re.compile(
    r"oom-kill:constraint=CONSTRAINT_(\w+),.*?(?:,oom_memcg=(.*?))?(?:,global_oom)?"
    r"(?:,task_memcg=(.*))?,task=.*,pid=(\d+),uid=\d+$"
)
_KILLED = re.compile(r"(?:.*: )?(Memory cgroup out|Out) of memory[^:]*: Killed process (\d+) \(")
_CONSTRAINTS = {
    "NONE": Constraint.GLOBAL,
    "CPUSET": Constraint.CPUSET,
    "MEMORY_POLICY": Constraint.MEMPOLICY,
    "MEMCG": Constraint.MEMCG,
}


@dataclass(frozen=True)
class Verdict:
    """Why a process was killed.

    Attributes:
        constraint: what was short of memory.
        limited: the cgroup whose limit was reached; "" if there is none, or it is not known.
        cgroup: the victim's own; "" if not known.
    """

    constraint: Constraint
    limited: str = ""
    cgroup: str = ""


class Verdicts:
    """Messages in, verdicts out.

    Attributes:
        killed: processes whose last message has come, and whose verdict has not been taken yet.
    """

    def __init__(self) -> None:
        self.killed: set[int] = set()
        self._known: dict[int, Verdict] = {}

    def hear(self, message: str) -> None:
        """Takes a message of the kernel; most are about something else."""
        if why := _WHY.match(message):
            constraint, limited, cgroup, pid = why.groups()
            found = _CONSTRAINTS.get(constraint, Constraint.UNKNOWN)
            self._known[int(pid)] = Verdict(found, limited or "", cgroup or "")
        elif killed := _KILLED.match(message):
            # The kernel leaves out the line with the reason when too many come.
            of_cgroup = killed[1].startswith("Memory cgroup")
            constraint = Constraint.MEMCG if of_cgroup else Constraint.GLOBAL
            self._known.setdefault(int(killed[2]), Verdict(constraint))
            self.killed.add(int(killed[2]))

    def take(self, pid: int) -> Verdict:
        """What is known of a killed process; each verdict can be taken once."""
        self.killed.discard(pid)
        return self._known.pop(pid, Verdict(Constraint.UNKNOWN))


class KernelLog:
    """Reads /dev/kmsg from now on; where it cannot be read, nothing is known."""

    def __init__(self) -> None:
        self._verdicts = Verdicts()
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = -1

    def verdict(self, pid: int, patience_s: float) -> Verdict:
        """Why a process was killed; waits for its line, which comes just after it is marked."""
        end = time.monotonic() + patience_s
        self._read()
        while self._fd >= 0 and pid not in self._verdicts.killed:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._fd], [], [], left)[0]:
                break
            self._read()
        return self._verdicts.take(pid)

    def _read(self) -> None:
        for message in self._messages():
            self._verdicts.hear(message)

    def _messages(self) -> Iterator[str]:
        """The kernel's messages meanwhile; those that processes wrote to the log are left out."""
        while self._fd >= 0:
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError:  # EPIPE: records were overwritten before they were read
                continue
            head, _, text = record.decode(errors="replace").partition(";")
            if int(head.split(",")[0]) >> 3 == 0:
                yield text.partition("\n")[0]
