"""memtap in a machine that `vagrant up` made, on a workload whose answer is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.vagrant.machine import Machine

pytestmark = pytest.mark.vagrant

# At most so many pages are touched, and blocks taken, by the loader and libc besides demo's own.
OTHERS = 16

Row = dict[str, Any]


@dataclass
class Traced:
    """A run of demo under memtap.

    Attributes:
        report: what memtap says of it.
        steps: what demo says itself.
    """

    report: dict[str, Any]
    steps: dict[str, dict[str, int]]

    def pages(self, *steps: str) -> int:
        return sum(self.steps[step]["pages"] for step in steps)

    def minor(self, **keys: str) -> int:
        """Minor faults in the rows that have these keys."""
        rows = [row for row in self.report["rows"] if keys.items() <= row.items()]
        return sum(row["minor"] for row in rows)


def trace_demo(machine: Machine, command: str) -> Traced:
    lines = machine.ssh(f"sudo memtap {command} --format json -- demo").splitlines()
    steps, report = sorted(map(json.loads, lines), key=lambda line: "report" in line)
    return Traced(report, steps)


@pytest.fixture(scope="session")
def faults(machine: Machine) -> Traced:
    return trace_demo(machine, "faults -b region,cause")


@pytest.fixture(scope="session")
def malloc(machine: Machine) -> dict[str, Row]:
    """The row of each path."""
    rows = trace_demo(machine, "malloc -b path").report["rows"]
    return {row["path"]: row for row in rows}


def test_small_blocks_fault_in_the_heap(faults: Traced) -> None:
    # The page where the one step ends is the one where the other begins.
    pages = faults.pages("small", "below_edge") - 1
    assert pages <= faults.minor(region="heap", cause="first-touch") <= pages + OTHERS


def test_large_blocks_and_those_of_the_thread_fault_in_mappings(faults: Traced) -> None:
    pages = faults.pages("large", "above_edge", "thread")
    assert pages <= faults.minor(region="anon", cause="first-touch") <= pages + OTHERS


def test_the_thread_faults_on_its_stack(faults: Traced) -> None:
    assert 1 <= faults.minor(region="thread-stack") <= OTHERS


def test_no_fault_is_missing(faults: Traced) -> None:
    audit = faults.report["audit"]
    assert (audit["lost"], audit["missed"], audit["map_full"]) == (0, 0, 0)
    assert audit["accuracy"] == "exact"
    assert sum(step["minor"] for step in faults.steps.values()) <= faults.minor()
    assert faults.minor() <= audit["kernel"]["ac_minflt"]


def test_malloc_takes_small_blocks_from_the_heap(malloc: dict[str, Row]) -> None:
    taken = 1000 * 1008 + 131_056
    assert taken <= malloc["brk"]["requested_bytes"] <= taken + 3 * (132 << 10)
    assert malloc["brk"]["faults"] >= taken // 4096


def test_malloc_maps_large_blocks(malloc: dict[str, Row]) -> None:
    assert malloc["mmap"]["calls"] == 2 * 21  # each is unmapped at the end
    assert malloc["mmap"]["requested_bytes"] == 20 * 303_104 + 135_168
    assert malloc["mmap"]["returned_bytes"] == malloc["mmap"]["requested_bytes"]
    assert malloc["mmap"]["faults"] == 20 * 74 + 32


def test_malloc_serves_the_thread_from_an_arena(malloc: dict[str, Row]) -> None:
    taken = 500 * 1008
    assert taken <= malloc["arena"]["requested_bytes"] <= taken + (132 << 10)
    assert taken // 4096 <= malloc["arena"]["faults"] <= taken // 4096 + OTHERS


def test_the_demonstration_shows_every_step_and_the_sum(machine: Machine) -> None:
    lines = machine.ssh("sudo memtap-demo").splitlines()
    assert sum(line.startswith('{"small": ') for line in lines) == 2
    assert any("mapped on their own" in line for line in lines)
    assert {line.split()[0] for line in lines if line} >= {"brk", "mmap", "arena", "other"}
