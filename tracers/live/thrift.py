"""The compact protocol of Thrift, as far as the footers of Parquet files use it.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Type(IntEnum):
    """The type of a value."""

    TRUE = 1
    FALSE = 2
    BYTE = 3
    I16 = 4
    I32 = 5
    I64 = 6
    BINARY = 8
    LIST = 9
    STRUCT = 12


_INTEGERS = (Type.I16, Type.I32, Type.I64)
_BOOLEANS = (Type.TRUE, Type.FALSE)
_LONG_LIST = 15


@dataclass
class Items:
    """A list: the type of its members, and the members."""

    of: Type
    values: list[Any]


# For each field number, ascending, the field's type and value: an int, bytes, Items or another
# struct, which may be encoded already.
Struct = dict[int, tuple[Type, Any]]


def decode(data: bytes) -> Struct:
    """The struct that these bytes begin with. Raises ValueError or IndexError if there is none."""
    return _Reader(data).struct()


def spans(data: bytes, path: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the last of these fields stand in a struct: each is in one before it, or in a list.

    Raises ValueError or IndexError if there is no such struct.
    """
    yield from _Reader(data).spans(path)


def encode(fields: Struct) -> bytes:
    """The bytes of a struct."""
    out = bytearray()
    _write_struct(out, fields)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = Type(head & 15)
            fields[number] = kind, None if kind in _BOOLEANS else self._value(kind)
        return fields

    def spans(self, path: Sequence[int]) -> Iterator[tuple[int, int]]:
        """See the function."""
        number, start = 0, self._at
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = Type(head & 15)
            if number == path[0] and path[1:]:
                yield from self._spans_in(kind, path[1:])
            elif kind not in _BOOLEANS:
                self._value(kind)
            if number == path[0] and not path[1:]:
                yield start, self._at
            start = self._at

    def _spans_in(self, kind: Type, path: Sequence[int]) -> Iterator[tuple[int, int]]:
        if kind is Type.LIST:
            of, size = self._list_head()
            for _ in range(size):
                yield from self._spans_in(of, path)
        elif kind is Type.STRUCT:
            yield from self.spans(path)
        else:
            raise ValueError("a value where a struct should be")

    def _value(self, kind: Type) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind is Type.BINARY:
            return self._take(self._varint())
        if kind is Type.LIST:
            return self._list()
        return self.struct() if kind is Type.STRUCT else self._byte()

    def _list(self) -> Items:
        kind, size = self._list_head()
        return Items(kind, [self._value(kind) for _ in range(size)])

    def _list_head(self) -> tuple[Type, int]:
        """The type of a list's members, and how many there are."""
        head = self._byte()
        size = self._varint() if head >> 4 == _LONG_LIST else head >> 4
        return Type(head & 15), size

    def _integer(self) -> int:
        """Zigzag: the lowest bit is the sign."""
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]


def _write_struct(out: bytearray, fields: Struct) -> None:
    before = 0
    for number, (kind, value) in fields.items():
        if before < number <= before + 15:
            out.append((number - before) << 4 | kind)
        else:
            out.append(kind)
            _write_integer(out, number)
        before = number
        if kind not in _BOOLEANS:
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: Type, value: Any) -> None:
    if kind in _INTEGERS:
        _write_integer(out, value)
    elif kind is Type.BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind is Type.LIST:
        _write_list(out, value)
    elif kind is Type.STRUCT and isinstance(value, bytes):
        out += value
    elif kind is Type.STRUCT:
        _write_struct(out, value)
    else:
        out.append(value)


def _write_list(out: bytearray, items: Items) -> None:
    size = len(items.values)
    out.append(min(size, _LONG_LIST) << 4 | items.of)
    if size >= _LONG_LIST:
        _write_varint(out, size)
    for value in items.values:
        _write_value(out, items.of, value)


def _write_integer(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else ~(value << 1))


def _write_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
