"""pages: which orders and migrate types the buddy allocator hands out, by process; what is left."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from memtap.bpf.stream import Events
from memtap.tracers.model.audit import audit
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.enricher import are_many, fold_least, forget_first, tell
from memtap.tracers.model.keys import identity
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report, Row
from memtap.tracers.pages.columns import PAGES_KEYS, pages_columns
from memtap.tracers.pages.free import unusable
from memtap.tracers.pages.rows import UNTOLD, Kind

# A process, an order, a migrate type.
Key = tuple[int, int, int]


@dataclass
class Sums:
    """The counts of a key, in blocks of pages."""

    allocs: int = 0
    frees: int = 0
    fallbacks: int = 0


class Pages:
    """Chunks in, a report out at the end of each interval."""

    def __init__(self, origin: Origin, by: tuple[str, ...] = ("order",)) -> None:
        self.by = by
        self._origin = origin
        self._processes: dict[int, Process] = {}
        self._types: dict[int, str] = {UNTOLD: "?"}
        self._sums: dict[Key, Sums] = {}
        self._live: defaultdict[Key, int] = defaultdict(int)
        self._blocks: list[int] = []
        self._free_pages: dict[int, int] = {}
        self._untold = 0

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""
        tell(self._processes, chunk.processes)
        self._types |= chunk.texts.get("migratetype", {})
        kind = chunk.rows["kind"]
        self._count(chunk.rows[kind == Kind.COUNTED])
        self._blocks = chunk.rows["allocs"][kind == Kind.FREE].tolist()
        of_type = chunk.rows[kind == Kind.FREE_OF_TYPE]
        self._free_pages = dict(
            zip(of_type["migratetype"].tolist(), of_type["allocs"].tolist(), strict=True)
        )
        self._untold += int(chunk.rows["allocs"][kind == Kind.UNTOLD_PAGES].sum())
        return self._report(chunk.interval) if chunk.interval else None

    def _count(self, rows: Events) -> None:
        for row in rows:
            key = int(row["tgid"]), int(row["order"]), int(row["migratetype"])
            sums = self._sums.setdefault(key, Sums())
            sums.allocs += int(row["allocs"])
            sums.frees += int(row["frees"])
            sums.fallbacks += int(row["fallbacks"])
            self._live[key] += (int(row["allocs"]) - int(row["frees"])) << key[1]

    def _report(self, interval: Interval) -> Report:
        rows = self._rows()
        events = sum(each.allocs + each.frees for each in self._sums.values())
        untold, self._untold = self._untold, 0
        self._fold()
        self._sums.clear()
        return Report(
            "pages",
            interval.time,
            interval.seconds,
            pages_columns(self.by),
            rows,
            audit(self._origin, interval, events, unseen=untold, notes=_untold_notes(untold)),
        )

    def _fold(self) -> None:
        """Folds the owners that hold least, and forgets processes that no row names any more."""
        fold_least(self._live, self._sums, int)
        if are_many(self._processes):
            forget_first(self._processes, {tgid for tgid, _, _ in self._live})

    def _rows(self) -> list[Row]:
        names = [column.name for key in self.by for column in PAGES_KEYS[key]]
        groups: dict[tuple[Any, ...], list[Key]] = defaultdict(list)
        for key in sorted(self._sums.keys() | self._always()):
            groups[self._group(key, names)].append(key)
        live: dict[tuple[Any, ...], int] = defaultdict(int)
        for key, pages in self._live.items():
            live[self._group(key, names)] += pages
        return [
            dict(zip(names, group, strict=True))
            | self._totals(keys, live[group])
            | self._left(keys[0])
            for group, keys in groups.items()
        ]

    def _group(self, key: Key, names: list[str]) -> tuple[Any, ...]:
        identity = self._identity(*key)
        return tuple(identity[name] for name in names)

    def _always(self) -> set[Key]:
        """The keys of rows that are always shown: how much of each order is left."""
        if self.by == ("order",):
            return {(0, order, UNTOLD) for order in range(len(self._blocks))}
        return set()

    def _identity(self, tgid: int, order: int, migratetype: int) -> Row:
        return identity(tgid, self._processes.get(tgid, Process())) | {
            "order": order,
            "migratetype": self._types.get(migratetype, str(migratetype)),
        }

    def _totals(self, keys: list[Key], live: int) -> Row:
        found = [(key[1], self._sums.get(key, Sums())) for key in keys]
        page = self._origin.page_bytes
        return {
            "allocs": sum(sums.allocs for _, sums in found),
            "frees": sum(sums.frees for _, sums in found),
            "allocated_bytes": sum(sums.allocs << order for order, sums in found) * page,
            "live_bytes": live * page,
            "fallbacks": sum(sums.fallbacks for _, sums in found),
        }

    def _left(self, key: Key) -> Row:
        _, order, migratetype = key
        if self.by == ("order",):
            known = order < len(self._blocks)
            return {
                "free_blocks": self._blocks[order] if known else None,
                "unusable_pct": unusable(self._blocks, order) if known else None,
            }
        if self.by == ("migratetype",):
            pages = self._free_pages.get(migratetype)
            return {"free_bytes": None if pages is None else pages * self._origin.page_bytes}
        return {}


def _untold_notes(pages: int) -> list[str]:
    """The note on pages that are only in the kernel's own count (pgalloc_*)."""
    if not pages:
        return []
    return [
        f"at most {pages:,} pages more were handed out on the whole host (pgalloc_*), many at a "
        "time: no tracepoint says to which process"
    ]
