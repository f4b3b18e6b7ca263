"""heaper as it runs, what malloc in it says, and whether rows of arenas are the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from memtap.tracers.model.report import Row

# Of sizes of free chunks in malloc_info(3) the lowest bit says that what is before is used.
IN_USE = 1

COUNTED = ("heap", "fast", "unsorted", "small", "large", "top")


@dataclass
class Said:
    """What malloc says: mallinfo2(3), what is in tcaches, and what each arena has."""

    arena: int
    mapped_chunks: int
    mapped_bytes: int
    used: int
    top: int
    in_tcaches: int
    arenas: dict[str, dict[str, int]]


class Heaper:
    """heaper as it runs."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        assert program.stdin and program.stdout
        self.pid, self._in, self._out = program.pid, program.stdin, program.stdout
        self.said = self._read()

    def trim(self) -> None:
        """Has it call malloc_trim(0)."""
        self._in.write("\n")
        self._in.flush()
        self.said = self._read()

    def _read(self) -> Said:
        counts = list(map(int, self._out.readline().split()))
        text = "".join(iter(self._out.readline, "</malloc>\n")) + "</malloc>"
        heaps = ElementTree.fromstring(text).findall("heap")
        return Said(*counts, {each.get("nr", ""): arena_of(each) for each in heaps})


def arena_of(heap: ElementTree.Element) -> dict[str, int]:
    """What malloc_info(3) says of an arena."""

    def total(line: ElementTree.Element | None) -> int:
        if line is None:
            return 0
        return number(line, "total") - IN_USE * number(line, "count")

    sizes = heap.findall("sizes/size")
    lists = [line for line in sizes if number(line, "to") % 16 == IN_USE]  # the others are fastbins
    totals = {line.get("type"): line for line in (*heap.iter("total"), *heap.iter("system"))}
    rest = totals["rest"]
    free = number(rest, "size") - IN_USE * (number(rest, "count") - 1)
    known = {
        "heap": number(totals["current"], "size"),
        "fast": number(totals["fast"], "size") if "fast" in totals else 0,  # there are none now
        "unsorted": total(heap.find("sizes/unsorted")),
        "small": sum(total(line) for line in lists if number(line, "to") < 1024),
        "large": sum(total(line) for line in lists if number(line, "to") >= 1024),
    }
    return known | {"top": free - known["unsorted"] - known["small"] - known["large"]}


def number(line: ElementTree.Element, name: str) -> int:
    return int(line.get(name, "0"))


@contextmanager
def heaper(command: list[str]) -> Iterator[Heaper]:
    tunable = ["env", "GLIBC_TUNABLES=glibc.malloc.tcache_count=7"]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*tunable, *command], **piped) as program:  # type: ignore[call-overload]
        try:
            yield Heaper(program)
        finally:
            program.kill()


def anonymous(pid: int) -> int:
    """How much of its own it has in memory."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Anonymous: +(\d+)", text, re.MULTILINE)[0]) << 10


def check(rows: list[Row], said: Said) -> None:
    """All that malloc tells."""
    *arenas, mapped = rows
    found = {
        row["arena"].replace("main", "0"): {name: row[f"{name}_bytes"] for name in COUNTED}
        for row in arenas
    }
    assert found == said.arenas
    for row in arenas:
        stuck = row["fast_bytes"] + row["unsorted_bytes"] + row["small_bytes"] + row["large_bytes"]
        assert stuck == row["stuck_bytes"]
        parts = row["used_bytes"] + row["tcache_bytes"] + stuck + row["top_bytes"]
        assert parts == row["heap_bytes"]
    assert sum(row["heap_bytes"] for row in arenas) == said.arena
    assert sum(row["used_bytes"] + row["tcache_bytes"] for row in arenas) == said.used
    assert arenas[0]["top_bytes"] == said.top
    assert (mapped["chunks"], mapped["used_bytes"]) == (said.mapped_chunks, said.mapped_bytes)
