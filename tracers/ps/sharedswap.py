"""Swapped-out shared memory, divided among the processes that map it.

The kernel divides the swap of forked processes (SwapPss), but for shared memory it shows each
process all that is swapped out. Here an object counts as 1/n for each of n processes that map it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from memtap.tracers.host import procfs
from memtap.tracers.host.patience import StuckError, patiently

# The beginning of a shared mapping in /proc/PID/maps and smaps: addresses, offset in the object;
# and the object, by device and inode. In a path, a newline is escaped.
_MAPPED = rb"^([0-9a-f]+)-([0-9a-f]+) ...s ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+ \d+)"
_SHARED = re.compile(_MAPPED, re.MULTILINE)
_SWAPPED = re.compile(_MAPPED + rb".*?\nSwap: +(\d+) kB", re.MULTILINE | re.DOTALL)

Object = bytes


def shares(
    spaces: dict[int, str], folders: Iterable[str], require_time: Callable[[], None]
) -> dict[int, int]:
    """The part of each process in swapped-out shared memory, in bytes.

    Args:
        spaces: the folder of /proc that has the memory of each process, by its number.
        folders: the folders of all existing processes.
        require_time: raises an error if the time is over.
    """

    def text(path: str) -> bytes:
        require_time()
        return _text(path)

    swapped = {pid: _swapped(text(space + "smaps")) for pid, space in spaces.items()}
    wanted = {each for objects in swapped.values() for each in objects}
    sharers = Counter(each for space in folders for each in _mapped(text(space + "maps")) & wanted)
    return {
        pid: sum(size // max(1, sharers[each]) for each, size in objects.items())
        for pid, objects in swapped.items()
    }


def _swapped(smaps: bytes) -> Counter[Object]:
    """How many bytes are swapped out of each object that a process shares.

    A part that it has mapped twice counts once.
    """
    parts = {}
    for start, end, place, shared, swap in _SWAPPED.findall(smaps):
        parts[shared, place, int(end, 16) - int(start, 16)] = int(swap) << 10
    found: Counter[Object] = Counter()
    for (shared, *_), swap in parts.items():
        found[shared] += swap
    return +found


def _mapped(maps: bytes) -> set[Object]:
    """The objects that a process has mapped shared."""
    return {shared for *_, shared in _SHARED.findall(maps)}


def _text(path: str) -> bytes:
    """The text of a file; empty if its process is gone, stuck, or not ours to read."""
    try:
        return patiently(int(path.split("/")[2]), Path(path).read_bytes)
    except (*procfs.Gone, PermissionError, StuckError):
        return b""
