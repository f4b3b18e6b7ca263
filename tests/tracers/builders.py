"""Rows, chunks and origins made by hand, and streams of them made at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from memtap.bpf.session import Losses
from memtap.bpf.stream import Events
from memtap.tracers.host.files import BUCKETS, FileName
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.process import Process
from memtap.tracers.pagecache.probes import Flag, Kind
from memtap.tracers.pagecache.rows import ROW

DEV = "8:1"
INO = 12
END = 10**12  # later than everything

Event = dict[str, int]


def event(kind: Kind, index: int, pages: int, **members: int) -> Event:
    return {"kind": kind, "index": index, "pages": pages, **members}


def add(index: int = 0, pages: int = 1, **members: int) -> Event:
    return event(Kind.ADD, index, pages, **members)


def read(index: int = 0, pages: int = 1, **members: int) -> Event:
    return event(Kind.READ, index, pages, **members)


def fault(index: int = 0, **members: int) -> Event:
    return event(Kind.FAULT, index, 1, **members)


def fault_around(index: int = 0, pages: int = 16, **members: int) -> Event:
    return event(Kind.MAP, index, pages, **members)


def dirty(index: int = 0, pages: int = 1, **members: int) -> Event:
    return event(Kind.DIRTY, index, pages, **members)


def write(index: int = 0, pages: int = 1, **members: int) -> Event:
    return event(Kind.WRITE, index, pages, **members)


def delete(index: int = 0, pages: int = 1, **members: int) -> Event:
    return event(Kind.DELETE, index, pages, **members)


def run_of_hits(pages: int = 1, **members: int) -> Event:
    return event(Kind.HITS, 0, pages, ns=0, **members)


def numbered(file: int) -> int:
    """The number in rows of the first, second, ... file."""
    return file * BUCKETS + file % BUCKETS


def named(path: str, file: int = 1, ino: int = INO) -> dict[int, FileName]:
    """What tells that the first file, or another, is called so."""
    return {numbered(file): FileName(DEV, ino, path)}


def make_rows(*events: Event) -> Events:
    """Rows of one process and file (the first), a nanosecond apart, unless the events say else."""
    rows = np.zeros(len(events), ROW)
    for number, members in enumerate(events):
        usual = {"ns": number + 1, "file": 1, "tgid": 100}
        usual["tid"] = members.get("tgid", 100)
        if members["kind"] == Kind.DIRTY:
            usual["whole"] = members["pages"]
        for name, value in (usual | members).items():
            rows[name][number] = numbered(value) if name == "file" else value
    return rows


def make_origin(**other: Any) -> Origin:
    usual = Origin(
        tracer="pagecache",
        way="filemap",
        accuracy="exact",
        probes=("tp_btf:mm_filemap_get_pages",),
        notes=(),
        filtered=False,
        page_bytes=4096,
        host="host",
        machine="x86_64",
        kernel="6.12.0",
        boot_id="1b4e28ba",
    )
    return replace(usual, **other)


def make_interval(**other: Any) -> Interval:
    usual = Interval(
        time="2026-01-31T12:00:01.000Z",
        seconds=1.003,
        kernel={"nr_written": 7},
        buffers_bytes=5 << 20,
        cached_bytes=600 << 20,
        losses=Losses(),
    )
    return replace(usual, **other)


def make_chunk(*events: Event, **other: Any) -> Chunk:
    """The last chunk of a run, unless told otherwise."""
    usual = {"until_ns": END, "interval": make_interval(), "last": True}
    return Chunk(make_rows(*events), **(usual | other))


def events_at_random(
    kinds: tuple[Kind, ...] = tuple(Kind), most_pages: int = 1
) -> st.SearchStrategy[list[Event]]:
    """Events on the first pages of few files by few threads; reads take up to `most_pages`."""

    def finish(members: Event) -> Event:
        kind = Kind(members["kind"])
        if kind == Kind.READ:
            members["pages"] = min(members["pages"], most_pages)
        if kind not in (Kind.READ, Kind.MAP, Kind.FAULT):
            members["flags"] &= ~Flag.AGAIN
        if kind != Kind.ADD:
            members["flags"] &= ~(Flag.WANTED | Flag.WRITTEN)
        elif members["flags"] & (Flag.WANTED | Flag.WRITTEN):
            members["call"] %= members["pages"]
            members["whole"] = members["pages"] - members["call"]
        if kind == Kind.DIRTY:
            members["call"] = min(members["call"], members["index"])
            members["whole"] = members["call"] + members["pages"] + members["flags"] % 3
        if kind == Kind.HITS:
            members |= {"ns": 0, "tid": 0, "index": 0}
        return members

    one = st.fixed_dictionaries(
        {
            "kind": st.sampled_from(kinds),
            "index": st.integers(0, 8),
            "pages": st.integers(1, 4),
            "file": st.integers(1, 2),
            "tgid": st.sampled_from([100, 200]),
            "flags": st.sampled_from([0, 0, 0, Flag.AGAIN, Flag.WANTED, Flag.WRITTEN]),
            "call": st.integers(0, 2),
        }
    )
    return st.lists(one.map(finish), max_size=30)


def people_at_random() -> st.SearchStrategy[dict[int, Process]]:
    """Some of the processes of events_at_random()."""
    processes = st.builds(
        Process,
        comm=st.sampled_from(["cat", "dd"]),
        uid=st.integers(0, 1),
        user=st.sampled_from(["root", "daemon"]),
        cgroup=st.sampled_from(["/", "/a"]),
    )
    return st.dictionaries(st.sampled_from([100, 200]), processes)
