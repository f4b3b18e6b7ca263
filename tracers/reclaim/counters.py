"""The kernel's own counters of reclaim, and how long tasks were stalled by it."""

from __future__ import annotations

import re
from pathlib import Path

from memtap.tracers.host.counters import Counters, vmstat

# In /proc/vmstat. pgscan and pgsteal count the host's own reclaim, not that of cgroups.
VMSTAT = (
    "allocstall_dma32",
    "allocstall_normal",
    "allocstall_movable",
    "pgscan_direct",
    "pgscan_kswapd",
    "pgsteal_direct",
    "pgsteal_kswapd",
    "slabs_scanned",
    "compact_stall",
    "compact_success",
    "compact_fail",
    "pswpin",
    "pswpout",
    "swpin_zero",
    "swpout_zero",
    "zswpin",
    "zswpout",
    "workingset_refault_anon",
    "workingset_refault_file",
)

# In struct taskstats: how often a task reclaimed, and how long it waited, in ns, if
# kernel.task_delayacct is 1.
DELAYS = (
    "freepages_count",
    "freepages_delay_total",
    "compact_delay_total",
    "swapin_delay_total",
    "thrashing_delay_total",
)

_TOTAL = re.compile(r"^(some|full) .*total=(\d+)$", re.MULTILINE)


def counters(root: Path = Path("/")) -> Counters:
    """VMSTAT, and the totals of /proc/pressure/memory in microseconds, where the kernel has it."""
    return vmstat(root, VMSTAT) | pressure(root / "proc/pressure/memory")


def pressure(path: Path) -> Counters:
    """How long some task, and how long all, were stalled for lack of memory, in microseconds."""
    try:
        found = _TOTAL.findall(path.read_text())
    except OSError:  # not built in, or not switched on (psi=1)
        return {}
    return {f"pressure_{name}_us": int(total) for name, total in found}
