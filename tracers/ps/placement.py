"""pmap --numa: which memory nodes the pages of each mapping are in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from memtap.tracers.code.mappings import Mappings
from memtap.tracers.host import procfs
from memtap.tracers.host.hostile import one_line
from memtap.tracers.model.report import Column, Report, Row
from memtap.tracers.ps.nodes import NUMA_MAPS, Placed, parse, require
from memtap.tracers.ps.space import address_space, read_space, report_of


def report(pid: int, columns: tuple[Column, ...], root: Path = Path("/")) -> Report:
    """The mappings of a process, node by node. Raises MemtapError if they cannot be read."""
    require(root)
    space, maps = address_space(pid, root, "maps")
    mappings = list(parse(read_space(space, pid, NUMA_MAPS)))
    rows = list(_rows(mappings, names(maps, pid, root)))
    totals: Row = {
        "mapped_bytes": sum(row["mapped_bytes"] for row in rows),
        "mapping": f"total of {len(rows)}",
    }
    return report_of(columns, rows, totals, procfs.audit(len(mappings), 0, {}, ()))


def _rows(mappings: Iterable[Placed], paths: dict[int, str]) -> Iterator[Row]:
    for start, policy, nodes in mappings:
        path = paths.get(start, "?")
        for node, size in nodes.items():
            at = {"start": start, "policy": policy, "mapping": path}
            yield at | {"node": node, "mapped_bytes": size}


def names(maps: bytes, pid: int, root: Path) -> dict[int, str]:
    """What is mapped, by address."""
    mappings = Mappings(root=root)
    space = mappings.take(pid, maps)
    paths = [one_line(mappings.places[number].path) for number in space.numbers]
    return dict(zip(space.starts, paths, strict=True))
