"""A mapped file that loses its name while it is mapped; /proc/PID/maps says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memtap.tracers.code.mappings import parse_maps, read_maps
from tests.live.tracing import eventually, make_file, reporting, reports

PAGES = 4000

# Touches a page of a file again and again, each time as if it never had, until its input ends. What
# it is told to do with its name it does when it has begun.
PROGRAM = """
import mmap, os, select, sys, time
path = sys.argv[1]
with open(path, "r+b") as file:
    view = mmap.mmap(file.fileno(), 0)
view[0]
os.write(1, b"mapped\\n")
os.read(0, 1)
exec(sys.argv[2])
os.write(1, b"done\\n")
while not select.select([0], [], [], 0.01)[0]:
    view.madvise(mmap.MADV_DONTNEED)
    view[0]
"""

REPLACE = "open(path + '.new', 'w').write('x'); os.rename(path + '.new', path)"
BACK = "os.rename(path, path + '.away'); os.rename(path + '.away', path)"


@pytest.mark.parametrize(
    ("name", "code", "ends"),
    [
        ("deleted", "os.unlink(path)", " (deleted)"),
        ("replaced", REPLACE, " (deleted)"),
        ("linked", "os.link(path, path + '.other'); os.unlink(path)", " (deleted)"),
        ("renamed", "os.rename(path, path + '.elsewhere')", ""),
        ("back", BACK, ""),
        ("kept", "pass", ""),
    ],
)
def test_a_file_that_is_deleted_after_it_was_mapped(
    name: str, code: str, ends: str, disk: Path, tmp_path: Path
) -> None:
    file, out = make_file(disk / f"unlinked-{name}", 1), tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, str(file), code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"mapped\n"
        how = ("0.5", "-b", "file", "-f", "json", "-p", process.pid)
        with reporting(out, "faults", *how):
            process.stdin.write(b"x")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n"
            before = len(out.read_text().splitlines())
            assert eventually(lambda: len(out.read_text().splitlines()) >= before + 3, 60)
            maps = parse_maps(read_maps(process.pid), process.pid)
        process.stdin.close()
    is_deleted = any(each.path == f"{file} (deleted)" for each in maps)
    assert is_deleted == bool(ends)
    last = reports(out.read_text())[-1]
    assert f"{file}{ends}" in {row["path"] for row in last["rows"]}, json.dumps(last["rows"])
