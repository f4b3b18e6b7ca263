"""What the kernel itself counts of reclaim, and how long tasks stood still for it."""

from __future__ import annotations

import re
from pathlib import Path

from memtap.tracers.host.counters import Counters, vmstat

# Of /proc/vmstat. pgscan and pgsteal are of the host's own reclaim, not of cgroups'.
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

# Of struct taskstats: how often a task reclaimed, and what it waited for in ns, if
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
    """How long some task, and how long all, stood still for want of memory, in microseconds."""
    try:
        found = _TOTAL.findall(path.read_text())
    except OSError:  # not built in, or not switched on (psi=1)
        return {}
    return {f"pressure_{name}_us": int(total) for name, total in found}
