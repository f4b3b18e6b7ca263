"""The buddy allocator's rows: counters from the kernel, and free blocks beside them."""

from __future__ import annotations

import numpy as np

from memtap.bpf.kernel import Kernel
from memtap.bpf.session import Drained
from memtap.bpf.stream import Events
from memtap.tracers.model.enricher import Enricher, Source, Taken
from memtap.tracers.pages.free import free_blocks, free_pages_by_type
from memtap.tracers.pages.rows import ROW, Kind
from memtap.tracers.pages.untold import UntoldPages

# Names in `enum migratetype`; the kernel's BTF has which of them exist, and their numbers.
_TYPES = ("UNMOVABLE", "MOVABLE", "RECLAIMABLE", "HIGHATOMIC", "CMA", "ISOLATE")


class PagesEnricher(Enricher):
    """See Enricher."""

    row = ROW

    def __init__(self, session: Source) -> None:
        assert session.counters
        self._counters = session.counters
        btf = Kernel().btf
        numbers = {name: btf.enumerator("migratetype", f"MIGRATE_{name}") for name in _TYPES}
        self._types = {n: name.lower() for name, n in numbers.items() if n is not None}
        self._named = False
        self._untold = UntoldPages(session)

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        counted = self._counters.take()
        rows = np.zeros(len(counted), ROW)
        for name in set(counted.dtype.names or ()).intersection(ROW.names or ()):
            rows[name] = counted[name]
        rows["kind"] = Kind.COUNTED
        rows = np.concatenate([rows, self._free(), self._free_of_types(), self._untold_pages()])
        rows["ns"] = drained.until_ns
        texts = {} if self._named else {"migratetype": self._types}
        self._named = True
        return Taken(rows, texts=texts)

    def _free(self) -> Events:
        blocks = free_blocks()
        rows = np.zeros(len(blocks), ROW)
        rows["kind"], rows["order"], rows["allocs"] = Kind.FREE, range(len(blocks)), blocks
        return rows

    def _free_of_types(self) -> Events:
        free = free_pages_by_type()
        known = {number: free[name] for number, name in self._types.items() if name in free}
        rows = np.zeros(len(known), ROW)
        rows["kind"], rows["migratetype"] = Kind.FREE_OF_TYPE, list(known)
        rows["allocs"] = list(known.values())
        return rows

    def _untold_pages(self) -> Events:
        rows = np.zeros(1, ROW)
        rows["kind"], rows["allocs"] = Kind.UNTOLD_PAGES, self._untold.take()
        return rows
