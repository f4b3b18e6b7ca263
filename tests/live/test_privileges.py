"""Two capabilities are enough, and notes say what needs more."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.live.tracing import MEMTAP

NOBODY = "65534"
REPORTS = {
    "cachestat": (),
    "cachetop": ("-b", "process,file"),
    "faults": ("-b", "site"),
    "malloc": (),
    "slab": ("-b", "site"),
    "pages": (),
    "reclaim": (),
    "oom": (),
}


def with_capabilities(held: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """memtap as a user who has nothing but these capabilities."""
    caps = f"-all{held}"
    who = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    who += ["--inh-caps", caps, "--ambient-caps", caps]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [*who, *MEMTAP, *arguments], capture_output=True, text=True, timeout=60, cwd=root
    )


@pytest.mark.parametrize(("command", "options"), REPORTS.items(), ids=REPORTS)
def test_a_report_needs_two_capabilities(command: str, options: tuple[str, ...]) -> None:
    done = with_capabilities(",+bpf,+perfmon", command, "-f", "json", "0.2", "1", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["report"] == command
    assert "CAP_IPC_LOCK" in done.stderr or command in ("slab", "pages")  # these have no rings
    assert ("CAP_SYS_PTRACE" in done.stderr) == (command in ("faults", "malloc"))


@pytest.mark.parametrize("held", ["", ",+bpf", ",+perfmon"])
def test_with_less_it_says_what_it_needs(held: str) -> None:
    done = with_capabilities(held, "faults", "0.2", "1")
    assert done.returncode == 1
    what, hint = done.stderr.splitlines()
    assert "CAP_BPF and CAP_PERFMON" in what
    assert "sudo" in hint
