"""What a command line means, and which ones are refused as wrong usage."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from memtap.cli.options import keys_out_of, sort_column
from memtap.tracers.faults.columns import FAULT_KEYS, fault_columns
from memtap.tracers.model.report import Column
from memtap.tracers.pagecache.columns import CACHESTAT, CACHETOP_KEYS, cachetop_columns
from memtap.tracers.pages.columns import PAGES_KEYS
from memtap.tracers.ps.columns import PS_KEYS, pmap_columns, ps_columns
from memtap.tracers.reclaim.columns import RECLAIM_KEYS, reclaim_columns
from memtap.tracers.slab.columns import SLAB_KEYS, slab_columns
from tests.cli.calling import NOBODY, memtap, understood

REFUSED = [
    ("0", "0 seconds is no interval"),
    ("-1", "No such option"),
    ("nan", "nan seconds is no interval"),
    ("inf", "inf seconds is no interval"),
    ("1e999", "1e999 seconds is no interval"),
    ("soon", "'soon' is no number of seconds"),
    ("1 0", "0 is not in the range x>=1"),
    ("1 -1", "No such option"),
    ("1 1.5", "'1.5' is not a valid integer."),
    ("1 2 3", "unexpected extra argument (3)"),
    ("-s nope", "no column 'nope' to sort by; there are "),
    ("-b nope", "'nope' is none of "),
    ("-b ,", "'' is none of "),
    ("-p 0", "0 is not in the range x>=1"),
    ("-p -1", "-1 is not in the range x>=1"),
    ("-p abc", "'abc' is not a valid integer."),
    ("-r 0", "0 is not in the range x>=1"),
    ("-f xml", "'xml' is not one of 'table', 'json', 'csv'"),
    ("--nope", "No such option"),
    ("--", "-- wants a PROGRAM after it"),
]


def is_refused(arguments: list[str], usage: str, said: str) -> None:
    done = memtap(*arguments)
    assert (done.status, done.out) == (2, "")
    first, second, *_, last = done.err.splitlines()
    assert first.startswith(f"Usage: {usage} ")
    assert second.startswith(f"Try '{usage} -")
    assert last.startswith("Error: ")
    assert said in last


@pytest.mark.parametrize("command", ["cachestat", "cachetop"])
@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_wrong_usage_is_refused(arguments: str, said: str, command: str) -> None:
    is_refused([command, *NOBODY, *arguments.split()], f"memtap {command}", said)


@pytest.mark.parametrize(
    ("arguments", "usage", "said"),
    [
        ("nope", "memtap", "No such command 'nope'"),
        ("--nope", "memtap", "No such option"),
        ("doctor 1", "memtap doctor", "unexpected extra argument (1)"),
        ("doctor -f xml", "memtap doctor", "'xml' is not one of"),
        ("cachestat --batch -p 999999999", "memtap cachestat", "No such option"),
        ("cachestat -b file -p 999999999", "memtap cachestat", "'file' is none of host"),
        ("cachestat -s evicted -p 999999999", "memtap cachestat", "no column 'evicted'"),
        ("cachetop -s path -p 999999999", "memtap cachetop", "no column 'path'"),
    ],
)
def test_what_a_command_does_not_know_is_refused(arguments: str, usage: str, said: str) -> None:
    is_refused(arguments.split(), usage, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("1", "INTERVAL"),
        ("-- true", "a PROGRAM"),
        ("-p 1", "--pid"),
        ("-c cat", "--comm"),
        ("--cgroup /", "--cgroup"),
        ("--record y", "--record"),
        ("--dump-c", "--dump-c"),
        ("--dry-run", "--dry-run"),
    ],
)
def test_a_replay_with_what_only_tracing_can_do_is_refused(arguments: str, said: str) -> None:
    line = ["cachetop", "--from", "none", *arguments.split()]
    is_refused(line, "memtap cachetop", f"{said} has no place there")


@pytest.mark.parametrize("option", ["-p", "--sort", "-b", "--format", "--from", "-o"])
def test_an_option_without_its_value_is_refused(option: str) -> None:
    done = memtap("cachetop", *NOBODY, option)
    assert (done.status, done.out) == (2, "")
    assert f"Error: Option '{option}' requires an argument." in done.err


@pytest.mark.parametrize("arguments", ["0.01", "1 1", "604800 99999", "-b file,process", "-s HITS"])
def test_good_usage_is_understood(arguments: str) -> None:
    done = memtap("cachetop", *NOBODY, *arguments.split())
    assert (done.status, done.err.splitlines()[0]) == (1, "memtap: there is no process 999999999")


def test_nothing_said_means_the_contracts_defaults() -> None:
    options = understood()
    assert (options.format, options.by, options.follow) == ("table", ("process",), True)
    assert options.flags == {}
    rest = vars(options).keys() - {"format", "by", "follow", "flags"}
    assert {vars(options)[name] for name in rest} == {None, (), False}


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ("0.5", "interval", 0.5),
        ("2 3", "count", 3),
        ("-p 1 --pid 2", "pids", (1, 2)),
        ("-c a --comm b", "comms", ("a", "b")),
        ("--cgroup /a --cgroup /b", "cgroups", ("/a", "/b")),
        ("--no-follow", "follow", False),
        ("-s hits", "sort", "hits"),
        ("--rows 5", "rows", 5),
        ("-b file,process,file", "by", ("file", "process")),
        ("--format json", "format", "json"),
        ("-o x", "output", Path("x")),
        ("-T", "timestamp", True),
        ("--timestamp", "timestamp", True),
        ("--record x", "record", Path("x")),
        ("--from x*", "replay", "x*"),
        ("-v", "verbose", True),
        ("--wide", "wide", True),
        ("1 -- ls -p 1 -- x", "program", ("ls", "-p", "1", "--", "x")),
        ("1 -- ls 2", "count", None),
    ],
)
def test_an_option_means_what_the_contract_says(arguments: str, name: str, value: object) -> None:
    assert getattr(understood(*arguments.split()), name) == value


@pytest.mark.parametrize(
    ("wanted", "column"),
    [
        (None, "hits_pages"),
        ("misses_pages", "misses_pages"),
        ("MISSES", "misses_pages"),
        ("Read_Hit%", "read_hit_pct"),
        ("cmd", "comm"),
        ("uid", "uid"),
    ],
)
def test_a_column_is_found_by_its_name_or_its_heading(wanted: str | None, column: str) -> None:
    assert sort_column(wanted, cachetop_columns(("process",)), "hits_pages") == column


def test_an_unknown_column_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(click.UsageError) as caught:
        sort_column("nope", CACHESTAT, "hits_pages")
    assert caught.value.message.endswith(", ".join(column.name for column in CACHESTAT))


@pytest.mark.parametrize(
    ("wanted", "column"),
    [
        ("MISSES_PAGES", "misses_pages"),
        ("read_hit", "read_hit_pct"),
        ("READ_HIT", "read_hit_pct"),
        ("write_hit%", "write_hit_pct"),
        ("Command", "comm"),
        ("CMD", "comm"),
        ("Misses", "misses_pages"),
    ],
)
def test_units_and_cases_need_not_be_said(wanted: str, column: str) -> None:
    assert sort_column(wanted, cachetop_columns(("process",)), "hits_pages") == column


@pytest.mark.parametrize(
    ("columns", "wanted", "column"),
    [
        (ps_columns(("process",), "kib", False, False), "rss", "res_bytes"),
        (ps_columns(("process",), "kib", False, False), "RSS", "res_bytes"),
        (ps_columns(("process",), "human", False, False), "Pss", "pss_bytes"),
        (ps_columns(("process",), "kib", False, False), "vsz", "virt_bytes"),
        (pmap_columns("kib", False, False), "rss", "rss_bytes"),
        (pmap_columns("kib", False, False), "RSS_KB", "rss_bytes"),
        (fault_columns(("process",)), "TIME_MS", "time_ns"),
        (fault_columns(("process",)), "time", "time_ns"),
        (fault_columns(("process",)), "p99_us", "p99_ns"),
        (reclaim_columns(("process",)), "stall_ms", "stall_ns"),
        (slab_columns(("cache",)), "alloc_kb", "allocated_bytes"),
    ],
)
def test_every_heading_is_a_column_to_sort_by(
    columns: tuple[Column, ...], wanted: str, column: str
) -> None:
    assert sort_column(wanted, columns, "") == column


def test_all_headings_and_names_of_all_reports_find_their_own_column() -> None:
    for columns in (
        *(cachetop_columns((key,)) for key in CACHETOP_KEYS),
        *(fault_columns((key,)) for key in FAULT_KEYS),
        *(slab_columns((key,)) for key in SLAB_KEYS),
        *(reclaim_columns((key,)) for key in RECLAIM_KEYS),
        ps_columns(("process",), "kib", False, False),
    ):
        for column in columns:
            for wanted in (
                column.name,
                column.heading,
                column.heading.lower(),
                column.name.upper(),
            ):
                assert sort_column(wanted, columns, "") == column.name


@pytest.mark.parametrize(
    ("keys", "word", "key"),
    [
        (CACHETOP_KEYS, "PATH", "file"),
        (CACHETOP_KEYS, "File", "file"),
        (CACHETOP_KEYS, "CGROUP", "cgroup"),
        (CACHETOP_KEYS, "USER", "user"),
        (CACHETOP_KEYS, "uid", "user"),
        (CACHETOP_KEYS, "PID", "process"),
        (FAULT_KEYS, "TID", "thread"),
        (FAULT_KEYS, "SITE", "site"),
        (FAULT_KEYS, "Region", "region"),
        (PS_KEYS, "CMD", "comm"),
        (PAGES_KEYS, "TYPE", "migratetype"),
        (SLAB_KEYS, "CACHE", "cache"),
    ],
)
def test_a_heading_is_a_key_to_group_by(
    keys: dict[str, tuple[Column, ...]], word: str, key: str
) -> None:
    assert keys_out_of(keys)(word) == (key,)
    assert keys_out_of(keys)(f"{word},{key}") == (key,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("memleak", "'memtap slab --leaks'"),
        ("memleak-bpfcc", "'memtap slab --leaks'"),
        ("oomkill", "'memtap oom'"),
        ("oomkill.bt", "'memtap oom'"),
        ("slabratetop", "'memtap slab'"),
        ("drsnoop", "'memtap reclaim'"),
        ("top", "'memtap ps'"),
        ("cachetpo", "Did you mean 'memtap cachetop'?"),
        ("Faults", "Did you mean 'memtap faults'?"),
        ("fault", "Did you mean 'memtap faults'?"),
        ("memleek", "Did you mean 'memtap slab --leaks'?"),
        ("zzz", "There are cachestat, cachetop, faults"),
        ("cachestat -i 5", "the interval is an argument: 5 for"),
        ("cachetop -i", "the interval is an argument"),
        ("cachetop --interval=5", "the interval is an argument"),
        ("ps -n 5", "the count is the second argument"),
        ("faults --json", "--format json does that"),
        ("doctor --json", "--format json does that"),
        ("faults --stcks", "--stacks"),
        ("faults -b proces", "(Did you mean 'process'?)"),
        ("faults -s totl", "(Did you mean 'total'?)"),
        ("ps -s pps", "(Did you mean 'pss'?)"),
        ("faults ./app", "a PROGRAM to trace comes after --"),
        ("faults --flame x --folded x", "--folded and --flame name the same file"),
        ("faults -o x --flame x", "--output and --flame name the same file"),
    ],
)
def test_what_was_meant_is_said(arguments: str, said: str) -> None:
    done = memtap(*arguments.split())
    assert (done.status, done.out) == (2, "")
    assert said in done.err.splitlines()[-1]
