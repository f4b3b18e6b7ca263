"""Whose malloc it is, told by the names of the files that a process has mapped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from memtap.tracers.host.hostile import DELETED

# The object that malloc comes from, the one that takes the place of others first.
_ALLOCATORS = (
    ("jemalloc", re.compile(r"/libjemalloc")),
    ("tcmalloc", re.compile(r"/libtcmalloc")),
    ("mimalloc", re.compile(r"/libmimalloc")),
    ("musl", re.compile(r"/(ld-musl-|libc\.musl-)")),
    ("glibc", re.compile(r"/libc(\.so\.6|-2\.\d+\.so)$")),
)
ALLOCATORS = (*(name for name, _ in _ALLOCATORS), "?")
_LOADER = re.compile(r"/ld(-linux[^/]*|-musl[^/]*|-2\.\d+|64)?\.so[^/]*$")
# These stand between malloc and whoever wants memory: C++'s operator new.
_RUNTIMES = re.compile(r"/lib(stdc\+\+|c\+\+|c\+\+abi|supc\+\+)\.so")


def allocator_of(paths: Iterable[str]) -> str:
    """Whose malloc a process has that maps these files; "?" if none of those we know."""
    mapped = [path.removesuffix(DELETED) for path in paths]
    return next((name for name, like in _ALLOCATORS if any(map(like.search, mapped))), "?")


def rank_of(path: str) -> int:
    """Whose malloc a file has, as a place in ALLOCATORS: of several that of the lowest counts."""
    return ALLOCATORS.index(allocator_of([path]))


def is_loader(path: str) -> bool:
    """Whether a file is the dynamic loader."""
    return bool(_LOADER.search(path))


def serves_malloc(path: str) -> bool:
    """Whether code of a file is on the way from malloc to the kernel, and not who wants memory."""
    return allocator_of([path]) != "?" or is_loader(path) or bool(_RUNTIMES.search(path))
