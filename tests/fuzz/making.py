"""Recordings of each tracer, of numbers that could have been counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers import every
from memtap.tracers.host.files import FileName
from memtap.tracers.live.recording import Recorder
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.process import Process
from tests.tracers.builders import make_interval, make_origin

ROWS = {tracer.plan.name: tracer.row().dtype for tracer in every()}
TRACERS = tuple(ROWS)
_CHUNKS, _ROWS = 3, 150
_TEXTS = ("place", "site", "stack", "cache", "migratetype", "victim", "trigger", "allocator")

# Of numbers that stand for words, some of which there are.
_WORDS = {
    "kind": (1, 2, 3, 4, 5, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28),
    "region": range(6),
    "cause": range(12),
    "order": range(11),
    "migratetype": range(4),
    "constraint": range(5),
    "edge": range(3),
    "count": range(1, 600),
    "address": [*range(0x1000, 0x40000, 0x1000)],
    "length": [*range(0x1000, 0x20000, 0x1000)],
    "tgid": range(1, 9),
    "trigger": range(1, 9),
    "adj": range(-1000, 1000),
}


def recording(tracer: str, path: Path) -> Path:
    """Writes one; the same each time."""
    chance = np.random.default_rng(18)
    recorder = Recorder(path, make_origin(tracer=tracer, way="tracepoints"), ROWS[tracer])
    for number in range(_CHUNKS):
        recorder.write(_chunk(tracer, number, chance))
    recorder.close()
    return path


def _chunk(tracer: str, number: int, chance: np.random.Generator) -> Chunk:
    rows: Events = np.zeros(_ROWS, ROWS[tracer])
    for name in rows.dtype.names or ():
        rows[name] = chance.choice(_WORDS.get(name, range(50)), _ROWS)
    rows["ns"] = number * 10**9 + np.sort(chance.integers(1, 10**9, _ROWS))
    return Chunk(
        rows=rows,
        until_ns=(number + 1) * 10**9,
        processes={tgid: Process(f"name {tgid}", tgid, "root", "/a") for tgid in range(1, 9)},
        paths={file: FileName("8:1", file, f"/file/{file}") for file in range(50)},
        texts={kind: {n: f"{kind};{n}" for n in range(50)} for kind in _TEXTS},
        interval=make_interval(kernel={"pgfault": 9, "cpu_run_virtual_total": 10**9}),
        last=number == _CHUNKS - 1,
    )
