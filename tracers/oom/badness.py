"""How likely the OOM killer is to kill a process, and the formula behind that number.

It is oom_badness() of mm/oom_kill.c since 9066e5cfb73c: the memory that a process would free, and
what its owner adds to that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import CgroupMount, find_cgroup
from memtap.tracers.host import procfs
from memtap.tracers.host.counters import meminfo
from memtap.tracers.live.processes import pick_cgroup

# From uapi/linux/oom.h: a process with this is never killed.
ADJ_MIN = -1000

_START = 19  # of the fields of /proc/PID/stat behind the name

_STATUS = re.compile(
    rb"\nUid:\t(\d+).*?\nVmSize:\s*(\d+) kB.*?\nRssAnon:\s*(\d+) kB\nRssFile:\s*(\d+) kB"
    rb"\nRssShmem:\s*(\d+) kB.*?\nVmPTE:\s*(\d+) kB\nVmSwap:\s*(\d+) kB",
    re.DOTALL,
)


@dataclass(frozen=True)
class Score:
    """A process as the OOM killer sees it; sizes in bytes.

    Attributes:
        score: /proc/PID/oom_score.
        adj: /proc/PID/oom_score_adj.
        start: when it began, clock ticks after boot.
    """

    pid: int
    uid: int
    score: int
    adj: int
    start: int
    cgroup: str
    total_vm: int
    anon: int
    file: int
    shmem: int
    swap: int
    pgtables: int

    @property
    def resident(self) -> int:
        """RSS: all that it has in memory."""
        return self.anon + self.file + self.shmem

    @property
    def held(self) -> int:
        """What would be freed if it were killed."""
        return self.resident + self.swap + self.pgtables

    def is_spared(self, scope: int, page: int) -> bool:
        """Whether the OOM killer may not kill it now, see oom_badness().

        That is a process with ADJ_MIN; and the first process, a process that borrows its parent's
        memory until it executes a program (vfork), and one whose memory is being reaped already.
        The last three have a score of 0 where the formula gives more.
        """
        return self.adj == ADJ_MIN or self.score == 0 < score_of(self.held, self.adj, scope, page)

    def precedence(self, scope: int, page: int) -> tuple[int, int, int, int]:
        """The larger, the sooner it is killed; of equals, the process that began last."""
        points = badness(self.held, self.adj, scope, page)
        return self.score, points or 0, self.start, self.pid


def adjustment(adj: int, scope: int, page: int) -> int:
    """The bytes that oom_score_adj adds: thousandths of the memory in scope, by whole pages."""
    return adj * (scope // page // 1000) * page


def badness(held: int, adj: int, scope: int, page: int) -> int | None:
    """What the OOM killer compares, in bytes; None for a process that it may not kill.

    Args:
        held: RSS, swap and page tables.
        adj: oom_score_adj.
        scope: the memory that is short, swap included: of the host, or of a cgroup.
        page: the size of a page.
    """
    return None if adj == ADJ_MIN else held + adjustment(adj, scope, page)


def score_of(held: int, adj: int, scope: int, page: int) -> int:
    """/proc/PID/oom_score: 0 if it may not be killed, 667 if it holds nothing, up to 1333.

    proc_oom_score() rounds toward zero, as C does.
    """
    bad = badness(held, adj, scope, page)
    if bad is None:
        return 0
    thousandths = abs(bad) // page * 1000 // (scope // page)
    return (1000 + (thousandths if bad > 0 else -thousandths)) * 2 // 3


def host_scope() -> int:
    """RAM and swap of the host, in bytes: totalram_pages() + total_swap_pages."""
    memory = meminfo()
    return (memory["MemTotal"] + memory["SwapTotal"]) * 1024


def cgroup_scope(cgroup: str, mounts: list[CgroupMount]) -> int:
    """What a cgroup may use, swap included, in bytes: mem_cgroup_get_max(). 0 if it is gone."""
    swap = meminfo()["SwapTotal"] * 1024
    try:
        mount, path = find_cgroup(cgroup, mounts)
        if mount.controllers:
            limit = int((path / "memory.limit_in_bytes").read_text())
            both = path / "memory.memsw.limit_in_bytes"
            more = int(both.read_text()) - limit if both.exists() else 0
        else:
            limit = _limit(path / "memory.max")
            more = _limit(path / "memory.swap.max")
    except (MemtapError, OSError):
        return 0
    return limit + min(more, swap)


def _limit(path: Path) -> int:
    text = path.read_text().strip()
    return 1 << 63 if text == "max" else int(text)


def look() -> Iterator[Score | None]:
    """All processes that have memory; None for each that we may not read (hidepid).

    One that ends meanwhile is left out.
    """
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                score = read(int(name))
            except procfs.Gone:
                continue
            except PermissionError:
                yield None
                continue
            if score:
                yield score


def read(pid: int) -> Score | None:
    """A process; None if it has no memory of its own. Raises OSError if it is gone."""
    space = Path(f"/proc/{pid}")
    found = _STATUS.search(procfs.read(f"{space}/status"))
    if found is None:
        space = procfs.survivor(pid) or space
        found = _STATUS.search(procfs.read(f"{space}/status"))
    if found is None:
        return None
    uid, *kib = map(int, found.groups())
    total_vm, anon, file, shmem, pgtables, swap = (size << 10 for size in kib)
    score, adj = (int(procfs.read(f"{space}/{name}")) for name in ("oom_score", "oom_score_adj"))
    cgroup = pick_cgroup(procfs.read(f"{space}/cgroup"))
    start = int(procfs.stat_fields(procfs.read(f"/proc/{pid}/stat"))[_START])
    return Score(pid, uid, score, adj, start, cgroup, total_vm, anon, file, shmem, swap, pgtables)
