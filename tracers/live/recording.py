"""Recordings: chunks to Parquet and back.

One row group per chunk. Its first row has the chunk's head (names, interval, audit: JSON in the
column `head`) and nothing else; the rows after it are the events. What all chunks share stands in
the file's metadata: `memtap` (schema), `memtap.origin` (host, kernel, clock, how it was traced)
and, written last, `memtap.audit` (totals). See footers.py for how a file grows.
"""

from __future__ import annotations

import glob
import json
import os
import stat
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memtap.bpf.errors import MemtapError
from memtap.bpf.session import Losses
from memtap.tracers.host.caller import caller
from memtap.tracers.live.footers import Footer, chain, ending, footer_bytes, footer_of, read
from memtap.tracers.model import claims
from memtap.tracers.model.chunk import Chunk, Origin

# Schema 2 gave the rows of malloc columns of their own; the rows of other tracers did not change.
SCHEMA = 2
_READERS = {1: "memtap 0.1"}
_ABOUT, _ORIGIN, _AUDIT = b"memtap", b"memtap.origin", b"memtap.audit"
TRUST = "if you know who made it, and of what, add --trust"
_WHAT_TO_NAME = "name a file that --record wrote, a glob of such files, or their folder"

# Space that is reserved for the footer of the file: its metadata, which grows with every row group.
_FOOTER_BYTES = 256 << 10
_GROUP_BYTES = 8 << 10


# An untrusted recording may unpack to this many bytes plus this many times its file's size. Our own
# recordings unpack to three to ten times their size.
_BYTES, _TIMES = 64 << 20, 100

# A footer has some 60 bytes for each column of each chunk: this is enough for half a day.
_MOST_FOOTER_BYTES = 32 << 20

# What reading can raise where bytes were changed, by accident or to do harm.
_DAMAGE = (
    *(OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)


class RecordingFullError(MemtapError):
    """There is no room for more; the file was closed and can be read."""


def _schema(origin: Origin, row: np.dtype[np.void]) -> pa.Schema:
    fields = [pa.field(name, pa.from_numpy_dtype(row[name])) for name in row.names or ()]
    about = {"schema": SCHEMA}
    metadata = {_ABOUT: json.dumps(about), _ORIGIN: origin.to_json()}
    return pa.schema([*fields, pa.field("head", pa.string())], metadata)


def _create(path: Path) -> int:
    """A new file that only its owner can read: the user who called sudo, else root."""
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
    """Writes each chunk to a file at once. Closing makes the file plain Parquet.

    `row` is the type of the chunks' rows.
    """

    def __init__(self, path: Path, origin: Origin, row: np.dtype[np.void]) -> None:
        self.path = path
        self._file = os.fdopen(_create(path), "w+b")
        self._footer = Footer()
        self._groups = self._events = 0
        self._losses = Losses()
        self._begin()
        self._schema = _schema(origin, row)

    def write(self, chunk: Chunk) -> None:
        """Adds a chunk. Raises RecordingFullError, the file closed, if there is no room for it."""
        segment = _to_segment(_to_table(chunk, self._schema))
        self._reserve(len(segment))
        self._footer.add(footer_of(segment), self._file.tell())
        self._file.write(segment)
        self._file.flush()
        self._schema = self._schema.remove_metadata()  # the first segment has it for all
        self._groups += 1
        self._events += len(chunk.rows)
        if chunk.interval:
            self._losses += chunk.interval.losses

    def close(self) -> None:
        """Writes the end of the file."""
        audit = {"events": self._events} | asdict(self._losses)
        if self._groups == 0:
            self._write_empty()
        self._file.write(ending(self._footer.encode({_AUDIT: json.dumps(audit).encode()})))
        self._file.truncate()
        self._file.close()

    def _write_empty(self) -> None:
        """Writes a file without chunks, which still has metadata."""
        segment = _to_segment(self._schema.empty_table())
        self._footer.add(footer_of(segment), 0)
        self._file.write(segment)

    def _begin(self) -> None:
        """Reserves space for the footer, without which nothing can be recorded."""
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
        """Reserves space for this many bytes more, before any of them is written.

        So if the disk is full, the file can still be closed properly.
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


def _to_segment(table: pa.Table) -> bytes:
    """A Parquet file of one row group, or none; with the schema's metadata, if it has any."""
    out, told = pa.BufferOutputStream(), bool(table.schema.metadata)
    how = {"compression": "zstd", "write_page_checksum": True, "write_statistics": False}
    with pq.ParquetWriter(out, table.schema, store_schema=told, **how) as writer:
        if len(table):
            writer.write_table(table, row_group_size=len(table))
    segment: bytes = out.getvalue().to_pybytes()
    return segment


def _to_table(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """The head as a row of its own, before those of the events."""
    rows = np.concatenate([np.zeros(1, chunk.rows.dtype), chunk.rows])
    columns = [pa.array(np.ascontiguousarray(rows[name])) for name in rows.dtype.names or ()]
    heads = pa.concat_arrays([pa.array([chunk.head()]), pa.nulls(len(chunk.rows), pa.string())])
    return pa.Table.from_arrays([*columns, heads], schema=schema)


class Recording:
    """A file that was recorded: its origin, and its chunks when iterated over.

    Any user may have written it, so its content is checked; and unless it is `trusted`, the size to
    which it unpacks is limited.

    Attributes:
        origin: where its events come from.
        row: the type of its rows.
        schema: the version of the format, from 1 on.
        was_cut_off: whether its footer is missing: its recorder was killed, or still records.
    """

    def __init__(self, path: Path, trusted: bool = False) -> None:
        self.path = path
        self._file = _open(path)
        weakref.finalize(self, self._file.close)
        self._last_footer: tuple[int, pq.FileMetaData] | None = None
        self._most = sys.maxsize if trusted else _MOST_FOOTER_BYTES
        with self._explained(f"{path} is no Parquet file, is damaged or has no end"):
            size = self._file.seek(0, os.SEEK_END)
            self._left = sys.maxsize if trusted else _BYTES + _TIMES * size
            self._chain, self.was_cut_off = self._find_chain(size)
            first = self._part(*self._chain[0])
            metadata = first.schema_arrow.metadata or {}
        if _ABOUT not in metadata:
            raise MemtapError(f"{path} is no recording of memtap", _WHAT_TO_NAME)
        with self._explained(f"cannot read {path}: it is damaged"):
            self.schema = _schema_of(path, metadata)
            self.origin = Origin.from_json(metadata[_ORIGIN].decode())
            self.row = _row(first)

    def _find_chain(self, size: int) -> tuple[list[tuple[int, int]], bool]:
        """Where the Parquet files in it begin and end, and whether its footer is missing.

        A Parquet file that others wrote has none. If the recorder was killed, the file ends without
        a footer, or with that of a chunk. If the file has a footer that cannot be read, it is
        damaged.
        """
        end = footer_bytes(self._file, size)
        if end and end > self._most:
            raise MemtapError(f"the end of {self.path} alone takes {end >> 20} MiB", TRUST)
        if end:
            whole = [(0, size)]
            if _AUDIT in (self._footer(size).metadata or {}):
                return whole, False
            found = chain(self._file, self._most)
            return found or whole, bool(found)
        if found := chain(self._file, self._most):
            return found, True
        raise ValueError("no end")

    def require(self, row: np.dtype[np.void]) -> None:
        """Raises MemtapError if its rows are of another type."""
        if self.row != row:
            reader = _READERS.get(self.schema, "the memtap that it was made with")
            what = f"{self.path} has other columns (schema {self.schema}) than are recorded now"
            raise MemtapError(what, f"use {reader}, which can read it")

    def __iter__(self) -> Iterator[Chunk]:
        hint = "what was recorded before the damage was shown"
        explained = partial(self._explained, f"cannot read {self.path}: it is damaged", hint)
        for place in self._chain:
            with explained():
                part = self._part(*place)
            for number in range(part.num_row_groups):
                with explained():
                    self._take(_unpacked_bytes(part.metadata.row_group(number), self.row))
                    chunk = _chunk(part, number, self.row)
                yield chunk

    def _footer(self, end: int) -> pq.FileMetaData:
        """The footer that ends here; of a whole recording it is long, and asked for three times."""
        if self._last_footer is None or self._last_footer[0] != end:
            self._last_footer = end, read(self._file, end, self._most)
        return self._last_footer[1]

    def _part(self, start: int, end: int) -> pq.ParquetFile:
        """One of the Parquet files that it is made of."""
        metadata = self._footer(end)
        if start == 0 and end == self._file.seek(0, os.SEEK_END):
            source = self._file
        else:
            self._file.seek(start)
            source = pa.BufferReader(self._file.read(end - start))
        return pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)

    def _take(self, size: int) -> None:
        """Takes this many bytes from the size that it may unpack to."""
        self._left -= size
        if self._left < 0:
            what = f"{self.path} becomes more than {_TIMES} times its size when it is unpacked"
            raise MemtapError(what, TRUST)

    @contextmanager
    def _explained(self, what: str, hint: str = _WHAT_TO_NAME) -> Iterator[None]:
        """Turns whatever a damaged file raises into a MemtapError."""
        try:
            yield
        except MemoryError:  # Arrow's out-of-memory error is an ArrowException, too
            raise
        except OSError as error:
            said = f"cannot read {self.path}: {os.strerror(error.errno)}" if error.errno else what
            raise MemtapError(said, hint) from error
        except _DAMAGE as error:
            raise MemtapError(what, hint) from error


def _open(path: Path) -> BinaryIO:
    """Opens a file to read; refuses what could block or have effects when it is opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise MemtapError(f"cannot read {path}: it is no regular file", _WHAT_TO_NAME)
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise MemtapError(f"cannot read {path}: {error.strerror}", _WHAT_TO_NAME) from error
    except ValueError as error:  # a NUL in its name
        raise MemtapError(f"cannot read {path}: {error}", _WHAT_TO_NAME) from error
    return file


def _row(part: pq.ParquetFile) -> np.dtype[np.void]:
    """The type of its rows. Raises ValueError for other columns than numbers and a head."""
    columns = [part.schema.column(number) for number in range(len(part.schema))]
    if any(column.max_repetition_level or column.path != column.name for column in columns):
        raise ValueError("columns of columns")
    *fields, head = part.schema_arrow
    if (head.name, head.type) != ("head", pa.string()):
        raise ValueError("no head")
    if not all(pa.types.is_integer(field.type) for field in fields):
        raise ValueError("other columns than of numbers")
    return np.dtype([(field.name, field.type.to_pandas_dtype()) for field in fields])


def _unpacked_bytes(group: pq.RowGroupMetaData, row: np.dtype[np.void]) -> int:
    """How many bytes the rows and the head of a row group take, by its own metadata.

    Raises ValueError if it contradicts itself.
    """
    columns = [group.column(number) for number in range(group.num_columns)]
    if any(column.num_values != group.num_rows for column in columns) or group.num_rows < 1:
        raise ValueError("columns of different lengths")
    return int(group.num_rows * row.itemsize + max(columns[-1].total_uncompressed_size, 0))


def _chunk(part: pq.ParquetFile, number: int, row: np.dtype[np.void]) -> Chunk:
    """A row group as a chunk, taken in column by column."""

    def column(name: str) -> pa.ChunkedArray:
        return part.read_row_group(number, columns=[name], use_threads=False).column(0)

    count = part.metadata.row_group(number).num_rows - 1
    rows = np.zeros(count, row)
    for name in row.names or ():
        values = column(name).to_numpy()
        if values.dtype != row[name] or len(values) != count + 1:
            raise ValueError("a column of another type or length")
        rows[name] = values[1:]
    return Chunk.from_head(column("head")[0].as_py(), rows)


def _schema_of(path: Path, metadata: dict[bytes, bytes]) -> int:
    """The schema that a file claims to have. Raises MemtapError if we do not know it."""
    schema = claims.number(json.loads(metadata[_ABOUT])["schema"])
    if not 1 <= schema <= SCHEMA:
        what = f"{path} has schema {schema}, and this memtap knows those up to {SCHEMA}"
        raise MemtapError(what, "use the memtap that it was made with, or a later one")
    return schema


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
