"""Which BPF programs a process holds. Other processes, and other memtaps, may hold some as well."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.live.tracing import LONGEST_S, MEMTAP, eventually

Ids = set[int]


def held_by(pid: int) -> Ids:
    """The numbers of the programs of which a process has a descriptor."""
    found = set()
    for descriptor in _listed(Path(f"/proc/{pid}/fdinfo")):
        try:
            lines = descriptor.read_text().splitlines()
        except OSError:  # it was closed, or the process ended
            continue
        found |= {int(line.split()[1]) for line in lines if line.startswith("prog_id:")}
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def in_kernel() -> dict[int, str]:
    """The names of all programs that the kernel has, by number; it gives none out twice."""
    listed = json.loads(subprocess.check_output(["bpftool", "-j", "prog", "list"]))
    return {program["id"]: program.get("name", "") for program in listed}


def are_gone(ids: Ids) -> bool:
    """Whether the kernel comes to have none of them."""
    return eventually(lambda: not ids & in_kernel().keys(), 5)


def of_session(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[3]) == session:
            found.append(int(entry))
    return found


def watched(*arguments: str, **how: Any) -> tuple[subprocess.CompletedProcess[str], Ids]:
    """Runs memtap to its end; also which programs it held on the way."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how
    held: Ids = set()
    with subprocess.Popen([*MEMTAP, *arguments], **how) as process:
        end = time.monotonic() + LONGEST_S
        while process.poll() is None and time.monotonic() < end:
            held |= held_by(process.pid)
            time.sleep(0.002)
        process.kill()
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err), held
