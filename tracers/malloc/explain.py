"""Explains heaps in words: how much is free, why it is kept, and how to get it back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby

from memtap.tracers.model.report import Row, size_text

# The default, before a chunk with a mapping of its own was freed.
_FIRST_THRESHOLD = 128 << 10

_MAIN, _MAPPED = "main", "mmap"
_ARENA_MAX, _TRIM, _MMAP = "MALLOC_ARENA_MAX", "M_TRIM_THRESHOLD", "M_MMAP_THRESHOLD"
_TCACHE = "glibc.malloc.tcache_count"

# How many processes are explained.
_MOST = 3


def tunable_of(row: Row) -> str | None:
    """The setting that makes an arena keep most of its free memory; None if none does.

    Free memory in a thread's arena is of no use to threads of others, so fewer arenas would help.
    In the main arena it can be the top, a tcache, or large chunks, which would have mappings of
    their own if the threshold had not moved up.
    """
    if row["arena"] == _MAPPED or row["stuck_bytes"] is None:
        return None
    stuck, top, tcache = row["stuck_bytes"], row["top_bytes"], row["tcache_bytes"] or 0
    if not max(stuck, top, tcache):
        return None
    if tcache > max(stuck, top):
        return _TCACHE
    if row["arena"] != _MAIN:
        return _ARENA_MAX
    if top >= stuck:
        return _TRIM
    has_moved = (row["mmap_threshold_bytes"] or 0) > _FIRST_THRESHOLD
    return _MMAP if has_moved and (row["large_bytes"] or 0) > stuck // 2 else None


def of_heaps(rows: Sequence[Row]) -> list[str]:
    """Sentences on the processes with the largest heaps."""
    processes = [list(of) for _, of in groupby(rows, key=lambda row: row["pid"])]
    processes.sort(key=lambda of: -_sum(of, "heap_bytes"))
    return [text for of in processes[:_MOST] for text in _of_process(of)]


def _of_process(rows: Sequence[Row]) -> Iterator[str]:
    arenas = [row for row in rows if row["arena"] != _MAPPED and row["stuck_bytes"] is not None]
    if not arenas:
        yield f"{_called(rows[0])}: of its heap only the size is known."
        return
    count = f"{len(arenas)} arenas" if len(arenas) > 1 else "one arena"
    yield (
        f"{_called(rows[0])} has {count}, {_size(arenas, 'heap_bytes')} in all: "
        f"{_size(arenas, 'used_bytes')} are used, {_size(arenas, 'stuck_bytes')} are free below "
        f"what is used, {_size(arenas, 'top_bytes')} are free at their ends, and threads keep "
        f"{_size(arenas, 'tcache_bytes')} for themselves."
    )
    yield (
        f"malloc_trim(0) would give {_size(arenas, 'trim_bytes')} back to the kernel, of "
        f"{_size(arenas, 'resident_bytes')} in memory."
    )
    for of in (_threads, _end, _moved, _mapped):
        yield from of(rows)


def _threads(rows: Sequence[Row]) -> Iterator[str]:
    """On free memory in arenas of threads."""
    others = [row for row in rows if row["tunable"] == _ARENA_MAX]
    if others:
        most = others[0]["arena_max"]
        now = f"{most}" if most else f"0, which is 8 for each of {os.cpu_count()} CPUs"
        free = _sum(others, "stuck_bytes") + _sum(others, "top_bytes")
        yield (
            f"{size_text(free)} are free in arenas of threads, and of no use to threads of other "
            f"arenas: {_ARENA_MAX} (now {now}) limits their number."
        )


def _end(rows: Sequence[Row]) -> Iterator[str]:
    """On the top of the main arena."""
    for row in rows:
        if row["tunable"] == _TRIM and row["trim_threshold_bytes"] is not None:
            yield (
                f"The main heap keeps {size_text(row['top_bytes'])} at its end, as it does up to "
                f"{_TRIM} (now {size_text(row['trim_threshold_bytes'])})."
            )


def _moved(rows: Sequence[Row]) -> Iterator[str]:
    """On large chunks in the main arena."""
    for row in rows:
        if row["tunable"] == _MMAP:
            yield (
                f"{size_text(row['large_bytes'])} are in large chunks that are stuck. Blocks below "
                f"{size_text(row['mmap_threshold_bytes'])} come from the heap, as larger ones were "
                f"freed: {_MMAP}, once set, stays, and what is mapped is given back when it is "
                "freed."
            )


def _mapped(rows: Sequence[Row]) -> Iterator[str]:
    """On chunks with a mapping of their own."""
    for row in rows:
        if row["arena"] == _MAPPED and row["chunks"]:
            yield (
                f"{size_text(row['used_bytes'])} are mapped in blocks of their own "
                f"({row['chunks']}): each is given back as it is freed."
            )


def _called(row: Row) -> str:
    return f"Process {row['pid']} ({row['comm']})"


def _sum(rows: Sequence[Row], name: str) -> int:
    return sum(row[name] or 0 for row in rows)


def _size(rows: Sequence[Row], name: str) -> str:
    return size_text(_sum(rows, name))
