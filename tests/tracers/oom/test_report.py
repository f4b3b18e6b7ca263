"""The reports of the OOM killer, out of rows and log lines made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memtap.bpf.stream import Events
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import Report
from memtap.tracers.oom.badness import badness, score_of
from memtap.tracers.oom.kmsg import Verdict, Verdicts
from memtap.tracers.oom.report import FORMULA, Oom
from memtap.tracers.oom.rows import ROW, Constraint, Kind
from tests.tracers.builders import make_chunk, make_interval, make_origin

PAGE = 4096
MIB = 1 << 20
TEXTS = {
    "victim": {100: "hog"},
    "trigger": {200: "cat"},
    "cgroup": {100: "/a/b"},
    "limited": {100: "/a"},
}
PROCESSES = {100: Process("later", 1, "daemon", "/"), 300: Process("next", 0, "root", "/a")}


def victim(**members: int) -> dict[str, int]:
    usual = {"kind": Kind.VICTIM, "tgid": 100, "trigger": 200, "known": 1, "uid": 7, "adj": -5}
    sizes = {"total_vm": 90 * MIB, "anon": 60 * MIB, "file": 3 * MIB, "pgtables": MIB}
    return usual | sizes | {"constraint": Constraint.MEMCG, "scope": 64 * MIB} | members


def candidate(**members: int) -> dict[str, int]:
    usual = {"kind": Kind.CANDIDATE, "tgid": 300, "trigger": 100, "known": 1, "anon": MIB}
    return usual | {"scope": 64 * MIB} | members


def rows_of(*several: dict[str, int]) -> Events:
    rows = np.zeros(len(several), ROW)
    for row, members in zip(rows, several, strict=True):
        for name, value in members.items():
            row[name] = value
    return rows


def chunk(*several: dict[str, int], **other: Any) -> Chunk:
    usual = {"until_ns": 10**9, "processes": PROCESSES, "texts": TEXTS, "last": False}
    return replace(make_chunk(**(usual | other)), rows=rows_of(*several))


def report(*several: dict[str, int], explains: bool = False, **other: Any) -> Report:
    found = Oom(make_origin(tracer="oom", **other), explains).feed(chunk(*several))
    assert found is not None
    return found


def test_a_victim_is_told_as_the_kernel_saw_it_not_as_it_is_found_later() -> None:
    (row,) = report(victim(ns=10**9 - 250_000_000)).rows
    assert (row["pid"], row["comm"], row["uid"], row["oom_score_adj"]) == (100, "hog", 7, -5)
    assert (row["trigger_pid"], row["trigger_comm"]) == (200, "cat")
    assert (row["cgroup"], row["limited_cgroup"], row["constraint"]) == ("/a/b", "/a", "memcg")
    sizes = ("total_vm", "anon_rss", "file_rss", "shmem_rss", "swap", "pgtables")
    assert [row[f"{name}_bytes"] // MIB for name in sizes] == [90, 60, 3, 0, 0, 1]
    assert row["time"] == "2026-01-31T12:00:00.750Z"


def test_of_a_victim_of_which_just_the_number_is_known_the_rest_is_none() -> None:
    (row,) = report(victim(known=0, tgid=300)).rows
    assert (row["pid"], row["comm"], row["uid"]) == (300, "next", 0)
    assert row["anon_rss_bytes"] is row["oom_score_adj"] is row["limited_cgroup"] is None


def test_nothing_is_said_of_an_interval_without_a_kill_but_of_the_first_and_the_last() -> None:
    oom = Oom(make_origin())
    told = [oom.feed(each) for each in (chunk(), chunk(), chunk(victim()), chunk())]
    assert [found and len(found.rows) for found in told] == [0, None, 1, None]
    last = oom.feed(chunk(last=True))
    assert last is not None and last.rows == []
    assert last.goes_on  # it must not be taken to say that nobody was killed
    assert not report().goes_on


def test_kills_before_the_end_of_an_interval_wait_for_it() -> None:
    oom = Oom(make_origin())
    assert oom.feed(chunk(victim(ns=10**9), interval=None)) is None
    found = oom.feed(chunk(until_ns=3 * 10**9))
    assert found is not None
    assert found.rows[0]["time"] == "2026-01-31T11:59:59.000Z"
    assert found.audit["events"] == 1


def test_the_explanation_compares_points() -> None:
    told = report(victim(), candidate(), candidate(tgid=301, adj=500), explains=True).section(
        "explanation"
    )
    assert told is not None
    why, formula = told
    assert formula == FORMULA
    assert why.startswith(
        "hog (100) was killed: cat (200) asked for memory, and cgroup /a reached its limit. "
        # 64 MiB in memory and in tables, less 5 times 16 pages.
        "It had 16,304 points (64,512 KiB in memory, 0 in swap, 1,024 of page tables, "
        "-320 by its oom_score_adj of -5)."
    )
    assert "next (300) had 256 points (1,024 KiB in memory" in why
    assert "? (301) had 8,256 points" in why


def test_the_audit_says_what_the_kernel_counted_and_we_did_not_see() -> None:
    interval = make_interval(kernel={"oom_kill": 3})
    found = Oom(make_origin()).feed(chunk(victim(constraint=0), interval=interval))
    assert found is not None
    assert found.audit["accuracy"] == "bounded"
    assert found.audit["notes"] == [
        "the kernel log does not say what was short of memory for 1 of them",
        "2 more were killed by the kernel's own count (oom_kill)",
    ]
    filtered = Oom(make_origin(filtered=True)).feed(chunk(victim(), interval=interval))
    assert filtered is not None and filtered.audit["accuracy"] == "exact"


@pytest.mark.parametrize(
    ("held", "adj", "score"),
    [
        (0, 0, 666),
        (0, -1000, 0),
        (1 << 30, 0, 694),  # 42 thousandths of 6,171,021 pages
        (1 << 30, 1000, 1361),
        (0, -500, 334),
        (1 << 30, -999, 29),
    ],
)
def test_the_score_is_that_of_c(held: int, adj: int, score: int) -> None:
    assert score_of(held, adj, 6_171_021 * PAGE, PAGE) == score


def test_who_must_not_be_killed_has_no_points() -> None:
    assert badness(1 << 30, -1000, 1 << 34, PAGE) is None
    assert badness(1 << 30, -999, 1 << 34, PAGE) == (1 << 30) - 999 * 4194 * PAGE


WHY = "oom-kill:constraint={},nodemask=(null),cpuset=/,mems_allowed=0{},task={},pid=7,uid=0"


@pytest.mark.parametrize(
    ("constraint", "middle", "verdict"),
    [
        (
            "CONSTRAINT_MEMCG",
            ",oom_memcg=/a,task_memcg=/a/b",
            Verdict(Constraint.MEMCG, "/a", "/a/b"),
        ),
        ("CONSTRAINT_NONE", ",global_oom,task_memcg=/x", Verdict(Constraint.GLOBAL, "", "/x")),
        ("CONSTRAINT_CPUSET", ",global_oom,task_memcg=/", Verdict(Constraint.CPUSET, "", "/")),
        ("CONSTRAINT_MEMORY_POLICY", ",global_oom", Verdict(Constraint.MEMPOLICY)),
    ],
)
@pytest.mark.parametrize("name", ["hog", "a,pid=9,uid=1", ",oom_memcg=/y"])
def test_the_kernel_says_why(constraint: str, middle: str, verdict: Verdict, name: str) -> None:
    verdicts = Verdicts()
    verdicts.hear("hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0")
    verdicts.hear(WHY.format(constraint, middle, name))
    assert 7 not in verdicts.killed
    verdicts.hear(f"Memory cgroup out of memory: Killed process 7 ({name}) total-vm:3kB")
    assert 7 in verdicts.killed
    assert verdicts.take(7) == verdict
    assert verdicts.take(7) == Verdict(Constraint.UNKNOWN)


@pytest.mark.parametrize(
    ("message", "constraint"),
    [
        ("Memory cgroup out of memory", Constraint.MEMCG),
        ("Out of memory", Constraint.GLOBAL),
        ("Out of memory (oom_kill_allocating_task)", Constraint.GLOBAL),
    ],
)
def test_where_the_reason_was_left_out_the_last_line_tells(
    message: str, constraint: Constraint
) -> None:
    verdicts = Verdicts()
    verdicts.hear(f"{message}: Killed process 8 (hog) total-vm:35372kB, anon-rss:32640kB")
    assert verdicts.take(8) == Verdict(constraint)
