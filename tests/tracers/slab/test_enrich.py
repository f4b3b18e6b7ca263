"""Counters of the slab allocator become rows, caches and code get their names."""

from __future__ import annotations

import numpy as np
import pytest

from memtap.bpf.stream import Events, dtype_of
from memtap.tracers.slab.enrich import _ADDRESS, _NAME, ANY_CACHE, EARLIER, LARGE, SlabEnricher
from memtap.tracers.slab.rows import Kind
from tests.tracers.sources import Counted, Given, make_drained

FILP, MAPLE = 0xFFFF888000001000, 0xFFFF888000002000
NO_STACK = 0xFFFF
COUNTED = np.dtype(
    [
        *((name, "u8") for name in ("cache", "site", "allocs", "frees")),
        *((name, "u8") for name in ("requested", "allocated", "freed")),
        ("tgid", "u4"),
    ]
)
OBJECT = {
    "size": 48,
    "members": [
        *(("cache", 0, 8), ("site", 8, 8), ("ns", 16, 8), ("requested", 24, 4)),
        *(("allocated", 28, 4), ("tgid", 32, 4), ("stack", 36, 4), ("filler", 40, 8)),
    ],
}


def counted(**values: int) -> Events:
    line = np.zeros(1, COUNTED)
    for name, value in values.items():
        line[name] = value
    return line


def kept(**values: int) -> tuple[Events, Events]:
    key, value = np.zeros(1, _ADDRESS), np.zeros(1, dtype_of(OBJECT))
    for name, number in ({"stack": NO_STACK} | values).items():
        value[name] = number
    return key, value


def named(*names: tuple[int, bytes, int]) -> tuple[Events, Events]:
    keys, values = np.zeros(len(names), _ADDRESS), np.zeros(len(names), _NAME)
    for at, (address, text, is_unseen) in enumerate(names):
        keys[at]["address"], values[at]["text"], values[at]["is_unseen"] = address, text, is_unseen
    return keys, values


def source(*tables: Events, way: str = "counters", **maps: tuple[Events, Events]) -> Given:
    given = {name: [table] for name, table in maps.items()}
    return Given(way, Counted(*tables), layouts={"object": OBJECT}, tables=given)


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        (FILP, "filp"),
        (MAPLE, "[unnamed]"),
        (LARGE, "kmalloc-large"),
        (0, "[earlier]"),
        (96, "kmalloc-96"),
        (4096, "kmalloc-4k"),
        (ANY_CACHE | 200, "size-200"),
    ],
)
def test_a_cache_is_called_by_its_name_or_size(cache: int, name: str) -> None:
    made = SlabEnricher(
        source(counted(cache=cache, allocs=1), names=named((FILP, b"filp", 0))), finds_leaks=False
    )
    taken = made.enrich(make_drained(until_ns=77), last=False)
    (row,) = taken.rows
    assert taken.texts["cache"][row["cache"]] == name
    assert (row["kind"], row["ns"], row["allocs"]) == (Kind.COUNTED, 77, 1)


def test_counts_go_where_they_belong_and_texts_are_told_once() -> None:
    line = counted(cache=FILP, tgid=9, allocs=5, frees=3, requested=50, allocated=64, freed=30)
    given = source(line, line, names=named((FILP, b"filp", 0)))
    made = SlabEnricher(given, finds_leaks=False)
    first, second = (made.enrich(make_drained(), last=False) for _ in range(2))
    (row,) = first.rows
    names = ("tgid", "allocs", "frees", "requested", "allocated", "freed")
    assert [int(row[name]) for name in names] == [9, 5, 3, 50, 64, 30]
    assert first.texts["site"][row["site"]] == "[earlier]" if row["site"] else EARLIER == 0
    assert "cache" not in second.texts
    assert second.rows["cache"] == first.rows["cache"]


@pytest.mark.parametrize(
    ("way", "unseen", "unbounded"),
    [
        ("counters", set(), set()),
        ("counters-batches", {"maple_node"}, set()),
        ("counters-alone", {"maple_node", "filp"}, set()),
    ],
)
def test_what_a_way_does_not_see_is_told(way: str, unseen: set[str], unbounded: set[str]) -> None:
    lines = np.concatenate([counted(cache=FILP, allocs=1), counted(cache=MAPLE, allocs=1)])
    names = named((FILP, b"filp", 0), (MAPLE, b"maple_node", 1))
    taken = SlabEnricher(source(lines, way=way, names=names), finds_leaks=False).enrich(
        make_drained(), last=False
    )
    assert {*taken.texts.get("unseen", {}).values()} == unseen
    assert {*taken.texts.get("unbounded", {}).values()} == unbounded


def test_what_is_kept_is_a_row_for_each_owner_with_its_oldest() -> None:
    keys, values = zip(
        kept(cache=FILP, tgid=1, ns=50, requested=10, allocated=16),
        kept(cache=FILP, tgid=1, ns=20, requested=11, allocated=16),
        kept(cache=FILP, tgid=2, ns=30, requested=12, allocated=16),
        strict=True,
    )
    objects = np.concatenate(keys), np.concatenate(values)
    given = source(counted(), objects=objects, names=named((FILP, b"filp", 0)))
    rows = SlabEnricher(given, finds_leaks=True).enrich(make_drained(), last=True).rows
    rows = rows[rows["kind"] == Kind.KEPT]
    found = {int(r["tgid"]): (r["allocs"], r["ns"], r["requested"], r["allocated"]) for r in rows}
    assert found == {1: (2, 20, 21, 32), 2: (1, 30, 12, 16)}
