"""The commands ps and pmap, which read the processes of this very host."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from memtap.cli.arrange import Order, Tree
from memtap.cli.render import human
from memtap.tracers.model.report import Report
from memtap.tracers.ps.columns import PS_KEYS, pmap_columns, ps_columns
from tests.cli.calling import HOME, command, memtap, says, somebody, spawn

# In the contract's words.
PS = [
    "pid", "uid", "user", "comm", "args", "virt_bytes", "res_bytes", "shr_bytes", "pss_bytes",
    "uss_bytes", "hugetlb_bytes", "swap_bytes", "pgtables_bytes", "minor", "major",
    "threads", "peak_bytes", "oom_score", "oom_score_adj",
]  # fmt: skip
PMAP = [
    "start", "end", "size_bytes", "rss_bytes", "pss_bytes", "uss_bytes", "dirty_bytes",
    "hugetlb_bytes", "swap_bytes", "mode", "region", "mapping",
]  # fmt: skip
REPORT = ["report", "schema", "time", "interval_s", "rows", "audit"]
AUDIT = ["accuracy", "events", "lost", "missed", "map_full", "probes", "kernel", "notes"]

ME = os.getpid()
EVERYBODY_SEES = {"virt_bytes", "res_bytes", "shr_bytes", "pgtables_bytes", "minor", "oom_score"}


def the_report(*arguments: object) -> dict[str, Any]:
    done = memtap(*arguments, "-f", "json")
    assert done.status == 0, done.err
    (line,) = done.lines
    report: dict[str, Any] = json.loads(line)
    return report


@pytest.mark.parametrize(("words", "columns"), [(["ps", "-p", ME], PS), (["pmap", ME], PMAP)])
def test_the_json_is_that_of_the_contract(words: list[object], columns: list[str]) -> None:
    report = the_report(*words)
    assert list(report) == REPORT
    assert (report["report"], report["schema"], report["interval_s"]) == (words[0], 1, 0)
    assert list(report["audit"]) == AUDIT
    assert report["audit"]["accuracy"] == "exact"
    assert report["audit"]["events"] == len(report["rows"])
    assert {tuple(row) for row in report["rows"]} == {tuple(columns)}


@pytest.mark.parametrize(("words", "columns"), [(["ps"], PS), (["pmap", ME], PMAP)])
def test_the_csv_has_the_same_columns(words: list[object], columns: list[str]) -> None:
    done = memtap(*words, "-f", "csv")
    heading, *rows = csv.reader(io.StringIO(done.out))
    assert heading == ["time", *columns]
    assert rows
    assert {len(row) for row in rows} == {len(heading)}


@pytest.mark.parametrize(
    "words",
    [[], ["-k"], ["-b", "user"], ["-b", "comm"], ["-b", "user,comm"], ["-c", "bash"], ["0.1", "1"]],
)
def test_a_table_is_less_than_80_columns_wide(words: list[str]) -> None:
    done = memtap("ps", *words)
    assert done.status == 0, done.err
    assert max(map(len, done.lines)) < 80


def test_a_table_is_aligned_and_has_totals_below_a_rule() -> None:
    heading, *lines = memtap("ps", "-k").lines
    at = lines.index("-" * len(heading))
    rows, totals = lines[:at], lines[at + 1]
    assert len(rows) > 1
    assert heading.split()[:5] == ["PID", "USER", "CMD", "VIRT", "RES"]
    assert {len(line) for line in (heading, *rows, totals)} == {len(heading)}
    assert re.search(r"total of \d+ ", totals)


def test_totals_are_of_all_rows_and_one_row_needs_none() -> None:
    whole = memtap("ps").lines
    assert any("total of" in line for line in memtap("ps", "-r", 2).lines)
    assert len(memtap("ps", "-r", 2).lines) < len(whole)
    assert not any("total" in line for line in memtap("ps", "-p", ME).lines)


@pytest.mark.parametrize("name", ["res_bytes", "res", "RES", "RES_KB"])
def test_rows_are_ordered_by_a_column_however_it_is_named(name: str) -> None:
    sizes = [row["res_bytes"] for row in the_report("ps", "-s", name)["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) > 1


def test_units_are_in_the_headings_or_in_the_cells() -> None:
    assert "RES_KB" in memtap("ps", "-p", ME).lines[0]
    heading, row = memtap("ps", "-k", "-p", ME).lines[:2]
    assert "RES" in heading.split()
    assert re.fullmatch(r"\d+\.\d[KMG]", row.split()[heading.split().index("RES")])


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (4096, "4.0K"), (978944, "956.0K"), (1 << 20, "1.0M"), (-(3 << 29), "-1.5G")],
)
def test_sizes_are_written_as_smem_writes_them(size: int, text: str) -> None:
    assert human(size) == text


def test_wide_shows_every_column() -> None:
    heading = memtap("ps", "--wide", "-p", ME).lines[0].split()
    columns = ps_columns(("process",), "kib", changes=False, tree=False, wide=True)
    shown = sorted(columns, key=lambda column: column.kind in ("path", "line"))
    assert heading == [column.heading for column in shown]


def test_only_who_is_asked_for_is_shown() -> None:
    parent = os.getppid()
    pids = {row["pid"] for row in the_report("ps", "-p", ME, "-p", parent)["rows"]}
    assert pids == {ME, parent}
    assert len(the_report("ps", "-p", ME, "-p", ME)["rows"]) == 1
    comm = Path("/proc/self/comm").read_text().rstrip("\n")
    rows = the_report("ps", "-c", comm)["rows"]
    assert ME in {row["pid"] for row in rows}
    assert {row["comm"] for row in rows} == {comm}


@pytest.mark.parametrize("by", ["user", "cgroup", "comm", "user,comm"])
def test_groups_have_their_keys_and_a_count(by: str) -> None:
    report = the_report("ps", "-b", by)
    amounts = PS[5 : PS.index("peak_bytes")]
    keys = {"user": ["uid", "user"], "user,comm": ["uid", "user", "comm"]}.get(by, [by])
    assert [*report["rows"][0]] == [*keys, "processes", *amounts]
    assert sum(row["processes"] for row in report["rows"]) == report["audit"]["events"]


# The tree.


def forest(*rows: tuple[int, int, int]) -> Report:
    made = [{"pid": pid, "ppid": ppid, "res_bytes": res} for pid, ppid, res in rows]
    return Report("ps", "", 0.0, (), made, {})


def test_a_tree_has_children_below_their_parents_and_siblings_in_order() -> None:
    rows = (3, 2, 9), (4, 1, 8), (2, 1, 7), (5, 99, 6), (1, 0, 5)
    nested = Tree("res_bytes").arrange(forest(*rows)).rows
    assert [(row["pid"], row["depth"]) for row in nested] == [
        (5, 0),
        (1, 0),
        (4, 1),
        (2, 1),
        (3, 2),
    ]


def test_a_tree_loses_nobody_in_a_circle_and_is_as_deep_as_it_is() -> None:
    deep = [(pid, pid - 1, 0) for pid in range(1, 5000)]
    circle = (10001, 10002, 0), (10002, 10001, 0)
    nested = Tree("res_bytes").arrange(forest(*deep, *circle)).rows
    assert len(nested) == len(deep) + 2
    assert max(row["depth"] for row in nested) == len(deep) - 1


def test_the_tree_shows_us_below_our_parent() -> None:
    done = memtap("ps", "--tree", "-p", ME, "-p", os.getppid())
    heading, parent, child = done.lines[:3]
    assert heading.split()[-1] == "CMD"
    assert (int(parent.split()[0]), int(child.split()[0])) == (os.getppid(), ME)
    assert r" \_ " in child
    assert r" \_ " not in parent
    assert r"\_" not in json.dumps(the_report("ps", "--tree")["rows"])


def test_a_tree_is_of_processes() -> None:
    done = memtap("ps", "--tree", "-b", "user")
    assert done.status == 2
    assert "--tree" in done.err


# Intervals.


def test_each_interval_is_a_report_of_changes() -> None:
    done = memtap("ps", "0.05", "3", "-f", "json")
    reports = [json.loads(line) for line in done.lines]
    assert len(reports) == 3
    assert all(0.02 <= report["interval_s"] < 5 for report in reports)
    assert {tuple(row) for report in reports for row in report["rows"]} <= {tuple(PS)}


def test_growth_has_a_sign() -> None:
    columns = ps_columns(("process",), "kib", changes=True, tree=False)
    signed = {column.name for column in columns if column.change}
    assert signed == {*PS[5 : PS.index("peak_bytes")]} - {"minor", "major"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_last_report(number: int, tmp_path: Path) -> None:
    words = command("ps", "0.1", "-f", "json")
    with subprocess.Popen(words, cwd=HOME, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(number)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert all(json.loads(line)["interval_s"] > 0 for line in rest.splitlines())
    assert rest


def test_it_ends_with_those_it_was_to_look_at() -> None:
    with subprocess.Popen(["sleep", "1"]) as sleep:
        done = spawn("ps", "0.1", "-p", sleep.pid)
    assert (done.status, done.err) == (0, "")


def test_a_closed_pipe_ends_it() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = spawn("ps", "0.05", stdout=writer)
    os.close(writer)
    assert done.status == 0
    assert "Traceback" not in done.err


# pmap.


def test_pmap_comes_by_address_unless_it_is_sorted() -> None:
    starts = [row["start"] for row in the_report("pmap", ME)["rows"]]
    assert starts == sorted(starts)
    sizes = [row["pss_bytes"] for row in the_report("pmap", ME, "-s", "pss", "-r", 5)["rows"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5


def test_pmap_x_looks_like_that_of_procps() -> None:
    assert memtap("pmap", "-x", ME).lines[0].split() == [
        "Address", "Kbytes", "RSS", "Dirty", "Mode", "Mapping",
    ]  # fmt: skip
    assert list(the_report("pmap", "-x", ME)["rows"][0]) == PMAP


def test_pmap_tells_of_huge_pages_if_asked() -> None:
    assert "HUGE_KB" in memtap("pmap", ME, "--wide").lines[0].split()
    assert "huge_bytes" in the_report("pmap", ME, "--wide")["rows"][0]


# Failures.


def test_a_process_that_is_not_there_is_said() -> None:
    for words in (["ps", "-p", 999999999], ["pmap", 999999999]):
        done = memtap(*words)
        says(done, "there is no process 999999999", "lists those that there are")
        assert done.out == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_elses_address_space_is_not_told() -> None:
    says(spawn("pmap", ME, **somebody()), f"process {ME} is not ours to read", "sudo")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_sees_of_others_what_everybody_sees() -> None:
    done = spawn("ps", "-p", ME, "-f", "json", **somebody())
    assert done.status == 0
    assert done.err.startswith("memtap: note: PSS, USS and SWAP of 1 process is not ours to read")
    report = json.loads(done.out)
    (row,) = report["rows"]
    assert (row["pss_bytes"], row["uss_bytes"], row["swap_bytes"]) == (None, None, None)
    assert all(row[name] > 0 for name in EVERYBODY_SEES)
    assert report["audit"]["accuracy"] == "bounded"
    assert len(report["audit"]["notes"]) == 1


def test_somebody_sees_his_own() -> None:
    done = spawn("ps", "-c", "python", "-c", "python3", "-f", "json", "-b", "process", **somebody())
    rows = json.loads(done.out)["rows"]
    assert any(row["pss_bytes"] for row in rows if row["uid"] != 0 or os.geteuid())


# Help.


def test_help_explains_every_column() -> None:
    text = memtap("ps", "--help").out
    explained = {line.split()[0] for line in text.splitlines() if line.startswith("  ")}
    for by in (tuple(PS_KEYS), ("user",)):
        columns = ps_columns(by, "kib", changes=False, tree=False)
        assert {c.heading for c in columns if c.name in (*PS[5:], "processes")} <= explained
    text = memtap("pmap", "--help").out
    explained = {line.split()[0] for line in text.splitlines() if line.startswith("  ")}
    columns = pmap_columns("kib", wide=True, extended=False)
    assert {column.heading for column in columns} <= explained


def test_order_leaves_ties_as_they_come() -> None:
    rows = [{"a": None, "n": 1}, {"a": 1, "n": 2}, {"a": None, "n": 3}]
    arranged = Order("a").arrange(Report("ps", "", 0.0, (), rows, {})).rows
    assert [row["n"] for row in arranged] == [2, 1, 3]
