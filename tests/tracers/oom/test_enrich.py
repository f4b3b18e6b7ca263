"""Victims become rows: sizes in bytes, why they were killed, and which others there were."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest

from memtap.bpf.stream import Events
from memtap.tracers.model.enricher import Taken
from memtap.tracers.oom.badness import ADJ_MIN, badness, host_scope
from memtap.tracers.oom.enrich import CANDIDATES, OomEnricher
from memtap.tracers.oom.kmsg import KernelLog, Verdict
from memtap.tracers.oom.rows import Constraint, Kind
from tests.tracers.sources import Given, make_drained

PAGE = os.sysconf("SC_PAGESIZE")
SIZES = ("total_vm", "anon", "file", "shmem", "swap")
EVENT = np.dtype(
    [
        *((name, "u8") for name in ("ns", "cgroup", "pgtables", *SIZES)),
        *((f"{name}_{word}", "u8") for name in ("comm", "trigger_comm") for word in (0, 1)),
        *((name, "u4") for name in ("tgid", "trigger", "uid")),
        *(("adj", "u2"), ("known", "u1")),
    ]
)
GONE = 1 << 30  # above every pid_max


class Said(KernelLog):
    """A log that says the same of everyone."""

    def __init__(self, verdict: Verdict) -> None:
        self._said = verdict

    def verdict(self, pid: int, patience_s: float) -> Verdict:
        return self._said


def killed(**members: int | bytes) -> Events:
    event = np.zeros(1, EVENT)
    usual = {"ns": 5, "tgid": GONE, "trigger": 8, "uid": 7, "known": 1, "adj": -5 & 0xFFFF}
    for name, value in (usual | members).items():
        if isinstance(value, bytes):
            event[f"{name}_0"], event[f"{name}_1"] = np.frombuffer(value.ljust(16, b"\0"), "u8")
        else:
            event[name] = value
    return event


def taken(verdict: Verdict, *events: Events) -> Taken:
    made = OomEnricher(Given(received=len(events)), Said(verdict))
    made.polled()
    return made.enrich(make_drained(np.concatenate(events)), last=True)


def test_a_victims_sizes_are_bytes_and_its_names_are_told() -> None:
    sizes = dict(zip(SIZES, range(1, 6), strict=True))
    event = killed(**sizes, pgtables=4096, comm=b"hog", trigger_comm=b"sixteen-letters")
    found = taken(Verdict(Constraint.MEMCG, "/a", "/a/b"), event)
    (row,) = found.rows
    assert [row[name] for name in SIZES] == [pages * PAGE for pages in sizes.values()]
    assert (row["pgtables"], row["adj"], row["kind"]) == (4096, -5, Kind.VICTIM)
    assert found.texts["victim"] == {GONE: "hog"}
    assert found.texts["trigger"] == {8: "sixteen-letters"}
    assert found.texts["cgroup"] == {GONE: "/a/b"}
    assert found.texts["limited"] == {GONE: "/a"}


def test_a_victim_that_the_kernel_does_not_name_stays_without() -> None:
    assert taken(Verdict(Constraint.UNKNOWN), killed(known=0, comm=b"hog")).texts["victim"] == {}


@pytest.mark.parametrize(
    ("constraint", "scope"),
    [
        (Constraint.UNKNOWN, 0),
        (Constraint.MEMCG, 0),
        (Constraint.GLOBAL, host_scope()),
        (Constraint.CPUSET, host_scope()),
    ],
)
def test_what_was_short_says_how_much_there_is(constraint: Constraint, scope: int) -> None:
    verdict = Verdict(constraint, "/no/such/cgroup" if constraint is Constraint.MEMCG else "")
    assert taken(verdict, killed()).rows["scope"][0] == scope


def test_the_others_come_with_the_worst_first_and_without_the_victim() -> None:
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(CANDIDATES + 1)]
    try:
        rows = taken(Verdict(Constraint.GLOBAL), killed(tgid=os.getpid())).rows[1:]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert len(rows) == CANDIDATES
    assert set(rows["kind"]) == {Kind.CANDIDATE}
    assert set(rows["trigger"]) == {os.getpid()}
    assert not {1, os.getpid()} & {*rows["tgid"].tolist()}
    assert ADJ_MIN not in rows["adj"]
    bad = [
        badness(
            sum(int(row[name]) for name in (*SIZES[1:], "pgtables")), int(row["adj"]), scope, PAGE
        )
        for row, scope in zip(rows, rows["scope"].tolist(), strict=True)
    ]
    assert bad == sorted(bad, key=lambda points: -(points or 0))


def test_where_nobody_knows_what_was_short_no_others_are_told() -> None:
    assert len(taken(Verdict(Constraint.UNKNOWN), killed()).rows) == 1


def test_each_victim_is_told_with_the_others_of_its_own_time() -> None:
    made = OomEnricher(Given(received=1), Said(Verdict(Constraint.GLOBAL)))
    made.polled()
    rows = made.enrich(make_drained(np.concatenate([killed(), killed(ns=6)])), last=True).rows
    ns = rows[rows["kind"] == Kind.CANDIDATE]["ns"]
    assert set(ns.tolist()) == {5}  # nobody looked for the second
