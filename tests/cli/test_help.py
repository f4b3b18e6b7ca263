"""What memtap says of itself: help, version, completion."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from memtap import __version__
from memtap.cli.commands import COMMANDS
from memtap.tracers import NAMES, every
from memtap.tracers.model.tracer import Query
from tests.cli.calling import memtap

# In the contract's words.
TRACING = [
    "[INTERVAL] [COUNT]", "[-- PROGRAM ARG...]", "-p, --pid PID", "--no-follow", "-c, --comm NAME",
    "--cgroup PATH", "-s, --sort COLUMN", "-r, --rows N", "-b, --by KEY[,KEY]", "-f, --format",
    "[table|json|csv]", "-o, --output FILE", "-T, --timestamp", "--record FILE", "--from FILE",
    "--wide", "-v, --verbose", "-h, --help",
]  # fmt: skip
DOCTOR = ["-f, --format", "[table|json|csv]", "-o, --output FILE", "-v, --verbose", "-h, --help"]


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", [[], *[[name] for name in COMMANDS]])
def test_every_command_explains_itself(command: list[str], option: str) -> None:
    done = memtap(*command, option)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(" ".join(["Usage: memtap", *command, "["]))


@pytest.mark.parametrize(
    "command",
    ["", *COMMANDS],
)
def test_help_fits_into_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert max(map(len, memtap(*command.split(), "--help").lines)) <= 80


def test_the_list_of_commands_has_them_all() -> None:
    lines = memtap("--help").lines
    listed = [line.split()[0] for line in lines[lines.index("Commands:") + 1 :] if line[2] != " "]
    assert listed == list(COMMANDS)
    assert listed == [*NAMES, "run", "ps", "pmap", "ledger", "files", "doctor", "schema"]


@pytest.mark.parametrize(
    ("command", "options"), [("cachestat", TRACING), ("cachetop", TRACING), ("doctor", DOCTOR)]
)
def test_help_has_the_options_of_the_contract(command: str, options: list[str]) -> None:
    text = memtap(command, "--help").out
    assert [option for option in options if option not in text] == []


def test_help_explains_every_column() -> None:
    for tracer in every():
        queries = [Query(by=(key,), wide=True) for key in tracer.keys]
        columns = [column for query in queries for column in tracer.columns(query)]
        columns += [column for flag in tracer.flags for column in flag.columns]
        assert all(column.help for column in columns)
        text = memtap(tracer.name, "--help").out
        explained = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
        assert {each.heading for each in columns if not each.obvious} <= {*explained}


def test_help_lists_the_keys_to_group_by() -> None:
    text = " ".join(memtap("cachetop", "--help").out.split())
    assert "process, file, cgroup, user, comm." in text


def test_the_version_is_that_of_the_package() -> None:
    done = memtap("--version")
    assert (done.status, done.out, done.err) == (0, f"memtap {__version__}\n", "")


# Completion.


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_completion_for(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MEMTAP_COMPLETE", f"{shell}_source")
    done = memtap()
    assert (done.status, done.err) == (0, "")
    assert f"_MEMTAP_COMPLETE={shell}_complete" in done.out


def test_bash_understands_its_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MEMTAP_COMPLETE", "bash_source")
    script = tmp_path / "completion"
    script.write_text(memtap().out)
    shell = f"set -e; source {script}; complete -p memtap"
    assert "_memtap_completion memtap" in subprocess.check_output(["bash", "-c", shell], text=True)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("memtap cache", ["cachestat", "cachetop"]),
        ("memtap cachetop --ti", ["--timestamp"]),
        ("memtap cachetop -f ", ["table", "json", "csv"]),
        ("memtap doctor --format c", ["csv"]),
        ("memtap p", ["pages", "ps", "pmap"]),
        ("memtap ps --t", ["--tree", "--timestamp"]),
        ("memtap pmap -f ", ["table", "json", "csv"]),
        ("memtap cachetop -b c", ["cgroup", "comm"]),
        ("memtap ps --by user,c", ["user,cgroup", "user,comm"]),
        ("memtap cachetop -s read", ["read_hit_pct"]),
        ("memtap pmap 1 -s h", ["hugetlb_bytes", "huge_bytes"]),
    ],
)
def test_a_word_is_completed(
    line: str, completed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MEMTAP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    done = memtap()
    assert (done.status, done.err) == (0, "")
    assert [word.partition(",")[2] for word in done.lines if word] == completed


@pytest.mark.parametrize(
    "line",
    [
        *("memtap cachetop -- ls", "memtap cachetop 1 -- ls", "memtap cachetop 1 2 -- cat ls"),
        *("memtap cachetop --from ls", "memtap run --record ls"),
    ],
)
def test_the_shell_completes_files_and_programs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MEMTAP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    assert memtap().lines == ["file,ls"]
