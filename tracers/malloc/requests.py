"""The requests of a process to malloc, counted by breakpoints in the library that provides it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from memtap.bpf.errors import MemtapError
from memtap.bpf.sideband import Mapped
from memtap.bpf.stream import Events
from memtap.tracers.code.mappings import PROT_EXEC, Heard
from memtap.tracers.malloc import files as mallocfiles
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.malloc.probes import CALLS_NONE, NEW, NEW_ALIGNED, REQUESTS, RETURNED
from memtap.tracers.malloc.rows import ROW, Fact
from memtap.tracers.model.enricher import Source

# A map that the C program has if it counts requests: the calls of free(), then requests by powers
# of two of their size.
SIZES = "sizes"
_CLASSES = 66

# Allocators that never call another malloc; an unknown one may pass requests on to another.
_KNOWN = ("glibc", "musl", "jemalloc", "tcmalloc", "mimalloc")
_WITH_NEW = ("jemalloc", "tcmalloc", "mimalloc")


class Requests:
    """The requests of the first process that is followed; `program` is what it will execute."""

    def __init__(self, session: Source, program: Sequence[str] | None) -> None:
        self._session, self._program = session, program
        self._counters = session.shared(SIZES, _CLASSES, 1).reshape(-1)
        self._counted = self._counters.copy()
        self._tgid = 0
        self._attached: set[tuple[int, int]] = set()
        self._looked: set[str] = set()

    def follow(self, tgid: int) -> None:
        """Sets the breakpoints. Raises MemtapError if no malloc is found."""
        if self._tgid:
            return
        self._tgid = tgid
        if self._program:
            paths = mallocfiles.of_program(self._program)
        else:
            try:
                paths = mallocfiles.of_process(tgid)
            except OSError as error:
                raise MemtapError(f"process {tgid} is gone", "name one that runs") from error
        for path in paths:
            self._attach(path)
        if not self._attached and not self._program:
            raise MemtapError(
                f"no malloc is known in process {tgid}",
                "leave out --uprobes: it needs the names of functions, and 64 bits",
            )

    def look(self, heard: Iterable[Heard]) -> None:
        """Sets breakpoints in files that the process has mapped since, if they have malloc."""
        mapped = (each for each in heard if isinstance(each, Mapped) and each.tgid == self._tgid)
        for path in (each.path for each in mapped if each.prot & PROT_EXEC):
            if path.startswith("/") and path not in self._looked:
                self._looked.add(path)
                self._attach(mallocfiles.as_seen_by(self._tgid, path))

    def _attach(self, path: Path) -> None:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return
        if (status.st_dev, status.st_ino) in self._attached:
            return
        allocator = allocator_of([str(path)])
        functions = dict(REQUESTS)
        if allocator in _WITH_NEW:
            functions |= dict.fromkeys((*NEW, *NEW_ALIGNED), REQUESTS["malloc"])
        if allocator not in _KNOWN:
            functions["malloc"] = REQUESTS["valloc"]
        offsets = mallocfiles.offsets_in(path, functions)
        # aligned_alloc and memalign can be two names of one function.
        for function, offset in dict.fromkeys(
            (functions[name], at) for name, at in offsets.items()
        ):
            self._session.attach_to(function, path, offset, self._tgid)
            if function not in CALLS_NONE:
                self._session.attach_to(RETURNED, path, offset, self._tgid, returns=True)
        if offsets:
            self._attached.add((status.st_dev, status.st_ino))

    def take(self, ns: int) -> Events:
        """The counts since the last call, a row for each size; see Fact.REQUESTED."""
        counted = self._counters.copy()
        more, self._counted = counted - self._counted, counted
        sizes = np.flatnonzero(more)
        rows = np.zeros(len(sizes), ROW)
        rows["kind"], rows["ns"], rows["tgid"] = Fact.REQUESTED, ns, self._tgid
        rows["size_class"], rows["requests"] = sizes, more[sizes]
        return rows
