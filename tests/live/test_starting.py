"""PROGRAM counts from its first instruction on, and not what we did before that."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.tracing import LONGEST_S, MEMTAP, Row, memtap, reports

Build = Callable[[str], Path]

# Without ASLR a program takes the same faults each time.
STEADY = ("setarch", "-R")

# The kernel writes arguments into the new stack itself, before the program counts.
OF_EXEC = 4


def under(command: str, *program: object, options: tuple[str, ...] = (), **how: Any) -> Any:
    """The one report of a command on a program."""
    arguments = [command, "-f", "json", "-o", "/dev/stderr", *options, "--", *map(str, program)]
    words = [*STEADY, *MEMTAP, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_S, **how)
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    assert lines, done.stderr
    (report,) = reports("\n".join(lines))
    return report


def total(rows: list[Row], name: str) -> int:
    return sum(row[name] for row in rows)


@pytest.fixture
def truth(workload: Build) -> Callable[..., int]:
    """How many faults a program takes, by wait4(2) of a child that did nothing of its own."""

    def faults(*program: object) -> int:
        command = [*STEADY, workload("vforker"), *map(str, program)]
        outs = [subprocess.check_output(command, text=True) for _ in range(3)]
        minor, major, _ = map(int, outs[-1].splitlines()[-1].split())
        return minor + major

    return faults


def script(folder: Path, text: str) -> Path:
    path = folder / "script"
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("pages", [0, 1, 777])
@pytest.mark.parametrize("caller", [{}, {"SUDO_UID": "65534", "SUDO_GID": "65534"}])
def test_a_program_has_the_faults_that_it_has_alone(
    pages: int, caller: dict[str, str], disk: Path, workload: Build, truth: Callable[..., int]
) -> None:
    """Also where we have to become another user before it is run."""
    disk.chmod(0o755)
    program = shutil.copy(workload("toucher"), disk), pages
    expected = truth(*program)
    assert expected > pages
    report = under("faults", *program, env=os.environ | caller)
    counted = total(report["rows"], "total")
    assert expected - OF_EXEC <= counted <= expected
    # By the kernel's own count, too, nothing of the time before is the program's.
    kernel = report["audit"]["kernel"]
    assert counted <= kernel["ac_minflt"] + kernel["ac_majflt"] <= counted + 2
    assert [row["comm"] for row in report["rows"]] == ["toucher"]


def test_a_program_that_is_a_script_is_its_interpreter(
    tmp_path: Path, truth: Callable[..., int]
) -> None:
    program = script(tmp_path, "#!/bin/sh\n:\n")
    expected = truth(program)
    report = under("faults", program)
    assert expected - OF_EXEC <= total(report["rows"], "total") <= expected


def test_a_program_is_looked_for_as_a_shell_does(tmp_path: Path, workload: Build) -> None:
    """What cannot be executed on the way there is passed over, and nothing of that is counted."""
    folders = [tmp_path / "none", tmp_path / "forbidden", tmp_path / "right"]
    for folder in folders[1:]:
        folder.mkdir()
    (folders[1] / "sought").write_text("no program")
    (folders[2] / "sought").symlink_to(workload("toucher"))
    path = ":".join([*map(str, folders), os.environ["PATH"]])
    report = under("faults", "sought", 100, env=os.environ | {"PATH": path})
    assert [row["comm"] for row in report["rows"]] == ["sought"]
    assert 100 < total(report["rows"], "total") < 200


@pytest.mark.parametrize("command", ["faults", "malloc", "cachetop", "slab", "pages", "reclaim"])
def test_no_report_has_anything_of_the_time_before(command: str, workload: Build) -> None:
    """All that is counted is counted for a process of the program's name, and its files."""
    report = under(command, workload("toucher"), 10, options=("-b", "process"))
    assert {row["comm"] for row in report["rows"]} <= {"toucher"}


def test_the_files_that_we_have_open_are_not_its_files(workload: Build) -> None:
    report = under("cachetop", workload("toucher"), 10, options=("-b", "file"))
    names = {Path(row["path"]).name for row in report["rows"]}
    assert "toucher" in names
    assert not {name for name in names if "python" in name or name.endswith((".py", ".pyc"))}


def test_what_slab_and_pages_count_is_what_the_program_takes(workload: Build) -> None:
    """A program that touches pages takes these, and little else."""
    few, many = (
        total(under("pages", workload("toucher"), pages)["rows"], "allocs") for pages in (0, 1000)
    )
    assert few < 100
    assert 1000 <= many - few < 1020  # and tables for them
    assert total(under("slab", workload("toucher"), 0)["rows"], "allocs") < 300


def test_its_memory_is_known_from_the_beginning(workload: Build) -> None:
    report = under("faults", workload("toucher"), 10, options=("-b", "region,file"))
    assert "unmapped" not in {row["region"] for row in report["rows"]}
    assert "?" not in {row["path"] for row in report["rows"]}


def test_a_program_that_cannot_be_run_is_not_counted(tmp_path: Path) -> None:
    bad = script(tmp_path, "#!/nowhere/to/be/found\n")
    done = memtap("faults", "--", bad)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        f"memtap: cannot run {bad}: No such file or directory",
        "name a program to trace",
    ]
    assert done.stdout == ""


def test_a_program_starts_as_if_nobody_looked(tmp_path: Path) -> None:
    """Its umask, folder, priority, limits, process group, environment and ignored signals."""
    code = (
        "umask; pwd; nice; ulimit -n; ulimit -Sc; ps -o pgid= -p $$; ps -o sid= -p $$; env | sort;"
        "grep SigIgn /proc/self/status; grep SigBlk /proc/self/status"
    )
    shell = 'umask 0027; ulimit -Sn 200; trap "" HUP; exec nice -n 3 "$@"'
    out = tmp_path / "report"
    program = ["sh", "-c", code]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/",
        "LC_ALL": "C",
        "x y": "1\t2",
        "EMPTY": "",
    }

    def said(*command: str) -> list[str]:
        text = subprocess.check_output(
            ["setsid", "sh", "-c", shell, "sh", *command], env=environment, cwd="/", text=True
        )
        lines = [line for line in text.splitlines() if not line.startswith("_=")]
        assert lines[5] != lines[0]
        lines[5] = lines[6] = str(lines[5] == lines[6])  # it leads its session's only group
        return lines

    traced = [*MEMTAP, "pages", "-o", str(out), "--"]
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    assert said(*traced, *program) == said(*program)


def test_children_count_as_the_program_does(workload: Build) -> None:
    toucher = workload("toucher")
    report = under(
        "faults", "sh", "-c", f"{toucher} 500; ({toucher} 600 &); {toucher} 700 & wait; sleep 0.1"
    )
    counts = sorted(row["total"] for row in report["rows"] if row["comm"] == "toucher")
    assert len(counts) == 3
    for counted, pages in zip(counts, (500, 600, 700), strict=True):
        assert pages < counted < pages + 100
