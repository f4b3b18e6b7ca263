"""Cgroups whose memory is limited, on v1 and v2."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from memtap.bpf.filters import cgroup_mounts
from tests.live.tracing import eventually


@dataclass
class Limited:
    """A cgroup of our own.

    Attributes:
        folder: its directory.
        path: as /proc/PID/cgroup writes it.
        version: of cgroups.
    """

    folder: Path
    path: str
    version: int

    def start(self, *command: object, **how: object) -> subprocess.Popen[str]:
        """Runs a program in it, from its first instruction on."""
        words = map(str, command)
        return subprocess.Popen(
            ["sh", "-c", 'echo $$ > "$0"; exec "$@"', self.folder / "cgroup.procs", *words],
            text=True,
            **how,  # type: ignore[call-overload]
        )

    def stat(self) -> dict[str, int]:
        """Its memory.stat: bytes, and events in pages."""
        lines = (self.folder / "memory.stat").read_text().splitlines()
        return {name: int(value) for name, value in map(str.split, lines)}

    def _write(self, name: str, value: object) -> None:
        (self.folder / name).write_text(str(value))

    def limit(self, size: int, swaps: bool) -> None:
        """Lets it have so many bytes, and swap, or not."""
        if self.version == 1:
            self._write("memory.limit_in_bytes", size)
            self._write("memory.swappiness", 100 if swaps else 0)
        else:
            self._write("memory.max", size)
            self._write("memory.swap.max", "max" if swaps else 0)


def where_memory_is() -> tuple[int, Path]:
    """The hierarchy that limits memory, v1 or v2: a host has the controller in one of them."""
    for mount in cgroup_mounts(Path("/proc/self/mountinfo").read_text()):
        if "memory" in mount.controllers:
            return 1, mount.path
        if not mount.controllers:
            offered = (mount.path / "cgroup.controllers").read_text().split()
            if "memory" in offered:
                (mount.path / "cgroup.subtree_control").write_text("+memory")
                return 2, mount.path
    pytest.skip("the memory controller is in no cgroup hierarchy")


@contextmanager
def limited(size: int, swaps: bool = False) -> Iterator[Limited]:
    """A cgroup that may use so many bytes, gone afterwards with all who are in it."""
    version, root = where_memory_is()
    folder = root / f"memtap-test-{os.getpid()}"
    folder.mkdir()
    cgroup = Limited(folder, f"/{folder.name}", version)
    try:
        cgroup.limit(size, swaps)
        yield cgroup
    finally:
        for pid in members(folder):
            os.kill(pid, 9)
        assert eventually(lambda: not members(folder))
        folder.rmdir()


def members(folder: Path) -> Sequence[int]:
    """The processes in a cgroup."""
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
