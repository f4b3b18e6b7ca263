"""The kernel's own counters, which reports show beside ours."""

from __future__ import annotations

from pathlib import Path

# Names in /proc/vmstat that reports of the whole host can be compared with.
VMSTAT = (
    "pgpgin",
    "pgfault",
    "pgmajfault",
    "nr_dirtied",
    "nr_written",
    "workingset_refault_file",
    "drop_pagecache",
    "thp_file_mapped",
)

Counters = dict[str, int]


def vmstat(root: Path = Path("/"), names: tuple[str, ...] = VMSTAT) -> Counters:
    """Those of these counters that this kernel has. pgpgin is in KiB, others pages or events."""
    values = all_vmstat(root)
    return {name: values[name] for name in names if name in values}


def all_vmstat(root: Path = Path("/")) -> Counters:
    """/proc/vmstat as it is."""
    lines = (root / "proc/vmstat").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def buffers_and_cached(root: Path = Path("/")) -> tuple[int, int]:
    """Buffers and Cached of /proc/meminfo, in bytes."""
    values = meminfo(root)
    return values["Buffers"] * 1024, values["Cached"] * 1024


def meminfo(root: Path = Path("/")) -> Counters:
    """/proc/meminfo as it is: KiB, and counts of huge pages."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    pairs = (line.split(":") for line in lines)
    return {name: int(rest.split()[0]) for name, rest in pairs}


def difference(after: Counters, before: Counters) -> Counters:
    """The growth of each counter, by name."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


def total(*parts: Counters) -> Counters:
    """The sums of counters, name by name."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}
