"""`memtap schema` tells what JSON holds: nothing else, and all of it."""

from __future__ import annotations

import json
import os
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from memtap.tracers import NAMES, load
from tests.cli.calling import memtap
from tests.fuzz.making import recording

OTHERS = ["ps", "pmap", "ledger", "doctor"]


def validator(report: str) -> Draft202012Validator:
    schema = json.loads(memtap("schema", report).out)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def asked(name: str) -> list[list[str]]:
    """Options that ask a recording for each grouping, and for each section."""
    tracer = load(name)
    pairs = [",".join(pair) for pair in permutations(tracer.keys, 2)][:6]
    flags = [f"--{flag.name}" for flag in tracer.flags if flag.section and not flag.takes_file]
    also = [[f"--{flag.name}"] for flag in tracer.flags if flag.columns and not flag.looks]
    return [*(["-b", by, "--wide"] for by in (*tracer.keys, *pairs)), flags, *also]


@pytest.mark.parametrize("name", NAMES)
def test_every_replay_is_as_the_schema_says(name: str, tmp_path: Path) -> None:
    path = recording(load(name).plan.name, tmp_path / "recording")
    check = validator(name)
    for options in asked(name):
        done = memtap(name, *options, "-f", "json", "--from", path)
        assert (done.status, done.err) == (0, "")
        found = objects(done.out)
        assert found
        for each in found:
            check.validate(each)


@pytest.mark.parametrize(
    "command",
    [
        *("ps", "ps -b user", "ps -b cgroup,comm", "ps --tree", "ps --wide", "ps 0.1 2"),
        *("ps --numa", "ps --numa -p 2 --wide", "pmap {own} --numa"),
        *("ps 0.1 1 --wide", "ps -b process,cgroup --wide"),
        *("oom --scores", "oom --scores --explain 0.1 2"),
        *("ledger", "ledger -b process --wide", "ledger -b user", "ledger 0.1 2"),
        *("ledger --explain", "ledger -b cgroup --explain", "ledger -b cgroup 0.1 2"),
        *("malloc --heap -p {own}", "malloc --heap --explain --wide -p {own}"),
        *("pmap {own}", "pmap {own} --wide", "pmap {own} -x", "pmap {own} --tables -k"),
    ],
)
def test_what_is_read_from_proc_is_as_the_schema_says(command: str) -> None:
    done = memtap(*command.format(own=os.getpid()).split(), "-f", "json")
    assert done.status == 0
    check = validator(command.split()[0])
    for each in objects(done.out):
        check.validate(each)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_a_schema_refuses_what_a_report_does_not_have(name: str) -> None:
    schema = json.loads(memtap("schema", name).out)
    for each in schema.get("anyOf", [schema]):
        example = {"report": each["properties"]["report"]["const"], "schema": 1, "rows": []}
        assert not Draft202012Validator(schema).is_valid(example)  # it lacks time and audit
        rows = each["properties"]["rows"]["items"]
        assert rows["additionalProperties"] is False
        assert set(rows["required"]) <= set(rows["properties"])


def test_every_column_says_what_it_means() -> None:
    for name, schema in json.loads(memtap("schema").out).items():
        for each in schema.get("anyOf", [schema]) if name != "doctor" else ():
            rows = each["properties"]["rows"]["items"]["properties"]
            assert [column for column, said in rows.items() if not said["description"]] == []


def test_a_report_that_there_is_not_is_refused() -> None:
    done = memtap("schema", "nope")
    assert (done.status, done.out) == (2, "")
    assert "'nope' is not one of" in done.err
