"""Recordings: chunks to Parquet and back.

One row group per chunk. Its first row has the chunk's head (names, interval, audit: JSON in the
column `head`) and nothing else; the rows after it are the events. What is the same for all of
them stands in the file's metadata: `memtap` (schema), `memtap.origin` (host, kernel, clock, how it
was traced) and, written last, `memtap.audit` (totals).
"""

from __future__ import annotations

import glob
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memtap.bpf.errors import MemtapError
from memtap.bpf.session import Losses
from memtap.tracers.caller import caller
from memtap.tracers.chunk import Chunk, Origin

SCHEMA = 1
_ABOUT, _ORIGIN, _AUDIT = b"memtap", b"memtap.origin", b"memtap.audit"
_WHAT_TO_NAME = "name a file that --record wrote, a glob of such files, or their folder"

# Space kept free for the end of the file: its metadata, which grows with every row group.
_FOOTER_BYTES = 256 << 10
_GROUP_BYTES = 8 << 10


# What reading fields can meet where bytes were changed that no checksum covers.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError)


class RecordingFullError(MemtapError):
    """There is no room for more; the file was closed and can be read."""


def _schema(origin: Origin, row: np.dtype[np.void]) -> pa.Schema:
    fields = [pa.field(name, pa.from_numpy_dtype(row[name])) for name in row.names or ()]
    about = {"schema": SCHEMA}
    metadata = {_ABOUT: json.dumps(about), _ORIGIN: origin.to_json()}
    return pa.schema([*fields, pa.field("head", pa.string())], metadata)


def _create(path: Path) -> int:
    """A new file for its owner's eyes only: for the user who called sudo, if it was called."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise MemtapError(
            f"cannot record to {path}: {error.strerror}", "name another file"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise MemtapError(f"cannot record to {path}: it is no regular file", "name another file")
    os.fchmod(fd, 0o600)
    if owner := caller():
        os.fchown(fd, *owner)
    return fd


class Recorder:
    """Writes chunks to a file. It must be closed: without an end the file cannot be read.

    `row` is the type of the chunks' rows.
    """

    def __init__(self, path: Path, origin: Origin, row: np.dtype[np.void]) -> None:
        self.path = path
        self._file = os.fdopen(_create(path), "w+b")
        self._groups = self._events = 0
        self._losses = Losses()
        self._begin()
        self._schema = _schema(origin, row)
        self._writer = pq.ParquetWriter(
            self._file, self._schema, compression="zstd", write_page_checksum=True
        )

    def write(self, chunk: Chunk) -> None:
        """Adds a chunk. Raises RecordingFullError, the file closed, if there is no room for it."""
        table = _to_table(chunk, self._schema)
        self._reserve(table.nbytes + table.nbytes // 8)
        self._writer.write_table(table, row_group_size=max(len(table), 1))
        self._groups += 1
        self._events += len(chunk.rows)
        if chunk.interval:
            self._losses += chunk.interval.losses

    def close(self) -> None:
        """Writes the end of the file."""
        audit = {"events": self._events} | asdict(self._losses)
        self._writer.add_key_value_metadata({_AUDIT: json.dumps(audit)})
        self._writer.close()
        self._file.truncate()
        self._file.close()

    def _begin(self) -> None:
        """Makes room for the end of a file, without which nothing can be recorded."""
        try:
            self._allocate(0)
        except OSError as error:
            self._file.close()
            self.path.unlink()
            raise MemtapError(
                f"cannot record to {self.path}: {error.strerror}",
                f"it takes {_FOOTER_BYTES >> 10} KiB at least: free some, or name another file",
            ) from error

    def _reserve(self, size: int) -> None:
        """Makes room for this many bytes more, before anything of them is written.

        So a full disk is met where the file can still be closed properly.
        """
        try:
            self._allocate(size)
        except OSError as error:
            self.close()
            raise RecordingFullError(
                f"the recording to {self.path} ended: {error.strerror}",
                "what was recorded until now can be read",
            ) from error

    def _allocate(self, size: int) -> None:
        end = _FOOTER_BYTES + _GROUP_BYTES * self._groups
        os.posix_fallocate(self._file.fileno(), 0, self._file.tell() + size + end)


def _to_table(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """The head as a row of its own, before those of the events."""
    rows = np.concatenate([np.zeros(1, chunk.rows.dtype), chunk.rows])
    columns = [pa.array(np.ascontiguousarray(rows[name])) for name in rows.dtype.names or ()]
    heads = pa.concat_arrays([pa.array([chunk.head()]), pa.nulls(len(chunk.rows), pa.string())])
    return pa.Table.from_arrays([*columns, heads], schema=schema)


def _from_table(table: pa.Table) -> Chunk:
    columns = {name: table[name].to_numpy()[1:] for name in table.column_names if name != "head"}
    row = np.dtype([(name, column.dtype) for name, column in columns.items()])
    rows = np.zeros(len(table) - 1, row)
    for name, column in columns.items():
        rows[name] = column
    return Chunk.from_head(table["head"][0].as_py(), rows)


class Recording:
    """A file that was recorded: its origin, and its chunks when iterated over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "it is damaged"
            raise MemtapError(f"cannot read {path}: {reason}", _WHAT_TO_NAME) from error
        except (pa.ArrowException, *_DAMAGE) as error:
            what = f"{path} is no Parquet file, is damaged or has no end"
            raise MemtapError(what, _WHAT_TO_NAME) from error
        metadata = self._file.schema_arrow.metadata or {}
        if _ABOUT not in metadata:
            raise MemtapError(f"{path} is no recording of memtap", _WHAT_TO_NAME)
        try:
            self.origin = _origin(path, metadata)
        except _DAMAGE as error:
            raise MemtapError(f"cannot read {path}: it is damaged", _WHAT_TO_NAME) from error

    def __iter__(self) -> Iterator[Chunk]:
        for group in range(self._file.num_row_groups):
            try:
                chunk = _from_table(self._file.read_row_group(group))
            except (OSError, pa.ArrowException, *_DAMAGE) as error:
                hint = "what was recorded before the damage was shown"
                raise MemtapError(f"cannot read {self.path}: it is damaged", hint) from error
            yield chunk


def _origin(path: Path, metadata: dict[bytes, bytes]) -> Origin:
    """The origin in a file's metadata. Raises MemtapError if its schema is not ours."""
    schema = json.loads(metadata[_ABOUT])["schema"]
    if schema != SCHEMA:
        raise MemtapError(f"{path} has schema {schema}, not {SCHEMA}", "use the memtap it is of")
    return Origin.from_json(metadata[_ORIGIN].decode())


def find(pattern: str) -> list[Path]:
    """The recordings that a file name, a glob or a folder names, in order of their names."""
    try:
        found = _matching(pattern)
    except OSError as error:
        raise MemtapError(f"cannot read {pattern}: {error.strerror}", _WHAT_TO_NAME) from error
    if not found:
        raise MemtapError(f"no recording at {pattern}", _WHAT_TO_NAME)
    return found


def _matching(pattern: str) -> list[Path]:
    if not Path(pattern).exists():
        return sorted(map(Path, glob.glob(pattern)))
    if Path(pattern).is_dir():
        return sorted(Path(pattern).glob("*.parquet"))
    return [Path(pattern)]
