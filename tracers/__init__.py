"""Events into reports: a folder for each tracer, and four folders that know no tracer."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from memtap.tracers.model.tracer import Declared, Tracer

# In the order in which help lists them. Each is declared in `tracer.py` of the folder of its name.
NAMES = ("cachestat", "cachetop", "faults", "malloc", "slab", "pages", "reclaim", "shm", "oom")

# Commands that read the present state and trace nothing are declared in the same way.
INSPECTORS = ("ps", "pmap", "ledger", "files")

# Two commands that read the same events, or the same files, share a folder.
_FOLDERS = dict.fromkeys(("cachestat", "cachetop"), "pagecache") | {"pmap": "ps"}


def declared(name: str) -> Declared:
    """What is declared under this name, one of NAMES or INSPECTORS."""
    module = import_module(f"memtap.tracers.{_FOLDERS.get(name, name)}.tracer")
    found: Declared = module.TRACERS[name] if hasattr(module, "TRACERS") else module.TRACER
    return found


def load(name: str) -> Tracer:
    """The tracer of this name, one of NAMES."""
    return cast("Tracer", declared(name))


def every() -> Iterator[Tracer]:
    """All tracers, in order."""
    return map(load, NAMES)


def every_declared() -> Iterator[Declared]:
    """All tracers and inspectors, in order."""
    return map(declared, (*NAMES, *INSPECTORS))


def reports_of(recorded: str) -> list[Tracer]:
    """The tracers that make reports of recordings of this name, which is the name of their plan."""
    return [tracer for tracer in every() if tracer.plan.name == recorded]


def readers() -> dict[str, str]:
    """For each name under which events are recorded, the tracer that reports most of them."""
    return {tracer.plan.name: tracer.name for tracer in every()}
