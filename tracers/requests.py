"""What a process asks of malloc: breakpoints at the functions of its C library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from memtap.bpf.errors import MemtapError
from memtap.bpf.session import Session
from memtap.bpf.stream import Events
from memtap.tracers.allocations import Call
from memtap.tracers.allocatornames import allocator_of
from memtap.tracers.mallocplan import REQUESTS
from memtap.tracers.mallocrows import ROW
from memtap.tracers.mappings import parse_maps

# A map that the C program has if it counts requests: the calls of free(), then requests by powers
# of two of their size.
SIZES = "sizes"
_CLASSES = 66


class Requests:
    """The requests of the first process that is followed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counters = session.shared(SIZES, _CLASSES, 1).reshape(-1)
        self._counted = self._counters.copy()
        self._tgid = 0

    def follow(self, tgid: int) -> None:
        """Sets the breakpoints. Raises MemtapError where there is no malloc for them."""
        if self._tgid:
            return
        self._tgid = tgid
        path = _library(tgid)
        with path.open("rb") as file:
            offsets = _offsets_of(file, REQUESTS)
        if not offsets:
            raise MemtapError(f"{path} has no malloc", "leave out --uprobes")
        # aligned_alloc and memalign can be two names of one function.
        for function, offset in {(REQUESTS[name], at) for name, at in offsets.items()}:
            self._session.attach_to(function, path, offset, tgid)

    def take(self, ns: int) -> Events:
        """What was counted since the last time, a row for each size; see Call.REQUESTED."""
        counted = self._counters.copy()
        more, self._counted = counted - self._counted, counted
        sizes = np.flatnonzero(more)
        rows = np.zeros(len(sizes), ROW)
        rows["kind"], rows["ns"], rows["tgid"] = Call.REQUESTED, ns, self._tgid
        rows["address"], rows["length"] = sizes, more[sizes]
        return rows


def _library(tgid: int) -> Path:
    """The file that a process has its malloc from, as we can open it."""
    try:
        maps = Path(f"/proc/{tgid}/maps").read_bytes()
    except OSError as error:
        raise MemtapError(f"process {tgid} is gone", "name one that runs") from error
    paths = dict.fromkeys(mapped.path for mapped in parse_maps(maps, tgid))
    name = allocator_of(paths)
    found = next((path for path in paths if allocator_of([path]) == name != "?"), None)
    if found is None:
        raise MemtapError(
            f"no malloc that is known in process {tgid}",
            "leave out --uprobes: programs that are linked statically have none to be found",
        )
    return Path(f"/proc/{tgid}/root{found.removesuffix(' (deleted)')}")


def _offsets_of(file: IO[bytes], names: Iterable[str]) -> dict[str, int]:
    """Where in its file each function stands that a library has."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".dynsym")
        if not isinstance(symbols, SymbolTableSection):
            return {}
        found = {name: symbols.get_symbol_by_name(name) for name in names}
        return {
            name: next(iter(elf.address_offsets(known[0]["st_value"])))
            for name, known in found.items()
            if known
        }
    except (ELFError, StopIteration):  # a damaged file
        return {}
