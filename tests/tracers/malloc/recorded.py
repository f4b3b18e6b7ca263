"""Memory of processes as it was recorded, so that heaps of other glibcs can be looked at anywhere.

    python -m tests.tracers.malloc.recorded NAME COMMAND...

keeps in tests/data/heaps what heaper has in memory, run by that command (of another glibc, by its
ld.so), and what malloc in it says.
"""

from __future__ import annotations

import json
import lzma
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from memtap.bpf.sideband import Mapped
from memtap.tracers.code.intervals import PAGE_BYTES
from memtap.tracers.malloc.libraries import allocator_of
from memtap.tracers.malloc.memory import Flags, Memory, is_data, memory_of
from memtap.tracers.malloc.parameters import Parameters, parameters_of
from tests.live.heaping import Said, anonymous, heaper

HEAPS = Path(__file__).parents[2] / "data/heaps"
NAMES = sorted(path.name.removesuffix(".xz") for path in HEAPS.glob("*.xz"))


@dataclass
class Recorded:
    """A process as it was.

    Attributes:
        mapped: what it had mapped.
        pages: what was in memory of its data, by address.
        parameters: what its malloc went by.
        said: what malloc said.
        given_back: what it gave back when it was told to.
    """

    mapped: list[Mapped]
    pages: dict[int, bytes]
    parameters: Parameters
    said: Said
    given_back: int

    def memory(
        self,
        change: Callable[[int, bytes], bytes] = lambda _, page: page,
        most_s: float = math.inf,
    ) -> Memory:
        """As Memory; pages may be changed as they are read."""

        def read(address: int, length: int) -> bytes:
            first = address & -PAGE_BYTES
            starts = range(first, address + length, PAGE_BYTES)
            text = b"".join(change(at, self.pages.get(at, bytes(PAGE_BYTES))) for at in starts)
            return text[address - first :][:length]

        there = np.sort(np.array(list(self.pages), np.uint64))

        def pages(start: int, end: int) -> Flags:
            flags = np.zeros((end - start) // PAGE_BYTES, bool)
            first, last = np.searchsorted(there, np.array([start, end], np.uint64))
            flags[((there[first:last] - np.uint64(start)) // np.uint64(PAGE_BYTES)).astype(int)] = (
                True
            )
            return flags

        return Memory(self.mapped, read, pages, most_s)


def recorded(name: str) -> Recorded:
    """What is kept under a name."""
    header, _, text = lzma.decompress((HEAPS / f"{name}.xz").read_bytes()).partition(b"\n")
    told = json.loads(header)
    pages = {at: text[n * PAGE_BYTES :][:PAGE_BYTES] for n, at in enumerate(told["pages"])}
    mapped = [Mapped(*each) for each in told["mapped"]]
    parameters, said = Parameters(**told["parameters"]), Said(**told["said"])
    return Recorded(mapped, pages, parameters, said, told["given_back"])


def record(name: str, command: list[str]) -> None:
    """Keeps what a heaper has in memory."""
    with heaper([*command, "2", "60", "5"]) as program, memory_of(program.pid, 60) as memory:
        library = next(m for m in memory.mapped if allocator_of([m.path]) == "glibc")
        parameters = parameters_of(memory, program.pid, library)
        assert parameters
        mapped = [each for each in memory.mapped if is_data(each) or each == library]
        pages = {
            at + offset: text[offset:][:PAGE_BYTES]
            for each in mapped
            if is_data(each) and each.path != "[stack]"
            for at, text in memory.runs(each.start, each.end)
            for offset in range(0, len(text), PAGE_BYTES)
        }
        said, before = program.said, anonymous(program.pid)
        program.trim()
        told = {
            "mapped": [m._replace(path=re.sub(r"^/.*/", "/lib/", m.path)) for m in mapped],
            "pages": list(pages),
            "parameters": asdict(parameters),
            "said": asdict(said),
            "given_back": before - anonymous(program.pid),
        }
    text = json.dumps(told).encode() + b"\n" + b"".join(pages.values())
    (HEAPS / f"{name}.xz").write_bytes(lzma.compress(text, preset=9))


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2:])
