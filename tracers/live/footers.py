"""The footers of Parquet files, which say what is in the files and where.

A recorder writes each chunk as a small Parquet file of its own, one after the other, so that what
was written can be read even if the recorder is killed. Last it writes a footer for all of them,
which makes them one plain Parquet file, in which the smaller footers are gaps.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from memtap.tracers.live.thrift import Items, Struct, Type, decode, encode, spans

MAGIC = b"PAR1"
_LENGTH = struct.Struct("<I")
_TAIL_BYTES = _LENGTH.size + len(MAGIC)

# Fields of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and KeyValue.
_ROWS, _GROUPS, _METADATA = 3, 4, 5
_COLUMNS, _ROWS_OF_GROUP, _GROUP_AT = 1, 3, 5
_COLUMN, _OFFSETS = 3, (9, 10, 11)
_KEY, _VALUE = 1, 2

# The last field of ColumnMetaData, from FileMetaData on.
_SIZES = (_GROUPS, _COLUMNS, _COLUMN, 16)

# If a recorder was killed, we search this far back for a footer: past a chunk that it had begun,
# and the space that it had reserved.
_LOOK_BACK = 256 << 20
_BLOCK = 1 << 20


def footer_of(segment: bytes) -> bytes:
    """The footer of a whole Parquet file, without its length and magic."""
    (size,) = _LENGTH.unpack_from(segment, len(segment) - _TAIL_BYTES)
    return segment[len(segment) - _TAIL_BYTES - size : len(segment) - _TAIL_BYTES]


def ending(footer: bytes) -> bytes:
    """A footer as it stands in a file, with its length and magic."""
    return footer + _LENGTH.pack(len(footer)) + MAGIC


class Footer:
    """The footer of several Parquet files of one schema that stand one after the other."""

    def __init__(self) -> None:
        self._first: Struct = {}
        self._groups: list[bytes] = []
        self._rows = 0

    def add(self, footer: bytes, at: int) -> None:
        """Adds the footer of a file that begins at byte `at`."""
        fields = decode(footer)
        self._first = self._first or fields
        for group in fields[_GROUPS][1].values:
            _shift(group, at)
            self._groups.append(encode(group))
            self._rows += group[_ROWS_OF_GROUP][1]

    def encode(self, metadata: Mapping[bytes, bytes]) -> bytes:
        """The footer of all; `metadata` is added to that of the first file."""
        fields = dict(self._first)
        fields[_ROWS] = Type.I64, self._rows
        fields[_GROUPS] = Type.LIST, Items(Type.STRUCT, self._groups)
        known = fields[_METADATA][1].values
        more = [
            {_KEY: (Type.BINARY, key), _VALUE: (Type.BINARY, value)}
            for key, value in metadata.items()
        ]
        fields[_METADATA] = Type.LIST, Items(Type.STRUCT, known + more)
        return encode(fields)


def _shift(group: Struct, by: int) -> None:
    """Shifts a row group's offsets for a file that has `by` bytes before it."""
    columns = [chunk[_COLUMN][1] for chunk in group[_COLUMNS][1].values]
    for fields, numbers in ((group, (_GROUP_AT,)), *((each, _OFFSETS) for each in columns)):
        for number in numbers:
            if number in fields:
                kind, value = fields[number]
                fields[number] = kind, value + by


def footer_bytes(file: BinaryIO, end: int) -> int | None:
    """The claimed length of the footer that ends at `end`; None if there is none."""
    file.seek(max(end - _TAIL_BYTES, 0))
    tail = file.read(_TAIL_BYTES)
    return int(_LENGTH.unpack_from(tail)[0]) if tail[_LENGTH.size :] == MAGIC else None


def read(file: BinaryIO, end: int, most: int) -> pq.FileMetaData:
    """The footer that ends at `end`. Raises ValueError, or what parsing it raises."""
    size = footer_bytes(file, end) or 0
    if not 0 < size <= min(most, end - _TAIL_BYTES - len(MAGIC)):
        raise ValueError("no end")
    file.seek(end - _TAIL_BYTES - size)
    footer = _without_sizes(file.read(size))
    return pq.read_metadata(pa.BufferReader(MAGIC + ending(footer)))


def _without_sizes(footer: bytes) -> bytes:
    """A footer without size statistics: if these do not fit the schema, Arrow ends the process.

    Raises ValueError if it is none.
    """
    kept, at = [], 0
    try:
        for start, end in spans(footer, _SIZES):
            if footer[end]:  # the number of the next field would be counted from this one
                raise ValueError("fields that nobody writes")
            kept.append(footer[at:start])
            at = end
    except (IndexError, RecursionError) as error:
        raise ValueError("no footer") from error
    return b"".join([*kept, footer[at:]])


def chain(file: BinaryIO, most: int) -> list[tuple[int, int]]:
    """Where the whole Parquet files that make up a file begin and end; empty if it has none.

    What follows the last whole one is left out.
    """
    for end in _ends(file, file.seek(0, os.SEEK_END)):
        found = []
        while (start := _start(file, end, most)) is not None:
            found.append((start, end))
            if start == 0:
                return found[::-1]
            end = start
    return []


def _ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Where possible footers end, the last one first."""
    until = size
    while until > max(size - _LOOK_BACK, 0):
        begin = max(until - _BLOCK, 0)
        file.seek(begin)
        block = file.read(until - begin + len(MAGIC) - 1)
        at = len(block)
        while (at := block.rfind(MAGIC, 0, at + len(MAGIC) - 1)) >= 0:
            yield begin + at + len(MAGIC)
        until = begin


def _start(file: BinaryIO, end: int, most: int) -> int | None:
    """Where the Parquet file that ends here begins; None if there is none."""
    try:
        metadata = read(file, end, most)
    except (ValueError, OSError, pa.ArrowException):
        return None
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    data = sum(
        group.column(number).total_compressed_size
        for group in groups
        for number in range(group.num_columns)
    )
    start = end - _TAIL_BYTES - (footer_bytes(file, end) or 0) - data - len(MAGIC)
    if data < 0 or start < 0:
        return None
    file.seek(start)
    return start if file.read(len(MAGIC)) == MAGIC else None
