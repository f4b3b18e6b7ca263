"""Whose events are counted: children, filters, short lives, hostile names; and sums that agree."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memtap.bpf.btf import vmlinux
from memtap.bpf.kernel import Kernel
from memtap.cli.loop import _PAUSE_S
from memtap.tracers.live.processes import Processes, _listen_to_births
from tests.live.tracing import (
    PAGE,
    Row,
    Trace,
    eventually,
    evict,
    kept,
    make_file,
    memtap,
    reporting,
    reports,
    slower,
)

PAGES = 500
PYTHON = "/usr/bin/python3"

Build = Callable[[str], Path]
Run = Callable[..., Trace]

SUMMED = ("hits_pages", "misses_pages", "dirties_pages")


@pytest.fixture(scope="module")
def file(disk: Path) -> Path:
    return make_file(disk / "processes", PAGES)


def sums(rows: list[Row]) -> list[int]:
    return [sum(row[name] for row in rows) for name in SUMMED]


def test_children_are_followed(file: Path, trace: Run) -> None:
    evict(file)
    done = trace("sh", "-c", "(cat $0 > /dev/null; true) & wait", file)
    assert done.counts(file) == (0, PAGES, 0)


def test_children_are_not_followed_if_not_wanted(file: Path, trace: Run) -> None:
    evict(file)
    done = trace("sh", "-c", "cat $0 > /dev/null; true", file, options=("--no-follow",))
    assert done.counts(file) == (0, 0, 0)


def test_the_status_of_the_program_is_ours(trace: Run) -> None:
    assert trace("sh", "-c", "exit 37").status == 37
    assert trace("sh", "-c", "kill -9 $$").status == 128 + 9


def test_a_program_is_traced_from_its_first_instruction(trace: Run) -> None:
    """Its own image is what exec reads first."""
    done = trace("true")
    assert done.status == 0
    assert done.counts(Path("/usr/bin/true"))[0] > 0


def test_all_groupings_add_up_to_cachestat(file: Path, disk: Path, trace: Run) -> None:
    evict(file)
    script = "for i in 1 2 3; do cat $0 | wc -c; done; dd if=/dev/zero of=$1 bs=64k count=5"
    done = trace("sh", "-c", script, file, disk / "sums")
    expected = sums(done.replay("cachestat"))
    assert expected[1] >= PAGES
    assert sums(done.report["rows"]) == expected
    for by in ("process", "user", "cgroup", "file", "process,file", "user,cgroup"):
        assert sums(done.replay("cachetop", "--by", by)) == expected


def test_a_replay_is_the_live_report_byte_for_byte(file: Path, trace: Run, tmp_path: Path) -> None:
    evict(file)
    recording, live = tmp_path / "r.parquet", tmp_path / "live.json"
    kept_as = ("--record", recording, "-o", live)
    program = ("sh", "-c", "for i in $(seq 30); do cat $0 > /dev/null; sleep 0.03; done", file)
    for command in (("cachetop", "-b", "process,file"), ("cachestat", "--wide")):
        done = memtap(*command, "0.3", "-f", "json", *kept_as, "--", *program)
        assert done.returncode == 0, done.stderr
        again = memtap(*command, "-f", "json", "--from", recording)
        assert again.stdout == live.read_text()
        assert len(reports(again.stdout)) > 2


def test_a_recording_is_replayed_without_root_and_without_bcc(disk: Path, trace: Run) -> None:
    done = trace("md5sum", "/usr/bin/true")
    recording = disk / "recording.parquet"
    shutil.copy(done.recording, recording)
    recording.chmod(0o644)
    disk.chmod(0o755)
    code = "import sys; sys.modules['bcc'] = None; from memtap.cli.main import main; main()"
    replay = ["cachetop", "-b", "file", "-f", "json", "--from", str(recording)]
    root = Path(__file__).resolve().parents[2]
    nobody = subprocess.run(
        [sys.executable, "-c", code, *replay],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(nobody.stdout) == done.report


def test_short_lived_processes_keep_their_names(trace: Run) -> None:
    """500 processes that are gone long before anybody could look into /proc."""
    done = trace("sh", "-c", "for i in $(seq 500); do /usr/bin/true; done")
    rows = done.replay("cachetop")
    names = [row["comm"] for row in rows]
    assert names.count("true") == 500
    assert set(names) == {"true", "sh", "seq"}
    assert {row["user"] for row in rows} == {"root"}
    assert "?" not in {row["cgroup"] for row in rows}


def test_names_from_processes_cannot_touch_the_terminal(disk: Path, file: Path) -> None:
    name = "\x1b[31m\nx\u202e"
    hostile = disk / f"a\x1b]0;evil\x07\n{'b' * 10}"
    hostile.write_bytes(b"x" * 100)
    code = f"open('/proc/self/comm', 'w').write({name!r}); open({str(hostile)!r}).read()"
    done = memtap("cachetop", "-b", "process,file", "-o", "/dev/stdout", "--", PYTHON, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "evil" in done.stdout
    assert not [c for c in done.stdout if not (c.isprintable() or c == "\n")]
    assert r"\x1b[31m\nx" in done.stdout


@pytest.fixture
def looping(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads the first page of a file a hundred times a second."""
    code = """
import os, sys, time
open('/proc/self/comm', 'w').write('looping')
f = os.open(sys.argv[1], 0)
while True:
    os.pread(f, 1, 0)
    time.sleep(0.01)
"""
    process = subprocess.Popen([PYTHON, "-c", code, file])
    assert eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "looping\n")
    yield process
    process.kill()
    process.wait()


def test_a_running_process_is_traced(looping: subprocess.Popen[bytes], file: Path) -> None:
    done = memtap(
        "cachetop", "0.5", "2", "-b", "process,file", "-p", str(looping.pid), "-f", "json"
    )
    for report in reports(done.stdout):
        (row,) = report["rows"]
        assert (row["pid"], row["comm"], row["path"]) == (looping.pid, "looping", str(file))
        most = 100 * report["interval_s"] + 2  # one in 10 ms
        assert 0.4 * most < row["hits_pages"] <= most
        assert row["misses_pages"] == 0


def test_only_processes_of_a_name(looping: subprocess.Popen[bytes], file: Path) -> None:
    done = memtap("cachetop", "0.5", "1", "-c", "looping", "-f", "json")
    assert [row["pid"] for row in reports(done.stdout)[0]["rows"]] == [looping.pid]
    done = memtap("cachetop", "0.5", "1", "-c", "loopin", "-f", "json")
    assert reports(done.stdout)[0]["rows"] == []


def cgroup_folders() -> list[Path]:
    """A writable folder of each kind of cgroup hierarchy that is mounted."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")[:3]
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            found[kind] = Path(before.split(" ")[4])
    return list(found.values())


@pytest.mark.parametrize("mount", cgroup_folders(), ids=lambda path: path.name)
def test_only_processes_in_a_cgroup_or_below(mount: Path, looping: subprocess.Popen[bytes]) -> None:
    folder = mount / f"memtap-test-{os.getpid()}"  # what a killed run left is in nobody's way
    below = folder / "below"
    below.mkdir(parents=True)
    try:
        (below / "cgroup.procs").write_text(str(looping.pid))
        for path in (folder, f"/{folder.name}"):
            done = memtap("cachetop", "0.5", "1", "--cgroup", path, "-f", "json")
            rows = reports(done.stdout)[0]["rows"]
            assert [row["pid"] for row in rows] == [looping.pid], done.stderr
    finally:
        (mount / "cgroup.procs").write_text(str(looping.pid))
        below.rmdir()
        folder.rmdir()


def test_the_program_runs_as_whoever_called_sudo(disk: Path) -> None:
    disk.chmod(0o755)
    caller = os.environ | {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    done = memtap("cachetop", "-o", "/dev/null", "--", "id", "-u", env=caller)
    assert done.stdout == "65534\n"


def test_two_runs_at_once_do_not_disturb_each_other(
    file: Path, workload: Build, tmp_path: Path
) -> None:
    """Both see the same reader; each counts all of it."""
    how = ("cachetop", "0.5", "-b", "file", "-f", "json")
    outs = [tmp_path / "one", tmp_path / "other"]
    with kept(file), reporting(outs[0], *how) as one, reporting(outs[1], *how) as other:
        subprocess.check_call([workload("reader"), "pread", file, str(PAGE)])
        for process in (one, other):
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
    for out in outs:
        rows = [row for report in reports(out.read_text()) for row in report["rows"]]
        assert sum(row["hits_pages"] for row in rows if row["ino"] == file.stat().st_ino) == PAGES


def test_it_does_not_wait_for_a_birth_before_it_begins() -> None:
    """The host is asked many times, as others may be born now and then."""
    times = []
    for _ in range(20):
        began = time.monotonic()
        _listen_to_births(with_threads=False).close()
        times.append(time.monotonic() - began)
    assert sorted(times)[14] < slower(0.05), times


def switches(pid: int) -> int:
    """How often a process has waited for something."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("voluntary"))


def test_many_that_are_born_and_end_do_not_wake_memtap_each(tmp_path: Path) -> None:
    """It hears of all some times a second, of which each costs it a few waits."""
    with reporting(tmp_path / "out", "oom", "-f", "csv", "1") as process:
        before, began = switches(process.pid), time.monotonic()
        subprocess.check_call(["sh", "-c", "i=0; while [ $i -lt 2000 ]; do (:); i=$((i+1)); done"])
        waited, took = switches(process.pid) - before, time.monotonic() - began
    assert waited < 100 + 4 * took / _PAUSE_S


LAST_NUMBER = Path("/proc/sys/kernel/ns_last_pid")

# Two programs, one after the other, in processes of one number, that nobody else has taken.
ONE_NUMBER = f"""
import os, sys
def run(number, program, *arguments):
    while True:
        open("{LAST_NUMBER}", "w").write(str(number - 1))
        found = os.posix_spawn(program, [program, *arguments], {{}})
        os.waitpid(found, 0)
        if found == number:
            return
number = next(n for n in range(20_000, 30_000) if not os.path.exists(f"/proc/{{n}}"))
run(number, "/usr/bin/true")
run(number, sys.argv[1], "3000")
print(number)
"""


@pytest.mark.skipif(not LAST_NUMBER.exists(), reason="numbers of processes cannot be chosen")
@pytest.mark.parametrize("command", ["faults", "malloc", "pages"])
def test_a_number_that_is_given_twice_is_said_to_be(
    command: str, workload: Build, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    how = ["-b", "process", "-f", "json", "-o", out]
    done = memtap(command, *how, "--", PYTHON, "-c", ONE_NUMBER, workload("toucher"))
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    (row,) = [row for row in report["rows"] if row["pid"] == int(done.stdout)]
    assert row["comm"] == "toucher"
    assert report["audit"]["accuracy"] == "bounded"
    (note,) = [note for note in report["audit"]["notes"] if "given to another process" in note]
    assert note.startswith("1 process number was")


def test_births_are_remembered_until_the_next_interval_is_over() -> None:
    processes = Processes(vmlinux(), Kernel().possible_cpus)
    try:
        with subprocess.Popen(["true"]) as child:
            child.wait()
        assert eventually(lambda: processes.consume() or processes.births_of(child.pid)[1], 10)
        found = processes.births_of(child.pid)
        processes.settle()
        assert processes.births_of(child.pid) == found != (0, 0)
        processes.settle()
        assert processes.births_of(child.pid) == (0, 0)
    finally:
        processes.close()
