"""The ends of Parquet files, which tell what is in them and where.

A recorder writes each chunk as a small Parquet file of its own, one behind the other, so that
what was written can be read whatever becomes of the recorder. At last comes the end of them all,
which makes them one: a plain Parquet file in which the smaller ends are gaps.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from memtap.tracers.live.thrift import Items, Struct, Type, decode, encode

MAGIC = b"PAR1"
_LENGTH = struct.Struct("<I")
_TAIL_BYTES = _LENGTH.size + len(MAGIC)

# Fields of FileMetaData, RowGroup, ColumnChunk, ColumnMetaData and KeyValue.
_ROWS, _GROUPS, _METADATA = 3, 4, 5
_COLUMNS, _ROWS_OF_GROUP, _GROUP_AT = 1, 3, 5
_COLUMN, _OFFSETS = 3, (9, 10, 11)
_KEY, _VALUE = 1, 2

# So far back an end is looked for where a recorder was killed: a chunk that it had begun, and the
# room that it kept for what was to come.
_LOOK_BACK = 256 << 20
_BLOCK = 1 << 20


def footer_of(segment: bytes) -> bytes:
    """The end of a whole Parquet file, without what is around it."""
    (size,) = _LENGTH.unpack_from(segment, len(segment) - _TAIL_BYTES)
    return segment[len(segment) - _TAIL_BYTES - size : len(segment) - _TAIL_BYTES]


def ending(footer: bytes) -> bytes:
    """An end as it stands in a file."""
    return footer + _LENGTH.pack(len(footer)) + MAGIC


class Footer:
    """The end of several Parquet files of one schema that stand one behind the other."""

    def __init__(self) -> None:
        self._first: Struct = {}
        self._groups: list[bytes] = []
        self._rows = 0

    def add(self, footer: bytes, at: int) -> None:
        """Takes in the end of a file that begins `at` so many bytes."""
        fields = decode(footer)
        self._first = self._first or fields
        for group in fields[_GROUPS][1].values:
            _shift(group, at)
            self._groups.append(encode(group))
            self._rows += group[_ROWS_OF_GROUP][1]

    def encode(self, metadata: Mapping[bytes, bytes]) -> bytes:
        """The end of all; `metadata` is added to that of the first."""
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
    """A row group of a file, as one of a file that has so many bytes before that."""
    columns = [chunk[_COLUMN][1] for chunk in group[_COLUMNS][1].values]
    for fields, numbers in ((group, (_GROUP_AT,)), *((each, _OFFSETS) for each in columns)):
        for number in numbers:
            if number in fields:
                kind, value = fields[number]
                fields[number] = kind, value + by


def footer_bytes(file: BinaryIO, end: int) -> int | None:
    """How long the end is that a file has before a place, by what it says; None if it has none."""
    file.seek(max(end - _TAIL_BYTES, 0))
    tail = file.read(_TAIL_BYTES)
    return int(_LENGTH.unpack_from(tail)[0]) if tail[_LENGTH.size :] == MAGIC else None


def read(file: BinaryIO, end: int, most: int) -> pq.FileMetaData:
    """The end that a file has before a place. Raises what is wrong with it, or ValueError."""
    size = footer_bytes(file, end) or 0
    if not 0 < size <= min(most, end - _TAIL_BYTES - len(MAGIC)):
        raise ValueError("no end")
    file.seek(end - _TAIL_BYTES - size)
    return pq.read_metadata(pa.BufferReader(MAGIC + file.read(size + _TAIL_BYTES)))


def chain(file: BinaryIO, most: int) -> list[tuple[int, int]]:
    """Where the whole Parquet files begin and end of which a file is made; none if it is not.

    What is behind the last whole one is left out.
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
    """Where what may be an end has its own end, from the last on."""
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
    """Where the Parquet file begins that ends here; None if there is none."""
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
