"""What the buddy allocator has left: /proc/buddyinfo and /proc/pagetypeinfo."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from memtap.tracers.model.report import percentage

_PROC = Path("/proc")
_TYPE = re.compile(r"Node +\d+, zone +\S+, type +(\S+) +(.*)")


def free_blocks(proc: Path = _PROC) -> list[int]:
    """How many blocks are free of each order, of all nodes and zones together."""
    lines = [line.split()[4:] for line in (proc / "buddyinfo").read_text().splitlines()]
    return [sum(map(int, column)) for column in zip(*lines, strict=True)]


def free_pages_by_type(proc: Path = _PROC) -> dict[str, int]:
    """How many pages are free of each migrate type; empty where only root may read it.

    The kernel stops counting at 100,000 blocks of an order, and says so by a `>`.
    """
    try:
        text = (proc / "pagetypeinfo").read_text()
    except OSError:
        return {}
    pages: Counter[str] = Counter()
    for name, counts in _TYPE.findall(text.partition("Number of blocks")[0]):
        blocks = [int(count.lstrip(">")) for count in counts.split()]
        pages[name.lower()] += sum(count << order for order, count in enumerate(blocks))
    return dict(pages)


def unusable(blocks: Sequence[int], order: int) -> float | None:
    """How much of the free memory is in blocks too small for an order, in per cent.

    The unusable free space index of M. Gorman; None if nothing is free.
    """
    free = sum(count << each for each, count in enumerate(blocks))
    small = sum(count << each for each, count in enumerate(blocks[:order]))
    return percentage(small, free)
