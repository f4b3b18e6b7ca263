"""Which variant of a plan is taken, by what a kernel has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from memtap.bpf.errors import MemtapError
from memtap.bpf.kernel import Kernel
from memtap.bpf.plan import Probe
from memtap.tracers.pagecache.probes import PLAN

FILEMAP = {"mm_filemap_get_pages", "mm_filemap_map_pages", "mm_filemap_fault"}
CACHE = {"mm_filemap_add_to_page_cache", "mm_filemap_delete_from_page_cache"}
OLD = CACHE | {"writeback_dirty_page"}
NEW = CACHE | {"writeback_dirty_folio"}
FUNCTIONS = {"filemap_read", "filemap_map_pages", "filemap_fault"}
OLD_FUNCTIONS = FUNCTIONS - {"filemap_read"} | {"generic_file_buffered_read"}
MARKED = "folio_mark_accessed"


@dataclass
class Features:
    """A kernel that has these tracepoints, functions in BTF, and functions for kprobes."""

    tracepoints: set[str] = field(default_factory=set)
    typed: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    has_kprobes: bool = True
    has_trampolines: bool = True

    @property
    def btf(self) -> Features:
        return self

    def has_raw_tracepoint(self, name: str) -> bool:
        return name in self.tracepoints

    def has_function(self, name: str) -> bool:
        return name in self.typed

    @property
    def kernel(self) -> Kernel:
        return cast(Kernel, self)


@pytest.mark.parametrize(
    ("features", "variants"),
    [
        (Features(FILEMAP | NEW, FUNCTIONS, {MARKED}), ["filemap", "functions", "kprobe"]),
        (Features(FILEMAP | NEW), ["filemap"]),
        (Features(NEW, FUNCTIONS, {MARKED}), ["functions", "kprobe"]),
        (Features(OLD, FUNCTIONS, {"mark_page_accessed"}), ["functions", "kprobe"]),
        (Features(OLD, OLD_FUNCTIONS, set()), ["functions"]),
        (Features(NEW, set(), {MARKED}), ["kprobe"]),
        (Features(NEW, FUNCTIONS, {MARKED}, has_trampolines=False), ["kprobe"]),
        (Features(FILEMAP - {"mm_filemap_fault"} | NEW, set(), {MARKED}), ["kprobe"]),
        (Features(NEW, set(), {MARKED}, has_kprobes=False), []),
        (Features(CACHE | FILEMAP, {MARKED}, {MARKED}), []),
        (Features(), []),
    ],
)
def test_the_page_cache_is_seen_in_the_best_ways_there_are(
    features: Features, variants: list[str]
) -> None:
    assert [variant.name for variant in PLAN.possible(features.kernel)] == variants


def test_what_is_estimated_says_why() -> None:
    assert [variant.accuracy for variant in PLAN.variants] == ["exact", "exact", "estimated"]
    assert [bool(variant.notes) for variant in PLAN.variants] == [False, False, True]


def test_what_a_variant_lacks_is_named() -> None:
    kernel = Features(OLD | {"mm_filemap_fault"}).kernel
    missing = [variant.missing(kernel) for variant in PLAN.variants]
    assert missing == [
        ["tp_btf:mm_filemap_get_pages", "tp_btf:mm_filemap_map_pages"],
        ["fexit:filemap_read", "fentry:filemap_map_pages", "fentry:filemap_fault"],
        ["kprobe:folio_mark_accessed"],
    ]


def test_a_kernel_without_any_variant_is_told_what_the_best_would_need() -> None:
    with pytest.raises(MemtapError, match="lacks every probe") as caught:
        PLAN.require(Features(NEW).kernel)
    assert "tp_btf:mm_filemap_get_pages" in caught.value.what
    assert "memtap doctor" in caught.value.hint


def test_what_is_possible_is_what_is_required() -> None:
    kernel = Features(NEW, FUNCTIONS).kernel
    assert list(PLAN.require(kernel)) == list(PLAN.possible(kernel))


@pytest.mark.parametrize(
    ("targets", "taken"), [(("a", "b"), "a"), (("none", "b"), "b"), (("none",), None)]
)
def test_the_first_target_that_exists_is_taken(targets: tuple[str, ...], taken: str | None) -> None:
    kernel = Features(tracepoints={"a", "b"}).kernel
    assert Probe("on_x", "tp_btf", targets).target(kernel) == taken
