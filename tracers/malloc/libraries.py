"""Which allocator a process uses, by the names of the files that it has mapped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from memtap.tracers.host.hostile import DELETED

# The objects that provide malloc; an earlier one replaces the later ones.
_ALLOCATORS = (
    ("jemalloc", re.compile(r"/libjemalloc")),
    ("tcmalloc", re.compile(r"/libtcmalloc")),
    ("mimalloc", re.compile(r"/libmimalloc")),
    ("musl", re.compile(r"/(ld-musl-|libc\.musl-)")),
    ("glibc", re.compile(r"/libc(\.so\.6|-2\.\d+\.so)$")),
)
ALLOCATORS = (*(name for name, _ in _ALLOCATORS), "?")
_LOADER = re.compile(r"/ld(-linux[^/]*|-musl[^/]*|-2\.\d+|64)?\.so[^/]*$")
# Code between malloc and its real caller: C++'s operator new.
_RUNTIMES = re.compile(r"/lib(stdc\+\+|c\+\+|c\+\+abi|supc\+\+)\.so")


def allocator_of(paths: Iterable[str]) -> str:
    """The allocator of a process that maps these files; "?" if we know none of them."""
    mapped = [path.removesuffix(DELETED) for path in paths]
    return next((name for name, like in _ALLOCATORS if any(map(like.search, mapped))), "?")


def rank_of(path: str) -> int:
    """The allocator in a file, as an index in ALLOCATORS; of several files, the lowest counts."""
    return ALLOCATORS.index(allocator_of([path]))


def is_loader(path: str) -> bool:
    """Whether a file is the dynamic loader."""
    return bool(_LOADER.search(path))


def serves_malloc(path: str) -> bool:
    """Whether a file's code is between malloc's caller and the kernel, not the caller itself."""
    return allocator_of([path]) != "?" or is_loader(path) or bool(_RUNTIMES.search(path))
