"""Which memory nodes (NUMA) a process's pages are in, from /proc/PID/numa_maps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from memtap.bpf.errors import MemtapError
from memtap.tracers.model.report import Row, percentage

# In a path, spaces and equal signs are escaped, so that no file can forge a field. A policy is one
# word, or two: `prefer (many):0-1`.
_LINE = re.compile(rb"^([0-9a-f]+) (\S+(?: \(many\)\S*)?)(.*?)(?: kernelpagesize_kB=(\d+))?$", re.M)
_NODE = re.compile(rb" N(\d+)=(\d+)")

NUMA_MAPS = "numa_maps"


class Placed(NamedTuple):
    """The pages of a mapping.

    Attributes:
        start: its address.
        policy: where the kernel is to take its pages from.
        nodes: how many bytes are in each node, huge pages of hugetlbfs included.
    """

    start: int
    policy: str
    nodes: dict[int, int]


def parse(text: bytes) -> Iterator[Placed]:
    """The mappings in /proc/PID/numa_maps, also those without any page."""
    for start, policy, fields, kib in _LINE.findall(text):
        page = int(kib or 0) << 10
        nodes = {int(node): int(pages) * page for node, pages in _NODE.findall(fields)}
        yield Placed(int(start, 16), policy.decode(), nodes)


def summed(mappings: Iterable[Placed]) -> dict[int, int]:
    """How many bytes are in each node."""
    sums: Counter[int] = Counter()
    for each in mappings:
        sums.update(each.nodes)
    return dict(sorted(sums.items()))


def require(root: Path = Path("/")) -> None:
    """Raises MemtapError where the kernel knows no nodes."""
    if not (root / "proc/self" / NUMA_MAPS).exists():
        what = "this kernel was built without nodes (CONFIG_NUMA): all memory is in one"
        raise MemtapError(what, "leave --numa away")


def process_rows(row: Row) -> list[Row]:
    """A row for each node that has pages of a process; of one that was not read, what is known."""
    nodes: dict[int, int] | None = row["nodes"]
    if nodes is None:
        return [row | {"node": None, "mapped_bytes": None, "share_pct": None}]
    whole = sum(nodes.values())
    return [
        row | {"node": node, "mapped_bytes": size, "share_pct": percentage(size, whole)}
        for node, size in nodes.items()
    ]
