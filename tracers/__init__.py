"""Events into reports: a folder for each tracer, and four that know none of them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memtap.tracers.model.schema import Shape
    from memtap.tracers.model.tracer import Tracer

# In the order in which they are listed. Each is declared in tracer.py of a folder of its name.
NAMES = ("cachestat", "cachetop", "faults", "malloc", "slab", "pages", "reclaim", "oom")

# Two that read the same events share a folder.
_FOLDERS = dict.fromkeys(("cachestat", "cachetop"), "pagecache")


def load(name: str) -> Tracer:
    """The tracer of this name, one of NAMES."""
    declared = import_module(f"memtap.tracers.{_FOLDERS.get(name, name)}.tracer")
    tracer: Tracer = declared.TRACERS[name] if name in _FOLDERS else declared.TRACER
    return tracer


def every() -> Iterator[Tracer]:
    """All of them, in order."""
    return map(load, NAMES)


# What reads /proc and traces nothing has reports as well.
SNAPSHOTS = ("ps", "pmap")


def shapes(name: str) -> list[Shape]:
    """What the reports of this name can look like, one of NAMES or SNAPSHOTS."""
    from memtap.tracers.model.schema import shapes_of

    if name in NAMES:
        return shapes_of(load(name))
    modules = {"ps": "report", "pmap": "pmap"}
    found: list[Shape] = import_module(f"memtap.tracers.ps.{modules[name]}").SHAPES
    return found


def reports_of(recorded: str) -> list[Tracer]:
    """Those that make reports of what was recorded under this name, that of their plan."""
    return [tracer for tracer in every() if tracer.plan.name == recorded]
