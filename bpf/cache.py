"""Keeps what was compiled, so that only the first start of a report needs the compiler.

What is found here is given to the kernel, so no other user may be able to write it: the folder and
the file must be ours alone. A cache that cannot be used is as good as none, and no message says so.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from memtap.bpf import compiler

FOLDER = Path("/var/cache/memtap")

# Filters are part of a text, so there can be many texts. The files that were used last are kept;
# each takes some 60 KB.
MOST_FILES = 256

_HEX_DIGITS = 64  # of a SHA-256


class Cache:
    """The compiled texts in a folder."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder

    def find(self, text: str) -> str | None:
        """What was kept for a text, or None."""
        path = self._path(text)
        with suppress(OSError, UnicodeDecodeError):
            if _is_ours(self._folder.lstat()):
                kept = _read(path)
                with suppress(OSError):  # on a read-only disk the order stays as it is
                    os.utime(path)
                return kept
        return None

    def keep(self, text: str, answer: str) -> None:
        """Keeps what a text was compiled to, if the folder can be written."""
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(self._folder.lstat()):
                return
            self._write(self._path(text), answer.encode())
            for old in sorted(self._folder.iterdir(), key=_used_ns)[:-MOST_FILES]:
                old.unlink()

    def _write(self, path: Path, answer: bytes) -> None:
        """All of it or nothing: a disk can be full."""
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            try:
                file.write(_digest(answer) + answer)
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink()
                raise

    def _path(self, text: str) -> Path:
        digest = hashlib.sha256(text.encode())
        for part in _compiled_with():
            digest.update(part)
        return self._folder / digest.hexdigest()


def _compiled_with() -> Iterator[bytes]:
    """What decides, besides the text, what the compiler makes of it."""
    yield Path(compiler.__file__).read_bytes()
    for header in sorted((compiler.HEADERS / "include").rglob("*.h")):
        yield header.read_bytes()
    bcc = find_spec("bcc")
    if bcc and bcc.origin:
        with suppress(OSError):
            yield Path(bcc.origin).with_name("version.py").read_bytes()


def _is_ours(status: os.stat_result) -> bool:
    """Whether a folder or file is ours, no other user may write it, and it is no symbolic link."""
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == os.geteuid() and not shared and not stat.S_ISLNK(status.st_mode)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _read(path: Path) -> str | None:
    """The text after the digest, if the digest is right."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO is not waited for
    with os.fdopen(os.open(path, flags), "rb") as file:
        ours = _is_ours(os.fstat(file.fileno()))
        data = file.read()
    digest, answer = data[:_HEX_DIGITS], data[_HEX_DIGITS:]
    return answer.decode() if ours and digest == _digest(answer) else None


def _used_ns(path: Path) -> int:
    return path.stat().st_mtime_ns
