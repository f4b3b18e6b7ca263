"""memtap: eBPF tracers for Linux memory.

The package has no logic of its own; its rooms are `memtap.bpf` (the kernel side),
`memtap.tracers` (events into reports) and `memtap.cli` (reports into text). From Python,
`memtap.trace()` traces and `memtap.read()` reads recordings; see memtap.tracers.api.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memtap.bpf.errors import MemtapError
    from memtap.tracers.api import Trace, read, trace

__version__ = "0.2.0"
__all__ = ["MemtapError", "Trace", "read", "trace"]


def __getattr__(name: str) -> Any:
    """Imports what takes long only when it is asked for: the command line does not need it."""
    if name == "MemtapError":
        from memtap.bpf.errors import MemtapError

        return MemtapError
    if name in __all__:
        from memtap.tracers import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
