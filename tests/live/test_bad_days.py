"""Bad input and bad days: what goes wrong is said in two lines, and nothing stays attached."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memtap.tracers import NAMES
from memtap.tracers.pagecache.probes import NAME_FILES
from tests.live.held import are_gone, held_by, in_kernel, of_session, watched
from tests.live.limits import limited as cgroup_of
from tests.live.tracing import (
    LONGEST_S,
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


PROGRAMS = {"on_read", "on_map", "on_fault", "on_add", "on_delete", "on_dirty", "flush"}


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


ENDINGS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_ends_a_run_with_its_last_report(
    number: int, running: subprocess.Popen[str]
) -> None:
    held = held_by(running.pid)
    assert held
    running.send_signal(number)
    assert running.wait() == 0
    assert running.stderr is not None and running.stderr.read() == ""
    assert are_gone(held)


def test_even_kill_9_leaves_nothing_attached(running: subprocess.Popen[str]) -> None:
    held = held_by(running.pid)
    assert {in_kernel()[number] for number in held} >= PROGRAMS
    assert len(held) > len(PROGRAMS)  # and those that keep names and cgroups
    running.kill()
    assert are_gone(held)


def test_killed_while_compiling_it_leaves_nothing(tmp_path: Path) -> None:
    command = hiding([*MEMTAP, "cachestat", "-o", str(tmp_path / "out")])
    held: set[int] = set()
    for delay in (0.1, 0.3, 0.5, 0.6, 0.7):
        process = subprocess.Popen(command, start_new_session=True)
        time.sleep(delay)
        held |= held_by(process.pid)
        process.kill()
        process.wait()
        assert eventually(lambda: not of_session(process.pid), 5)  # noqa: B023 (at once)
    assert are_gone(held)


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_before_a_run_begins_ends_it_quietly(number: int, tmp_path: Path) -> None:
    """While it imports, compiles, loads; the interpreter itself is started by then."""
    command = hiding([*MEMTAP, "faults", "0.2", "-o", str(tmp_path / "out")])
    for delay in (0, 0.1, 0.2, 0.4, 0.8):
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert eventually(lambda: handles(process.pid, number), 60)  # noqa: B023 (at once)
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), delay
        assert eventually(lambda: not of_session(process.pid), 5)  # noqa: B023 (at once)


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler of memtap for a signal: Python has none for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    both = 1 << signal.SIGTERM - 1 | 1 << number - 1
    return int(caught, 16) & both == both


def test_nohup_is_obeyed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["nohup", *MEMTAP, "cachestat", "0.2", "-o", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: out.exists() and out.read_text() != "", 30)
        process.send_signal(signal.SIGHUP)
        lines = len(out.read_text().splitlines())
        assert eventually(lambda: len(out.read_text().splitlines()) > lines + 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_S) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("number", ENDINGS)
def test_a_recording_survives_what_ends_a_run(number: int, tmp_path: Path) -> None:
    recording = tmp_path / "r.parquet"
    with reporting(tmp_path / "out", "cachestat", "0.2", "--record", recording) as process:
        process.send_signal(number)
        assert process.wait(LONGEST_S) == 0
    done = memtap("cachestat", "--from", recording)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (tmp_path / "out").read_text()


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
        assert process.wait(LONGEST_S) == 0
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
    done = memtap("cachetop", "--cgroup", "/such", "0.1", "1")
    assert done.returncode == 0
    assert "such yet; it waits for that" in done.stderr


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


def test_doctor_says_what_names_of_cpp_need() -> None:
    code = "from memtap.tracers.doctor import _libraries as l; print(*(f.todo for f in l()))"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True).strip() == ""
    hidden = hiding(command, "/usr/bin/c++filt")
    assert subprocess.check_output(hidden, text=True).strip() == "apt install binutils util-linux"


def test_doctor_without_root_says_so() -> None:
    done = as_nobody("doctor", "-f", "json")
    assert done.returncode == 1
    for row in json.loads(done.stdout)["rows"]:
        assert (row["accuracy"], row["way"]) == (None, None)
        assert row["todo"] == "run it with sudo"


def test_doctor_of_this_host_finds_every_report_to_run() -> None:
    done, held = watched("doctor", "-f", "json")
    found = json.loads(done.stdout)
    assert {row["report"] for row in found["rows"]} == {*NAMES, "files"}
    assert all(row["way"] for row in found["rows"])
    assert done.returncode == 0
    assert held and are_gone(held)


def test_doctor_compiles_once_and_still_finds_what_has_broken(tmp_path: Path) -> None:
    """First a program that does not compile any more, then the compiler too."""
    broken, program = tmp_path / "broken.c", Path("bpf/programs/pages.bpf.c").resolve()
    broken.write_text(program.read_text() + "this is no C\n")
    doctor, kept = " ".join([*MEMTAP, "doctor", "-f", "json"]), "ls -i /var/cache/memtap | sort"
    breaks = f"mount --bind {broken} {program}", f"mount --bind /dev/null {llvm()}"
    script = "; ".join([doctor, kept, breaks[0], doctor, kept, breaks[1], doctor, kept])
    done = subprocess.run(hiding(["sh", "-c", script]), capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    files = [line for line in lines if not line.startswith("{")]
    third = len(files) // 3
    assert third > 0 and files[:third] == files[third : 2 * third] == files[2 * third :]
    whole, *others = (json.loads(line) for line in lines if line.startswith("{"))
    for found in others:
        rows = {row["report"]: row for row in found["rows"]}
        assert rows.pop("pages")["way"] is None
        assert list(rows.values()) == [row for row in whole["rows"] if row["report"] != "pages"]
    assert "compile" in next(r["missing"][0] for r in others[0]["rows"] if r["report"] == "pages")
    compilers = [fact for found in others for fact in found["host"] if fact["name"] == "compiler"]
    assert "BCC" in compilers[0]["state"] and not compilers[0]["todo"]
    assert "does not load" in compilers[1]["state"] and "reinstall" in compilers[1]["todo"]


def test_a_dry_run_attaches_and_leaves() -> None:
    done, held = watched("cachetop", "--dry-run")
    assert done.returncode == 0
    assert "tp_btf:" in done.stdout or "kprobe:" in done.stdout
    assert held and are_gone(held)


def test_the_program_can_be_shown_and_compiled_by_itself(tmp_path: Path) -> None:
    done = memtap("cachetop", "--dump-c", "-p", str(os.getpid()))
    assert done.returncode == 0
    assert "#include <memtap/" not in done.stdout
    assert "int on_read(" in done.stdout and "#define FOLLOW_TGIDS" in done.stdout


def test_files_are_named_only_where_names_can_be_shown() -> None:
    """Else each new file costs what finding its path does."""
    setting = f"#define {NAME_FILES}\n"
    assert setting not in memtap("cachetop", "--dump-c").stdout
    assert setting in memtap("cachetop", "--dump-c", "-b", "process,file").stdout
    assert setting in memtap("cachetop", "--dump-c", "--record", "/dev/null").stdout


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
        assert process.wait(LONGEST_S) == 0
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


def fifo_at(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("option", ["-o", "--folded", "--flame"])
def test_a_fifo_waits_for_its_reader_before_tracing_begins(option: str, tmp_path: Path) -> None:
    fifo = fifo_at(tmp_path / "fifo")
    command = [*MEMTAP, "faults", "0.2", "2", option, str(fifo), "-p", str(os.getpid())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"memtap: note: waiting for somebody to read {fifo}\n"
        assert not held_by(process.pid)
        text = fifo.read_text()
        assert process.wait(LONGEST_S) == 0
    assert text != ""


@pytest.mark.parametrize("number", ENDINGS)
def test_a_fifo_that_nobody_reads_can_be_left(number: int, tmp_path: Path) -> None:
    fifo = fifo_at(tmp_path / "fifo")
    command = [*MEMTAP, "cachestat", "-o", str(fifo)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "waiting" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(LONGEST_S) == 0
        assert process.stderr.read() == ""


def test_a_reader_who_leaves_a_fifo_ends_a_run(tmp_path: Path) -> None:
    fifo = fifo_at(tmp_path / "fifo")
    with subprocess.Popen([*MEMTAP, "cachestat", "0.1", "-o", str(fifo)]) as process:
        with fifo.open() as file:
            assert "HITS" in file.readline()
        assert process.wait(LONGEST_S) == 0


@pytest.mark.parametrize("number", ENDINGS)
def test_a_reader_who_is_stuck_does_not_keep_a_run_from_ending(number: int) -> None:
    """As when a pager shows the first page of what a pipe has long been full of."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    command = [*MEMTAP, "cachestat", "0.01", "-f", "json", "-p", str(os.getpid())]
    process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    try:
        os.close(writer)
        assert eventually(lambda: waits_in(process.pid, "do_sys_poll"), LONGEST_S)
        process.send_signal(number)
        _, err = process.communicate(timeout=LONGEST_S)
        assert (process.returncode, err) == (0, "")
    finally:
        process.kill()
        os.close(reader)


def waits_in(pid: int, function: str) -> bool:
    """Whether the first thread of a process sleeps in a function of the kernel."""
    stack, status = (Path(f"/proc/{pid}/{name}").read_text() for name in ("stack", "status"))
    return function in stack and "State:\tS" in status


@pytest.mark.parametrize(
    ("option", "what"), [("--flame", "the flame graph"), ("--folded", "the stacks")]
)
def test_a_full_disk_names_the_file_that_did_not_fit(option: str, what: str) -> None:
    done = memtap("faults", "0.2", "1", option, "/dev/full", "-p", os.getpid())
    first, second = done.stderr.splitlines()
    assert first == f"memtap: cannot write {what}: No space left on device"
    assert second == f"name another file with {option}"
    assert done.returncode == 1


def limited(limit: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """memtap under a limit of ulimit(1)."""
    shell = f'ulimit {limit}; exec "$@"'
    return subprocess.run(
        ["sh", "-c", shell, "sh", *MEMTAP, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("command", ["cachestat", "faults", "malloc", "slab"])
@pytest.mark.parametrize(
    ("limit", "what"),
    [
        *((f"-n {files}", "open files") for files in (16, 20, 24, 32, 50)),
        *((f"-v {kib}", "bytes of addresses") for kib in (150_000, 400_000, 800_000)),
        ("-d 100000", "bytes of data"),
        ("-s 128", "bytes of stack"),
    ],
)
def test_what_is_too_little_is_said(limit: str, what: str, command: str) -> None:
    says(limited(limit, command, "0.2", "1"), what, "raise that limit first: ulimit")


def test_a_cgroup_with_too_little_memory_is_said() -> None:
    """Its own, or one above it; without a word, the kernel kills whoever takes more."""
    with cgroup_of(40 << 20) as cgroup:
        inner = cgroup.folder / "inner"
        inner.mkdir()
        try:
            for folder in (cgroup.folder, inner):
                script = f"echo $$ > {folder}/cgroup.procs && exec " + shlex.join(MEMTAP)
                command = ["sh", "-c", f"{script} faults 0.2 1"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                says(done, "may have 41,943,040 bytes of memory", str(cgroup.folder))
        finally:
            inner.rmdir()


@pytest.mark.parametrize(
    ("report", "least"), [("cachetop", 72), ("faults", 72), ("malloc", 84), ("slab", 88)]
)
def test_in_a_small_cgroup_a_report_runs_or_says_that_it_cannot(report: str, least: int) -> None:
    """At its bound it has run before, so nothing is compiled; it warns that it may be killed."""
    assert memtap(report, "0.2", "1").returncode == 0
    for mib, status in ((least - 1, 1), (least, 0)):
        with cgroup_of(mib << 20) as cgroup:
            script = f"echo $$ > {cgroup.folder}/cgroup.procs && exec " + shlex.join(MEMTAP)
            command = ["sh", "-c", f"{script} {report} 0.2 1"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stderr
        assert f"may have {mib} MiB" in done.stderr or f"may have {mib << 20:,}" in done.stderr


def test_a_little_more_is_enough() -> None:
    files = 72 + 8 * (os.cpu_count() or 1)
    for limit in (f"-n {files}", f"-v {1 << 20}", "-s 256", "-d 400000"):
        done = limited(limit, "faults", "0.2", "1")
        assert (done.returncode, done.stderr) == (0, ""), limit


@pytest.mark.parametrize("limit", ["-n 12", "-v 30000", "-v 60000", "-v 100000"])
def test_what_traces_nothing_says_it_too_or_does_its_work(limit: str) -> None:
    done = limited(limit, "ps", "-r", "1")
    if done.returncode:
        first, second = done.stderr.splitlines()[-2:]
        assert first.startswith("memtap: ") and "ulimit" in second
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", ["cachestat", "faults", "ps", "pmap 1", "oom --scores", "doctor"]
)
@pytest.mark.parametrize("hide", ["umount -l /proc", "mount -t tmpfs none /proc"])
def test_without_proc(hide: str, command: str) -> None:
    script = f'{hide}; exec "$@"'
    words = ["unshare", "-m", "sh", "-c", script, "sh", *MEMTAP, *command.split()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    says(done, "/proc is not mounted", "mount -t proc proc /proc")


def test_without_a_place_for_temporary_files_it_compiles() -> None:
    """The whole disk is read-only, and nothing was compiled before."""
    script = 'mount -t tmpfs none /var/cache; mount -o remount,ro,bind /; exec "$@"'
    command = [*MEMTAP, "cachestat", "-f", "csv", "0.1", "1"]
    words = ["unshare", "-m", "sh", "-c", script, "sh", *command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd="/")
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stderr) == (0, "")


def test_what_was_compiled_is_used_from_a_disk_that_is_read_only() -> None:
    run = " ".join([*MEMTAP, "cachestat", "-f", "csv", "0.1", "1"])
    script = f"{run} && mount -o remount,ro /var/cache && mount --bind /dev/null {llvm()} && {run}"
    done = subprocess.run(hiding(["sh", "-c", script]), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_keeps_nothing_of_what_was_compiled(tmp_path: Path) -> None:
    run = " ".join([*MEMTAP, "cachestat", "-f", "csv", "-o", "/dev/null", "0.1", "1"])
    script = f"mount -t tmpfs -o size=8k none /var/cache && {run} && ls -A /var/cache/memtap"
    words = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_recording_without_stacks_gives_no_flame_graph(tmp_path: Path) -> None:
    bare, full = tmp_path / "bare.parquet", tmp_path / "full.parquet"
    memtap("faults", "-o", "/dev/null", "--record", bare, "--", "true")
    memtap("faults", "-o", "/dev/null", "--stacks", "--record", full, "--", "true")
    flame = tmp_path / "flame.html"
    for option in (("--flame", flame), ("--folded", flame), ("--stacks",)):
        says(memtap("faults", "--from", bare, *option), f"{bare} has no stacks", "with --stacks")
        assert not flame.exists()
    done = memtap("faults", "--from", full, "--flame", flame)
    assert (done.returncode, done.stderr) == (0, "")
    assert "<html" in flame.read_text()


def test_files_that_sudo_wrote_are_the_callers(tmp_path: Path) -> None:
    """Those that are new; what was there before stays whose it was."""
    caller = os.environ | {"SUDO_UID": "65534", "SUDO_GID": "65533"}
    names = ("out", "folded", "flame.html", "r.parquet")
    out, folded, flame, recording = (tmp_path / name for name in names)
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "link"
    link.symlink_to(elsewhere)
    old = tmp_path / "old"
    old.write_text("")
    files = ("-o", out, "--folded", folded, "--flame", flame, "--record", recording)
    mine = ("-p", os.getpid(), "0.2", "1")
    assert memtap("faults", *files, *mine, env=caller).returncode == 0
    assert memtap("cachestat", "-o", old, *mine, env=caller).returncode == 0
    assert memtap("ps", "-o", link, env=caller).returncode == 0
    for path in (out, folded, flame, recording, elsewhere):
        assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533), path
        assert path.stat().st_size > 0
    assert old.stat().st_uid == os.geteuid() and old.read_text()


def test_a_program_has_the_signals_and_variables_that_it_would_have_had() -> None:
    code = (
        "import os, signal;"
        "print([n for n in range(1, 32) if signal.getsignal(n) == signal.SIG_IGN]);"
        "print([n for n in os.environ if n.startswith(('POLARS', 'OPENBLAS'))])"
    )
    program = [sys.executable, "-S", "-c", code]
    alone = subprocess.check_output(program, text=True)
    for command in ("cachetop", "faults", "malloc", "slab", "pages", "reclaim"):
        assert memtap(command, "-o", "/dev/null", "--", *program).stdout == alone, command
    status = ["grep", "^SigIgn", "/proc/self/status"]
    alone = subprocess.check_output(status, text=True)
    assert memtap("faults", "-o", "/dev/null", "--", *status).stdout == alone
