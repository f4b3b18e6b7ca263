"""Numbers and names that both C and Python write down are the same."""

from __future__ import annotations

import re

import numpy as np
import pytest

from memtap.bpf import filters, session, spills, stream
from memtap.bpf.plan import Variant
from memtap.tracers.host.files import BUCKETS, NameFlag, bucket_of
from memtap.tracers.live import noted, targets
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN
from memtap.tracers.pagecache.rows import ROW
from tests.bpf.ctext import (
    ARGUMENTS,
    BATCH,
    CGROUPS,
    FILTER,
    LAYOUTS,
    LOSSES,
    NAMES,
    PROGRAM,
    enumerators,
    members,
    number,
)

_COUNTERS = ("LOST", "MAP_FULL", "CAUGHT", "SPILLED", "REFUSED", "OWN")


def test_kinds_of_records_are_the_same() -> None:
    names = ("RECORD_EVENTS", "RECORD_NAME", "RECORD_RUNS", "RECORD_FRAME")
    assert enumerators(BATCH, "RECORD_EVENTS") == {name: getattr(stream, name) for name in names}


def test_the_loss_counters_are_in_the_order_in_which_they_are_read() -> None:
    counts = enumerators(LOSSES, "COUNT_LOST")
    read = (
        session._LOST,
        session._MAP_FULL,
        session._CAUGHT,
        session._SPILLED,
        session._REFUSED,
        session._OWN,
    )
    assert tuple(counts.values()) == (*read, len(read))
    assert list(counts) == [f"COUNT_{name}" for name in _COUNTERS] + ["COUNTS"]


def test_what_flush_answers_is_the_same() -> None:
    answers = enumerators(BATCH, "FLUSH_BUSY")
    assert list(answers.values()) == [session._BUSY, session._FULL, session._NO_RING]


def test_a_lane_is_laid_out_as_it_is_read_from_an_offline_cpu() -> None:
    head = re.search(
        r"struct lane {(.*?)struct runs runs;\s+struct batch batch;\s+}", BATCH, re.DOTALL
    )
    assert head
    sizes = re.findall(r"u(\d+) \w+(?:\[(\d+)\])?;", head[1])
    assert sum(int(bits) // 8 * int(count or 1) for bits, count in sizes) == stream.LANE_HEAD_BYTES
    assert number(BATCH, "RUNS") == stream.RUNS


def test_sums_of_what_was_spilled_are_the_same() -> None:
    assert members(BATCH, "spilled") == dict.fromkeys(spills._SUMS.names or (), 8)


def test_there_are_as_many_buckets() -> None:
    assert number(PROGRAM, "BUCKETS") == BUCKETS


@pytest.mark.parametrize("file", [0, 12345, 2**52 + 7, 2**64 - 1])
def test_a_file_is_in_the_same_bucket(file: int) -> None:
    found = re.search(r"int number = who->(file .*BUCKETS.*);", PROGRAM)
    assert found
    bucket = bucket_of(np.array([file], np.uint64))
    assert eval(found[1], {"file": file, "BUCKETS": BUCKETS}) == bucket[0]


def test_flags_of_names_are_the_same() -> None:
    assert enumerators(NAMES, "DELETED") == {flag.name: flag for flag in NameFlag}


def test_a_ring_is_measured_in_full_lanes() -> None:
    assert number(BATCH, "LANE_BYTES") == session._LANE_BYTES


def test_a_lane_has_room_for_its_batch_and_its_runs() -> None:
    runs = LAYOUTS["batch"]["size"] + number(BATCH, "RUNS") * LAYOUTS["run"]["size"] + 8
    events = (number(BATCH, "LANE_BYTES") - runs - 64) // LAYOUTS["event"]["size"]
    batch = LAYOUTS["batch"]["size"] + events * LAYOUTS["event"]["size"]
    assert 8 + runs + batch <= number(BATCH, "LANE_BYTES")


def test_processes_are_marked_in_blocks_of_the_same_size() -> None:
    assert f"u8 marks[{filters.TGIDS_PER_BLOCK}];" in FILTER


def test_marks_of_processes_are_the_same() -> None:
    marks = enumerators(FILTER, "FOREIGN")
    assert marks == {"FOREIGN": 0, "FOLLOWED": session._FOLLOWED, "PENDING": session._PENDING}


def test_what_had_been_counted_at_exec_has_as_many_numbers() -> None:
    assert members(FILTER, "counted") == dict.fromkeys(members(FILTER, "counted"), 8)
    called = {"minor": "ac_minflt", "major": "ac_majflt", "cpu_ns": "cpu_run_virtual_total"}
    read = tuple(called.get(name, name) for name in members(FILTER, "counted"))
    assert read == targets._COUNTED
    assert len(read) == session._AT_EXEC


def test_what_is_noted_of_processes_is_as_long() -> None:
    assert number(CGROUPS, "CGROUP_NAME") == noted._NAME_BYTES
    assert number(ARGUMENTS, "ARGUMENT_BYTES") == noted.ARGUMENT_BYTES


def test_a_comm_is_as_long() -> None:
    found = re.search(r"struct comm {\s*u64 words\[(\d+)\];", FILTER)
    assert found
    assert int(found[1]) * 8 == filters.COMM_BYTES


def test_a_row_has_every_member_of_an_event() -> None:
    event = members(PROGRAM, "event")
    event["ns"] = 2 * event.pop("dt_ns")
    assert {name: ROW[name].itemsize for name in ROW.names or ()} == event


def test_the_filler_between_members_is_none() -> None:
    for struct in LAYOUTS.values():
        assert sum(size for _, _, size in struct["members"]) == struct["size"]


@pytest.mark.parametrize("variant", PLAN.variants, ids=lambda variant: variant.name)
def test_what_a_variant_attaches_and_selects_is_in_the_program(variant: Variant) -> None:
    for probe in variant.probes:
        assert re.search(rf"^int {probe.function}\(", PROGRAM, re.MULTILINE)
    assert not variant.defines or any(name in PROGRAM for name in variant.defines)


def test_files_are_named_where_the_program_is_told_to() -> None:
    assert f"#ifdef {NAME_FILES.split()[0]}\n" in PROGRAM
