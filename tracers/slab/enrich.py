"""The slab allocator's rows: counters from the kernel, and names for caches and code."""

from __future__ import annotations

from itertools import dropwhile

import numpy as np
import numpy.typing as npt

from memtap.bpf.session import Drained
from memtap.bpf.stream import Events, dtype_of
from memtap.tracers.code.sites import Texts
from memtap.tracers.code.symbols import Symbols
from memtap.tracers.host.hostile import printable
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.model.enricher import BETWEEN, Enricher, Source, Taken
from memtap.tracers.slab.probes import ALONE, BATCHES, TREES
from memtap.tracers.slab.probes import IN_BULK as BULK_CACHES
from memtap.tracers.slab.rows import ROW, Kind

# As in the C program: values in place of a cache; the keys of the map of objects are addresses.
UNKNOWN, LARGE = 0, 1
EARLIER, IN_BULK = 0, 1
ANY_CACHE = 1 << 62
_ADDRESS = np.dtype([("address", "u8")])
_NAME = np.dtype([("text", "S64"), ("is_unseen", "u8")])
_NO_STACK = 0xFFFF

# Prefixes of the functions through which a tracepoint calls a BPF program.
_OURS = ("bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_")

# What stands in place of the code that allocated.
_NO_SITE = {EARLIER: "[earlier]", IN_BULK: "[bulk]"}

# The members by which kept objects are grouped.
_OWNER = ("tgid", "cache", "site", "stack")


class SlabEnricher(Enricher):
    """See Enricher. With `finds_leaks` it also reports objects that are still allocated."""

    row = ROW

    def __init__(self, session: Source, finds_leaks: bool) -> None:
        assert session.counters
        self._session, self._counters = session, session.counters
        self._finds_leaks = finds_leaks
        self._symbols = Symbols()
        self._caches, self._sites, self._stacks = Texts(), Texts(), Texts()
        self._object = dtype_of(session.layouts["object"])
        self._unseen: set[str] = set()  # caches whose objects kfree_rcu() puts into sheaves
        self._stack_texts: dict[int, int] = {}

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        counted = self._counters.take()
        names = self._names()
        parts = [self._rows(counted, ("allocs", "frees", "requested", "allocated", "freed"), names)]
        parts[0]["kind"], parts[0]["ns"] = Kind.COUNTED, drained.until_ns
        if self._finds_leaks:
            parts.append(self._kept(names))
        texts = {"cache": self._caches, "site": self._sites, "stack": self._stacks}
        news = {kind: each.take() for kind, each in texts.items()}
        for kind, holds in (("unseen", self._is_unseen), ("unbounded", self._is_unbounded)):
            news[kind] = {number: text for number, text in news["cache"].items() if holds(text)}
        return Taken(np.concatenate(parts), texts={kind: new for kind, new in news.items() if new})

    def _rows(self, found: Events, same: tuple[str, ...], names: dict[int, str]) -> Events:
        """Rows with the members `same` as found, and numbers for cache and site."""
        rows = np.zeros(len(found), ROW)
        for name in (*same, "tgid"):
            rows[name] = found[name]
        caches, which = np.unique(found["cache"], return_inverse=True)
        rows["cache"] = self._numbers(self._caches, [_shown(int(c), names) for c in caches], which)
        sites, which = np.unique(found["site"], return_inverse=True)
        rows["site"] = self._numbers(self._sites, [self._site(int(site)) for site in sites], which)
        return rows

    def _numbers(
        self, texts: Texts, found: list[str], which: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.uint32]:
        return np.array([texts.number(text) for text in found], np.uint32)[which]

    def _site(self, address: int) -> str:
        if address in _NO_SITE:
            return _NO_SITE[address]
        return str(self._symbols.kernel(address))

    def _is_unseen(self, cache: str) -> bool:
        """Whether objects of a cache can be allocated or freed unseen."""
        way = self._session.way
        in_bulk = way.endswith(BATCHES) and (cache in BULK_CACHES or cache in self._unseen)
        return in_bulk or way.endswith(ALONE)

    def _is_unbounded(self, cache: str) -> bool:
        """Whether they can also be allocated unseen: then our counts bound nothing.

        Maple trees take their nodes one by one from sheaves, where there are any.
        """
        return self._is_unseen(cache) and cache in BULK_CACHES - (self._unseen & TREES)

    def _names(self) -> dict[int, str]:
        """The names of caches, by address, as the C program has noted them."""
        names: dict[int, str] = {}
        for keys, values in self._map("names", _NAME):
            texts = [printable(text) for text in values["text"].tolist()]
            self._unseen |= {t for t, u in zip(texts, values["is_unseen"], strict=True) if u}
            names |= dict(zip(keys["address"].tolist(), texts, strict=True))
        return names

    def _map(self, name: str, value: np.dtype[np.void]) -> list[tuple[Events, Events]]:
        return list(self._session.read_map(name, _ADDRESS, value))

    def _kept(self, names: dict[int, str]) -> Events:
        """Objects that are still allocated, one row per owner and stack."""
        parts = [values for _, values in self._map("objects", self._object)]
        objects = np.concatenate([np.empty(0, self._object), *parts])
        rows = self._rows(objects, ("ns", "requested", "allocated"), names)
        rows["stack"] = [self._stack(number) for number in objects["stack"].tolist()]
        group = group_numbers(*(rows[name] for name in _OWNER))
        _, one = np.unique(group, return_index=True)
        kept = rows[one].copy()
        kept["kind"], kept["allocs"] = Kind.KEPT, np.bincount(group, minlength=len(one))
        kept["ns"] = np.iinfo(np.uint64).max
        np.minimum.at(kept["ns"], group, rows["ns"])
        for name in ("requested", "allocated"):
            kept[name] = 0
            np.add.at(kept[name], group, rows[name])
        return kept

    def _stack(self, number: int) -> int:
        """The number of a stack's text; 0 if there is none."""
        if number == _NO_STACK:
            return 0
        if number not in self._stack_texts:
            sites = map(self._symbols.kernel, self._session.stack(number))
            frames = dropwhile(_is_ours, [site.frame for site in sites])
            self._stack_texts[number] = self._stacks.number(BETWEEN.join(reversed([*frames])))
        return self._stack_texts[number]


def _is_ours(frame: str) -> bool:
    """Whether a function is our program, or between it and the tracepoint."""
    return frame.startswith(_OURS)


def _shown(cache: int, names: dict[int, str]) -> str:
    """The name of a cache in reports, also where its real name is not known."""
    if cache == UNKNOWN:
        return "[earlier]"
    return _name(cache, names) if cache in names or not cache >> 63 else "[unnamed]"


def _name(cache: int, names: dict[int, str]) -> str:
    """The name of a cache; if only the size of its objects is known, a name as kmalloc's."""
    if cache == LARGE:
        return "kmalloc-large"
    if cache >> 63 or cache == UNKNOWN:
        return names.get(cache, "?")
    if cache & ANY_CACHE:
        return f"size-{cache ^ ANY_CACHE}"
    return f"kmalloc-{cache >> 10}k" if cache % 1024 == 0 else f"kmalloc-{cache}"
