"""The mount table, read again only when it has changed."""

from __future__ import annotations

import select
from pathlib import Path


class MountTable:
    """The text of /proc/self/mountinfo after its last change; see look()."""

    def __init__(self, path: Path = Path("/proc/self/mountinfo")) -> None:
        self._file = path.open(errors="replace")
        self._changes = select.poll()
        self._changes.register(self._file, select.POLLPRI)
        self.text = self._file.read()

    def __del__(self) -> None:
        self._file.close()

    def look(self) -> bool:
        """Reads it again if it has changed, and says whether it has; see proc_pid_mountinfo(5)."""
        if not self._changes.poll(0):
            return False
        self._file.seek(0)
        self.text = self._file.read()
        return True


def kinds_of(mountinfo: str) -> frozenset[str]:
    """The types of the file systems that are mounted, from the text of /proc/PID/mountinfo."""
    return frozenset(line.partition(" - ")[2].split(" ")[0] for line in mountinfo.splitlines())


class Mounts:
    """Which types of file systems are mounted in our mount namespace."""

    def __init__(self, path: Path = Path("/proc/self/mountinfo")) -> None:
        self._table = MountTable(path)
        self._kinds = kinds_of(self._table.text)

    def has(self, kind: str) -> bool:
        """Whether one of this type is mounted now."""
        if self._table.look():
            self._kinds = kinds_of(self._table.text)
        return kind in self._kinds
