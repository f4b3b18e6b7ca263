"""What can be wrong with a recording: bytes, heads, metadata, columns, values, row groups."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Chance = random.Random

# What JSON may have in the place of what should be there.
_BAD = (
    *(None, True, -1, 0, 1, 2**31, 2**32, 2**63, 2**64 - 1, 2**64, 2**70, 10**400, -(2**63)),
    *(1.5, float("nan"), float("inf"), "", "x", "\x1b[2J", "\ud800", "9" * 5000),
    *([], {}, [[]], [1, 2, 3], {"a": 1}),
)
_TEXTS = ("", "{", "null", "[]", '"x"', "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "\ud7ff")
_TYPES = (
    *(pa.float64(), pa.string(), pa.int8(), pa.int64(), pa.bool_(), pa.uint8(), pa.uint16()),
    *(pa.uint64(), pa.binary(), pa.list_(pa.int64()), pa.timestamp("ns"), pa.null()),
    *(pa.decimal128(38), pa.struct([("a", pa.int64())])),
)


class Parts:
    """A recording taken apart."""

    def __init__(self, path: Path) -> None:
        file = pq.ParquetFile(path)
        self.fields = list(file.schema_arrow)
        self.metadata = dict(file.schema_arrow.metadata) | dict(file.metadata.metadata)
        self.groups = [file.read_row_group(number) for number in range(file.num_row_groups)]

    def write(self, path: Path) -> None:
        self.metadata.pop(b"ARROW:schema", None)
        schema = pa.schema(self.fields, metadata=self.metadata)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for group in self.groups:
                table = pa.Table.from_arrays(group.columns, schema=schema)
                writer.write_table(table, row_group_size=max(len(table), 1))

    def replace(self, group: int, column: int, values: pa.Array) -> None:
        field = self.fields[column]
        self.groups[group] = self.groups[group].set_column(column, field, values)


def mutate(path: Path, chance: Chance) -> str:
    """Makes something of a file wrong; the name of what."""
    what = chance.choice((bytes_changed, bytes_changed, bytes_changed, cut_short, *_OF_PARTS))
    if what in (bytes_changed, cut_short):
        what(path, chance)  # type: ignore[operator]
        return str(what.__name__)
    parts = Parts(path)
    what(parts, chance)  # type: ignore[operator]
    parts.write(path)
    return str(what.__name__)


def bytes_changed(path: Path, chance: Chance) -> None:
    data = bytearray(path.read_bytes())
    how = chance.random()
    for _ in range(chance.choice((1, 1, 2, 5, 30))):
        first = max(len(data) - 20_000, 0) if chance.random() < 0.5 else 0
        at, size = chance.randrange(first, len(data)), chance.randrange(64)
        if how < 0.6:
            data[at] ^= 1 << chance.randrange(8)
        elif how < 0.8:
            data[at] = chance.choice((0, 255, 127, 128, chance.randrange(256)))
        else:
            data[at : at + size] = chance.randbytes(size) if how < 0.9 else b""
    path.write_bytes(data)


def cut_short(path: Path, chance: Chance) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))] + b"\0" * chance.choice((0, 0, 70_000)))


def head_changed(parts: Parts, chance: Chance) -> None:
    number = chance.randrange(len(parts.groups))
    column = len(parts.fields) - 1
    text = _changed_json(parts.groups[number]["head"][0].as_py(), chance)
    if chance.random() < 0.1:
        text = chance.choice(_TEXTS)
    heads = [text] + [None] * (len(parts.groups[number]) - 1)
    parts.replace(number, column, pa.array(heads, pa.string()))


def metadata_changed(parts: Parts, chance: Chance) -> None:
    key, how = chance.choice(list(parts.metadata)), chance.random()
    if how < 0.7:
        with_text = parts.metadata[key].decode(errors="replace")
        parts.metadata[key] = _changed_json(with_text, chance).encode()
    elif how < 0.8:
        del parts.metadata[key]
    elif how < 0.9:
        parts.metadata[key] = chance.choice((b"", b"{", b"\xff\xfe", b"[" * 200_000, b"null"))
    else:
        parts.metadata[b"memtap.more"] = b"x" * 10_000_000


def tracer_changed(parts: Parts, chance: Chance) -> None:
    origin = json.loads(parts.metadata[b"memtap.origin"])
    origin["tracer"] = chance.choice(("pagecache", "faults", "malloc", "slab", "oom", "x"))
    parts.metadata[b"memtap.origin"] = json.dumps(origin).encode()


def values_changed(parts: Parts, chance: Chance) -> None:
    numbers = np.random.default_rng(chance.randrange(1 << 30))
    for _ in range(chance.choice((1, 1, 2, 4))):
        group = chance.randrange(len(parts.groups))
        column = chance.randrange(len(parts.fields) - 1)
        values = parts.groups[group].column(column).to_numpy().copy()
        most = np.iinfo(values.dtype).max
        which = numbers.random(len(values)) < chance.choice((0.01, 0.2, 1.0))
        how = chance.randrange(6)
        if how == 0:
            values[which] = most
        elif how == 1:
            values[which] = 0
        elif how == 2:
            any_value = numbers.integers(0, most, len(values), values.dtype, endpoint=True)
            values[which] = any_value[which]
        elif how == 3:
            values = values[numbers.permutation(len(values))]
        elif how == 4:
            values[which] = most - values[which]
        else:
            values[which] += np.array(1, values.dtype)
        parts.replace(group, column, pa.array(values))


def type_changed(parts: Parts, chance: Chance) -> None:
    column, kind = chance.randrange(len(parts.fields)), chance.choice(_TYPES)
    parts.fields[column] = pa.field(parts.fields[column].name, kind)
    for number, group in enumerate(parts.groups):
        try:
            values = group.column(column).combine_chunks().cast(kind, safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            values = pa.nulls(len(group), kind)
        parts.replace(number, column, values)


def columns_changed(parts: Parts, chance: Chance) -> None:
    how, column = chance.random(), chance.randrange(len(parts.fields))
    names = [field.name for field in parts.fields]
    if how < 0.35:
        parts.fields.pop(column)
        parts.groups = [group.remove_column(column) for group in parts.groups]
        return
    if how < 0.5:
        parts.groups = [
            group.set_column(column, parts.fields[column], pa.nulls(len(group), field.type))
            for group, field in ((group, parts.fields[column]) for group in parts.groups)
        ]
        return
    if how < 0.75:
        names[column] = chance.choice(("x", "", "head", "ns", "tgid", "a\x1b[2Jb"))
    else:
        other = chance.randrange(len(names))
        names[column], names[other] = names[other], names[column]
    parts.fields = [field.with_name(name) for field, name in zip(parts.fields, names, strict=True)]


def groups_changed(parts: Parts, chance: Chance) -> None:
    groups = parts.groups
    parts.groups = chance.choice(
        (
            chance.sample(groups, len(groups)),
            groups * 3,
            groups[::-1],
            [],
            [group.slice(0, 0) for group in groups],
            [group.slice(1) for group in groups],
            [group.slice(0, 1) for group in groups],
            groups[:1] * 200,
        )
    )


_OF_PARTS: tuple[Callable[[Parts, Chance], None], ...] = (
    *(head_changed, head_changed, head_changed, head_changed, metadata_changed),
    *(values_changed, values_changed, values_changed, type_changed, type_changed),
    *(columns_changed, columns_changed, groups_changed, tracer_changed),
)


def _changed_json(text: str, chance: Chance) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return "{"
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        path = chance.choice(list(_places(value)))
        if path:
            _change(value, path, chance)
        elif chance.random() < 0.1:
            return json.dumps(chance.choice(_BAD))
    return json.dumps(value)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    members: list[Any] = []
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value[:60]))
    for key, member in members:
        yield from _places(member, (*path, key))


def _change(value: Any, path: tuple[Any, ...], chance: Chance) -> None:
    for key in path[:-1]:
        value = value[key]
    key, how = path[-1], chance.random()
    if how < 0.65:
        value[key] = copy.deepcopy(chance.choice(_BAD))
    elif how < 0.8:
        del value[key]
    elif how < 0.85 and isinstance(value, dict):
        value["extra"] = 1
    elif isinstance(value[key], (list, str)):
        value[key] = value[key] * chance.choice((0, 2, 1000 if isinstance(value[key], str) else 3))
    elif isinstance(value[key], (int, float)):
        value[key] = -value[key]
