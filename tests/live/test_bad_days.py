"""Bad input and bad days: what goes wrong is said in two lines, and nothing stays attached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.tracing import (
    MEMTAP,
    PAGE,
    Trace,
    eventually,
    evict,
    make_file,
    memtap,
    reporting,
    reports,
)

Build = Callable[[str], Path]
Run = Callable[..., Trace]


def programs() -> set[str]:
    """The names of our programs that the kernel holds, by bpftool; no other memtap may run."""
    listed = json.loads(subprocess.check_output(["bpftool", "-j", "prog", "list"]))
    names = {program.get("name", "") for program in listed}
    return names & {"on_read", "on_map", "on_fault", "on_add", "on_delete", "on_dirty", "flush"}


def says(done: subprocess.CompletedProcess[str], what: str, hint: str) -> None:
    """A foreseen failure: status 1, and two lines on stderr."""
    first, second = done.stderr.splitlines()
    assert first.startswith("memtap: ") and what in first
    assert hint in second
    assert done.returncode == 1
    assert done.stdout == ""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """memtap, tracing the whole host, its reports in a file."""
    with reporting(tmp_path / "out", "cachestat", "0.2") as process:
        yield process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_with_its_last_report(
    number: int, running: subprocess.Popen[str]
) -> None:
    assert programs()
    running.send_signal(number)
    assert running.wait() == 0
    assert running.stderr is not None and running.stderr.read() == ""
    assert eventually(lambda: not programs(), 2)


def test_even_kill_9_leaves_nothing_attached(running: subprocess.Popen[str]) -> None:
    assert len(programs()) == 7
    running.kill()
    assert eventually(lambda: not programs(), 5)


def test_killed_while_compiling_it_leaves_nothing(tmp_path: Path) -> None:
    for delay in (0.1, 0.3, 0.5, 0.6, 0.7):
        process = subprocess.Popen(hiding([*MEMTAP, "cachestat", "-o", str(tmp_path / "out")]))
        time.sleep(delay)
        process.kill()
        process.wait()
    assert eventually(lambda: not programs(), 5)
    assert eventually(lambda: subprocess.call(["pgrep", "-f", "memtap.bpf.compiler"]) == 1, 5)


def test_a_closed_pipe_ends_a_run(tmp_path: Path) -> None:
    shell = f"{' '.join(MEMTAP)} cachestat 0.1 | head -n 2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=30)
    head, _, status = done.stdout.splitlines()
    assert "HITS" in head
    assert status == "0"
    assert done.stderr == ""


def test_a_run_ends_with_its_target(file_reader: subprocess.Popen[bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with reporting(out, "cachetop", "1", "-p", file_reader.pid, "-f", "json") as process:
        file_reader.kill()
        file_reader.wait()
        assert process.wait(20) == 0
    first, *_, last = reports(out.read_text())
    assert first["rows"][0]["hits_pages"] > 0
    assert last["interval_s"] < 1


@pytest.fixture
def file_reader() -> Iterator[subprocess.Popen[bytes]]:
    code = "import time\nwhile True: open('/etc/passwd').read(); time.sleep(0.01)"
    process = subprocess.Popen([sys.executable, "-c", code])
    yield process
    process.kill()
    process.wait()


def test_a_target_that_does_not_exist() -> None:
    says(memtap("cachetop", "-p", "4194303"), "no process 4194303", "ps -e")


def test_a_cgroup_that_does_not_exist() -> None:
    says(memtap("cachetop", "--cgroup", "/no/such"), "no cgroup /no/such", "/sys/fs/cgroup")


def test_a_program_that_does_not_exist() -> None:
    says(memtap("cachetop", "--", "/no/such"), "cannot run /no/such", "name a program")


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    says(memtap("cachetop", "-o", tmp_path / "no/such"), "cannot write", "another file")


def test_a_report_that_does_not_fit_on_the_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = memtap(
            "cachestat", "0.2", "1", capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    what, hint = done.stderr.splitlines()
    assert what == "memtap: cannot write the report: No space left on device"
    assert "--output" in hint


def test_started_without_standard_streams(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell = f"{' '.join(MEMTAP)} cachestat 0.2 2 -o {out} <&- >&- 2>&-"
    assert subprocess.call(["sh", "-c", shell]) == 0
    assert len(out.read_text().splitlines()) == 3


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    return memtap(*arguments, user=65534, group=65534, extra_groups=[], cwd=root)


def test_without_root() -> None:
    says(as_nobody("cachestat", "1", "1"), "tracing needs root, or CAP_BPF", "sudo")


def test_without_the_capability_to_load_programs() -> None:
    """Root, but one that may not use BPF, as in most containers."""
    drop = ["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon", "--inh-caps=-all", "--"]
    done = subprocess.run(
        [*drop, *MEMTAP, "cachestat", "1", "1"], capture_output=True, text=True, timeout=30
    )
    says(done, "tracing needs root, or CAP_BPF", "sudo")


def hiding(command: list[str], *paths: str) -> list[str]:
    """A command where these files and folders are empty, and nothing was compiled before."""
    Path("/var/empty").mkdir(exist_ok=True)
    hide = [f"mount --bind {'/var/empty' if Path(p).is_dir() else '/dev/null'} {p}" for p in paths]
    script = " && ".join(["mount -t tmpfs none /var/cache", *hide, 'exec "$@"'])
    return ["unshare", "-m", "sh", "-c", script, "sh", *command]


def without(*paths: str, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """memtap where these files and folders are empty."""
    command = hiding([*MEMTAP, *arguments], *paths)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_without_tracefs_all_is_as_before() -> None:
    done = without("/sys/kernel/tracing", arguments=("doctor", "-f", "json"))
    assert done.returncode == 0
    facts = {fact["name"]: fact["state"] for fact in json.loads(done.stdout)["host"]}
    assert facts["tracefs"] == "not mounted; not needed"


def test_without_types_of_the_kernel() -> None:
    done = without("/sys/kernel/btf", arguments=("cachestat", "1", "1"))
    says(done, "this kernel has no BTF", "CONFIG_DEBUG_INFO_BTF")


def test_without_the_binding_of_bcc() -> None:
    done = without("/usr/lib/python3/dist-packages", arguments=("cachestat", "1", "1"))
    says(done, "BCC's Python binding is not installed", "python3-bpfcc")


def test_in_a_pid_namespace() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", *MEMTAP, "cachestat", "1", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    says(done, "other numbers here than in the kernel", "host's PID namespace")


def test_where_netlink_does_not_tell_of_processes() -> None:
    """A network namespace has no proc connector; the report goes on, with a note."""
    command = ["unshare", "--net", *MEMTAP, "cachetop", "-f", "json", "-o", "/dev/stdout"]
    done = subprocess.run(
        [*command, "--", "cat", "/etc/hostname"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    report = json.loads(done.stdout.splitlines()[-1])
    assert sum(row["hits_pages"] + row["misses_pages"] for row in report["rows"]) > 0
    assert any("proc connector" in note for note in report["audit"]["notes"])
    assert "memtap: note: no proc connector" in done.stderr


def llvm() -> str:
    """The library that BCC compiles with."""
    maps = subprocess.check_output(
        [sys.executable, "-c", "import bcc; print(open('/proc/self/maps').read())"], text=True
    )
    return next(word for word in maps.split() if "libLLVM" in word)


def test_with_a_broken_llvm() -> None:
    done = without(llvm(), arguments=("cachestat", "1", "1"))
    says(done, "BCC's library does not load", "reinstall")


def test_only_the_first_start_needs_the_compiler() -> None:
    first, then = (" ".join([*MEMTAP, "cachestat", "-f", "csv", "0.1", n]) for n in "12")
    script = f"{first} && mount --bind /dev/null {llvm()} && {then}"
    done = subprocess.run(hiding(["sh", "-c", script]), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2 + 3


def test_without_libbpf() -> None:
    (libbpf,) = Path("/usr/lib").glob("*/libbpf.so.1")
    done = without(str(libbpf.resolve()), arguments=("cachestat", "1", "1"))
    says(done, "libbpf.so.1 is missing", "apt install libbpf1")


def test_doctor_without_root_says_so() -> None:
    done = as_nobody("doctor", "-f", "json")
    assert done.returncode == 1
    for row in json.loads(done.stdout)["rows"]:
        assert (row["accuracy"], row["way"]) == (None, None)
        assert row["todo"] == "run it with sudo"


def test_doctor_of_this_host_finds_every_report_to_run() -> None:
    done = memtap("doctor", "-f", "json")
    found = json.loads(done.stdout)
    names = {"cachestat", "cachetop", "faults", "malloc", "slab", "pages", "reclaim", "oom"}
    assert {row["report"] for row in found["rows"]} == names
    assert all(row["way"] for row in found["rows"])
    assert done.returncode == 0
    assert not programs()


def test_a_dry_run_attaches_and_leaves() -> None:
    done = memtap("cachetop", "--dry-run")
    assert done.returncode == 0
    assert "tp_btf:" in done.stdout or "kprobe:" in done.stdout
    assert not programs()


def test_the_program_can_be_shown_and_compiled_by_itself(tmp_path: Path) -> None:
    done = memtap("cachetop", "--dump-c", "-p", str(os.getpid()))
    assert done.returncode == 0
    assert "#include <memtap/" not in done.stdout
    assert "int on_read(" in done.stdout and "#define FOLLOW_TGIDS" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder])
    yield folder
    subprocess.check_call(["umount", folder])


# The pages that it dirties are followed one by one, so a recording has a row of each. When some
# are recorded, it fills the disk of the recording, and goes on.
READ_DIRTY_AND_FILL = """
import pathlib, sys, time

def read_and_dirty(rounds):
    for _ in range(rounds):
        for path in pathlib.Path(sys.argv[1]).glob("full-*"):
            with path.open("r+b", buffering=0) as file:
                file.write(file.read(10))

read_and_dirty(1)
time.sleep(1)
with open(sys.argv[2] + "/filler", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
read_and_dirty(40)
"""


def test_a_full_disk_ends_the_recording_and_not_the_run(
    small_disk: Path, disk: Path, tmp_path: Path
) -> None:
    for number in range(1000):
        make_file(disk / f"full-{number}", 0, tail=10)
    recording = small_disk / "r.parquet"
    done = memtap(
        "cachestat", "0.2", "-o", tmp_path / "live", "--record", recording, "-f", "json",
        "--", sys.executable, "-c", READ_DIRTY_AND_FILL, disk, small_disk,
    )  # fmt: skip
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line and "can be read" in line
    replayed = memtap("cachestat", "-f", "json", "--from", recording).stdout
    assert replayed != ""
    assert (tmp_path / "live").read_text().startswith(replayed)
    assert len((tmp_path / "live").read_text()) > len(replayed)


def test_a_disk_too_full_to_record_at_all(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1900 << 10))
    recording = small_disk / "r.parquet"
    done = memtap("cachestat", "0.2", "1", "--record", recording)
    says(done, f"cannot record to {recording}: No space left on device", "256 KiB")
    assert not recording.exists()


def test_a_recording_is_for_its_owner_alone(trace: Run) -> None:
    assert trace("true").recording.stat().st_mode & 0o777 == 0o600


def test_nothing_is_lost_while_the_reader_is_stopped(
    disk: Path, workload: Build, tmp_path: Path
) -> None:
    """Half a second of unread pages on both CPUs, each page an event of its own."""
    file = make_file(disk / "stall", 20_000)
    out = tmp_path / "out"
    with reporting(out, "cachetop", "0.5", "-b", "file", "-f", "json") as process:
        process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with spinning(2):
            evict(file)
            subprocess.check_call([workload("reader"), "pread", file, str(PAGE)])
            time.sleep(max(0, 0.5 - (time.monotonic() - start)))
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    found = reports(out.read_text())
    for report in found:
        audit = report["audit"]
        assert (audit["lost"], audit["missed"], audit["map_full"]) == (0, 0, 0)
    ino = file.stat().st_ino
    rows = [row for report in found for row in report["rows"] if row["ino"] == ino]
    assert sum(row["hits_pages"] + row["misses_pages"] for row in rows) == 20_000


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that never sleep."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in busy:
            each.kill()
            each.wait()
