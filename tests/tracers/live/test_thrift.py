"""Thrift: what Arrow writes comes back as it was, and so does what we write."""

from __future__ import annotations

import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.tracers.live.thrift import Items, Struct, Type, decode, encode, spans

INTEGERS = st.integers(-(2**63), 2**63 - 1)
SIMPLE = {
    Type.I16: st.integers(-(2**15), 2**15 - 1),
    Type.I32: st.integers(-(2**31), 2**31 - 1),
    Type.I64: INTEGERS,
    Type.BINARY: st.binary(max_size=300),
    Type.BYTE: st.integers(0, 255),
}


def fields(values: st.SearchStrategy[tuple[Type, object]]) -> st.SearchStrategy[Struct]:
    """Their numbers ascend, also by more than 15."""
    return st.dictionaries(st.integers(1, 300), values, max_size=8).map(
        lambda found: dict(sorted(found.items()))
    )


def values() -> st.SearchStrategy[tuple[Type, object]]:
    simple = st.one_of(
        *(st.tuples(st.just(kind), of) for kind, of in SIMPLE.items()),
        st.tuples(st.sampled_from([Type.TRUE, Type.FALSE]), st.none()),
    )
    lists = st.one_of(
        *(
            st.lists(of, max_size=40).map(lambda found, kind=kind: Items(kind, found))
            for kind, of in SIMPLE.items()
        )
    )
    flat = st.one_of(simple, st.tuples(st.just(Type.LIST), lists))
    return st.one_of(flat, st.tuples(st.just(Type.STRUCT), fields(flat)))


@given(fields(values()))
def test_what_is_written_comes_back(struct: Struct) -> None:
    assert decode(encode(struct)) == struct


@pytest.mark.parametrize("columns", [1, 14, 15, 16, 40])
def test_what_arrow_wrote_is_written_as_it_was(columns: int) -> None:
    out = io.BytesIO()
    names = [f"column {number}" for number in range(columns)]
    table = pa.table({name: [1, None, -(2**62)] for name in names}, metadata={"a": "b" * 200})
    pq.write_table(table, out, row_group_size=1)
    (size,) = struct.unpack("<I", out.getvalue()[-8:-4])
    footer = out.getvalue()[-8 - size : -8]
    assert encode(decode(footer)) == footer


def test_a_struct_may_be_encoded_already() -> None:
    inner: Struct = {1: (Type.I32, 7)}
    outer: Struct = {2: (Type.LIST, Items(Type.STRUCT, [encode(inner), inner]))}
    assert decode(encode(outer)) == {2: (Type.LIST, Items(Type.STRUCT, [inner, inner]))}


def test_fields_are_found_where_they_stand() -> None:
    column = {1: (Type.I32, 7), 2: (Type.TRUE, None), 16: (Type.STRUCT, {3: (Type.BYTE, 9)})}
    groups = Items(Type.STRUCT, [{1: (Type.STRUCT, column)}, {1: (Type.STRUCT, column)}])
    data = encode({2: (Type.BINARY, b"before"), 4: (Type.LIST, groups), 5: (Type.I16, 1)})
    found = [data[start:end] for start, end in spans(data, (4, 1, 16))]
    assert found == [bytes([14 << 4 | Type.STRUCT, 3 << 4 | Type.BYTE, 9, 0])] * 2
    assert [data[start:end] for start, end in spans(data, (5,))] == [bytes([1 << 4 | Type.I16, 2])]
    assert list(spans(data, (4, 3))) == []


def test_a_field_that_is_no_struct_has_none_in_it() -> None:
    with pytest.raises(ValueError, match="a value where a struct should be"):
        list(spans(encode({4: (Type.I32, 1)}), (4, 1)))
