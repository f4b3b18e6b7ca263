"""Records as they come out of the perf buffers, packed by hand, into arrays."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from memtap.bpf.stream import RECORD_EVENTS, RECORD_NAME, RECORD_RUNS, NameRecord, Stream, dtype_of
from tests.bpf.ctext import LAYOUTS

MEMBERS = NameRecord._fields[:-1]
PADDING = b"\xaa" * 4  # of perf, to a multiple of 8 bytes with its own header of 4


def pack(name: str, **members: int) -> bytes:
    row = np.zeros(1, dtype_of(LAYOUTS[name]))
    for member, value in members.items():
        row[member] = value
    return row.tobytes()


def batch(base_ns: int, *events: tuple[int, int]) -> bytes:
    """Events, each the time since `base_ns` and a file."""
    head = struct.pack("=IIQ", RECORD_EVENTS, len(events), base_ns)
    return head + b"".join(pack("event", dt_ns=dt, file=file) for dt, file in events)


def runs(epoch: int, *table: tuple[int, int]) -> bytes:
    """Runs, each an epoch and its hits."""
    head = struct.pack("=IIQ", RECORD_RUNS, epoch, 5)
    packed = (pack("run", epoch=epoch, hits=hits) for epoch, hits in table)
    return head + b"".join(packed) + struct.pack("=Q", 1)


def name(*names: bytes, **members: int) -> bytes:
    text = b"".join(part + b"\0" for part in names)
    return pack("name", record=RECORD_NAME, used=len(text), **members) + text


def nameless(**members: Any) -> NameRecord:
    return NameRecord(**(dict.fromkeys(MEMBERS, 0) | {"names": b""} | members))


def stream_of(*records: bytes) -> Stream:
    stream = Stream(LAYOUTS)
    for record in records:
        stream.add(record)
    return stream


def test_events_of_several_cpus_are_put_in_order_of_time() -> None:
    stream = stream_of(batch(100, (0, 1), (50, 2)), batch(90, (0, 3), (20, 4), (100, 5)))
    events, _, _ = stream.take()
    assert events["file"].tolist() == [3, 1, 4, 2, 5]
    assert events["ns"].tolist() == [90, 100, 110, 150, 190]


def test_events_of_one_moment_stay_as_they_came() -> None:
    events, _, _ = stream_of(batch(100, (5, 1), (5, 2)), batch(105, (0, 3))).take()
    assert events["file"].tolist() == [1, 2, 3]


def test_a_time_takes_all_64_bits() -> None:
    events, _, _ = stream_of(batch(2**63, (2**32 - 1, 1))).take()
    assert events["ns"].tolist() == [2**63 + 2**32 - 1]


def test_every_member_comes_through() -> None:
    sizes = {name: size for name, _, size in LAYOUTS["event"]["members"] if name != "dt_ns"}
    values = {name: number for number, name in enumerate(sizes, 1)}
    record = struct.pack("=IIQ", RECORD_EVENTS, 1, 77) + pack("event", dt_ns=3, **values)
    events, _, _ = stream_of(record).take()
    assert {name: int(events[name][0]) for name in events.dtype.names} == values | {"ns": 80}


def test_what_perf_pads_a_record_with_is_no_event() -> None:
    events, _, _ = stream_of(batch(100, (0, 1)) + PADDING + bytes(64)).take()
    assert events["file"].tolist() == [1]


def test_runs_of_an_earlier_epoch_are_over() -> None:
    _, counted, _ = stream_of(runs(6, (7, 10), (6, 20), (0, 30), (7, 40)) + PADDING).take()
    assert counted["hits"].tolist() == [10, 40]


def test_runs_of_several_cpus_are_all_kept() -> None:
    _, counted, _ = stream_of(runs(0, (1, 10)), runs(3, (4, 20))).take()
    assert counted["hits"].tolist() == [10, 20]


def test_a_file_is_named_from_itself_up() -> None:
    head = {member: number for number, member in enumerate(MEMBERS, 2**31)} | {"ino": 2**64 - 1}
    record = name(b"passwd", b"etc", **head) + PADDING
    _, _, names = stream_of(record, name(b"x")).take()
    assert names == [nameless(names=b"x\0"), NameRecord(**head, names=b"passwd\0etc\0")]


def test_names_that_several_cpus_tell_are_put_in_order_of_time() -> None:
    """Else a file that was deleted on one CPU is not, when another's records are read after."""
    deleted, before = name(ino=3, ns=9), name(b"x", ino=3, ns=8)
    _, _, names = stream_of(deleted, before).take()
    assert [record.ns for record in names] == [8, 9]


def test_a_block_device_has_no_name_but_a_number() -> None:
    _, _, names = stream_of(name(ino=3, rdev=5)).take()
    assert names == [nameless(ino=3, rdev=5)]


def test_what_was_taken_is_gone() -> None:
    stream = stream_of(batch(1, (0, 1)), runs(0, (1, 10)), name(b"x"))
    assert [len(part) for part in stream.take()] == [1, 1, 1]
    assert [len(part) for part in stream.take()] == [0, 0, 0]


def test_nothing_is_an_empty_array_of_the_same_type() -> None:
    events, counted, _ = stream_of().take()
    assert events.dtype == stream_of(batch(1, (0, 1))).take()[0].dtype
    assert counted.dtype == dtype_of(LAYOUTS["run"])
