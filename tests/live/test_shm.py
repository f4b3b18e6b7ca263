"""shm against programs that know what they did, and against the kernel's own counts."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.limits import limited
from tests.live.tracing import PAGE, WORKLOADS, Row, eventually, memtap, reporting, reports

SEGMENTS = WORKLOADS / "segments.py"
HUGE = 2 << 20

Done = Counter[tuple[object, ...]]


@pytest.fixture
def huge() -> Iterator[None]:
    """Some huge pages."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    pool.write_text(str(int(before) + 8))
    if int(pool.read_text()) < int(before) + 8:
        pool.write_text(before)
        pytest.skip("there is no memory for huge pages")
    yield
    pool.write_text(before)


def traced(out: Path, by: str, *program: object) -> tuple[str, dict[str, Any]]:
    """What a program prints, and the report about it."""
    done = memtap("shm", "-b", by, "-f", "json", "-o", out, "--", *program)
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    return done.stdout, report


def python(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


def pages(row: Row, name: str) -> int:
    assert row[f"{name}_bytes"] % PAGE == 0
    return int(row[f"{name}_bytes"]) // PAGE


def counted(rows: list[Row]) -> Done:
    """What was done, by kind, segment, process and what it was; without what was not."""
    found: Done = Counter()
    for row in rows:
        key = row["kind"], row["segment"].removesuffix(" (deleted)"), row["pid"]
        found[*key, "grown"] += pages(row, "grown")
        found[*key, "freed"] += pages(row, "freed")
        found[*key, "attached"] += row["attaches"]
        found[*key, "created"] += row["created"]
    return +found


def told(segments: list[dict[str, Any]]) -> Done:
    """The same of what segments.py says that it did."""
    found: Done = Counter()
    for each in segments:
        key = each["kind"], each["name"]
        found[*key, each["maker"], "created"] += 1
        for what in ("grown", "freed", "attached"):
            for pid, count in each[what].items():
                found[*key, int(pid), what] += count
    return +found


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_done_to_segments_is_told(seed: int, tmpfs: Path, tmp_path: Path) -> None:
    """All kinds; touched, written, allocated, punched, truncated; by processes and threads."""
    command = (sys.executable, SEGMENTS, seed, 10, 20, tmpfs)
    said, report = traced(tmp_path / "out", "process,segment", *command)
    assert counted(report["rows"]) == told(json.loads(said))
    assert report["audit"]["accuracy"] == "exact"


def test_processes_that_fill_a_segment_together_have_their_own_part(tmp_path: Path) -> None:
    program = python("""
        import mmap, os
        memory = mmap.mmap(-1, 4096 * 4000)
        for part in range(4):
            if os.fork() == 0:
                for page in range(part, 4000, 4):
                    memory[page * 4096] = 1
                os._exit(0)
        for _ in range(4):
            os.wait()
    """)
    _, report = traced(tmp_path / "out", "process,segment", *program)
    grown = sorted(pages(row, "grown") for row in report["rows"])
    assert grown == [0, 1000, 1000, 1000, 1000]
    (maker,) = [row for row in report["rows"] if not row["grown_bytes"]]
    assert (maker["created"], maker["attaches"], pages(maker, "freed")) == (1, 1, 4000)
    assert report["audit"]["accuracy"] == "exact"


def test_threads_are_told_apart(tmp_path: Path) -> None:
    program = python("""
        import mmap, os, threading
        memory = mmap.mmap(-1, 4096 * 300)
        ids = {}
        def fill(part):
            ids[part] = threading.get_native_id()
            for page in range(part * 100, part * 100 + 50 + part):
                memory[page * 4096] = 1
        for part in range(3):
            thread = threading.Thread(target=fill, args=(part,))
            thread.start()
            thread.join()
        print([ids[part] for part in range(3)])
    """)
    said, report = traced(tmp_path / "out", "thread", *program)
    grown = {row["tid"]: pages(row, "grown") for row in report["rows"]}
    assert [grown[tid] for tid in json.loads(said)] == [50, 51, 52]


def test_the_few_pages_of_one_who_sleeps_are_told_and_are_what_the_kernel_counts(
    tmp_path: Path,
) -> None:
    """Though they wait for a list: nobody has emptied what the CPU has of them."""
    out = tmp_path / "out"
    program = python("""
        import mmap, os
        memory = mmap.mmap(-1, 4096 * 20)
        input()
        for page in range(9):
            memory[page * 4096] = 1
        input()
    """)
    with subprocess.Popen(program, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin
        with reporting(out, "shm", "-f", "json", "-b", "process,segment", 0.2):
            process.stdin.write("\n")
            process.stdin.flush()
            assert eventually(lambda: grown(rows_of(out, process.pid)) == 9)
        rows = rows_of(out, process.pid)
        process.stdin.write("\n")
        process.stdin.close()
    assert {(row["kind"], row["segment"]) for row in rows} == {("anonymous", "/dev/zero")}
    assert [pages(rows[-1], name) for name in ("freed", "resident", "size")] == [0, 9, 20]


def grown(rows: list[Row]) -> int:
    return sum(pages(row, "grown") for row in rows)


def rows_of(out: Path, pid: int) -> list[Row]:
    """What complete reports say of a process."""
    text = out.read_text().rpartition("\n")[0]
    return [row for report in reports(text) for row in report["rows"] if row["pid"] == pid]


def test_what_there_is_now_is_what_the_kernel_says(tmp_path: Path) -> None:
    """Of a file that stays: st_blocks and st_size; its path is where it is."""
    path = Path("/dev/shm") / f"memtap-{os.getpid()}"
    try:
        program = f"head -c 1234567 /dev/zero >{path}; truncate -s 2000000 {path}"
        _, report = traced(tmp_path / "out", "segment", "sh", "-c", program)
        (row,) = report["rows"]
        stat = path.stat()
    finally:
        path.unlink()
    assert (row["kind"], row["segment"], row["ino"]) == ("posix", str(path), stat.st_ino)
    assert (row["created"], row["size_bytes"]) == (1, 2_000_000)
    assert row["resident_bytes"] == row["grown_bytes"] == stat.st_blocks * 512


def test_growth_is_what_nr_shmem_comes_to(tmp_path: Path) -> None:
    """The kernel's own count, in vmstat: each CPU may hold some pages of it back."""
    path = Path("/dev/shm") / f"memtap-{os.getpid()}"
    try:
        program = f"head -c {64 << 20} /dev/zero >{path}"
        _, report = traced(tmp_path / "out", "segment", "sh", "-c", program)
    finally:
        path.unlink()
    (row,) = report["rows"]
    assert pages(row, "grown") == 16384
    assert abs(report["audit"]["kernel"]["nr_shmem"] - 16384) < 2048


SYSTEM_V = """
    import ctypes
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    get = lambda: libc.shmget(KEY, 40960, 0o1600)
    """


def test_a_segment_is_new_once_whoever_gets_it_again(tmp_path: Path) -> None:
    """By its key, by who made it and by another; both attach it."""
    key = 0x5E000000 | os.getpid() & 0xFFFF
    program = python(
        textwrap.dedent(SYSTEM_V).replace("KEY", str(key))
        + textwrap.dedent("""
        import os
        id = get()
        assert get() == id
        at = libc.shmat(id, None, 0)
        ctypes.memset(at, 1, 8192)
        child = os.fork()
        if not child:
            assert get() == id
            ctypes.memset(libc.shmat(id, None, 0), 1, 20480)
            os._exit(0)
        os.wait()
        rows = [line.split() for line in open("/proc/sysvipc/shm")][1:]
        rss, = [int(row[-2]) for row in rows if int(row[1]) == id]
        libc.shmctl(id, 0, None)
        print(id, child, rss // 4096)
    """)
    )
    said, report = traced(tmp_path / "out", "process,segment", *program)
    id, child, resident = map(int, said.split())
    rows = {row["pid"] == child: row for row in report["rows"]}
    assert {row["segment"] for row in rows.values()} == {f"shmid {id} key {key:#010x}"}
    assert [(rows[c]["created"], rows[c]["attaches"]) for c in (False, True)] == [(1, 1), (0, 1)]
    assert [pages(rows[c], "grown") for c in (False, True)] == [2, 3]
    assert sum(pages(row, "freed") for row in rows.values()) == resident == 5


def test_segments_that_were_there_before_are_not_new(tmp_path: Path) -> None:
    with (Path("/dev/shm") / f"memtap-{os.getpid()}").open("w+b") as file:
        file.truncate(PAGE)
        program = f"exec 3<>{file.name}; printf x >&3; : >{file.name}"
        _, report = traced(tmp_path / "out", "segment", "sh", "-c", program)
        Path(file.name).unlink()
    (row,) = report["rows"]
    assert (row["created"], pages(row, "grown"), pages(row, "freed")) == (0, 1, 1)


def test_large_folios_count_as_the_pages_they_have(tmp_path: Path) -> None:
    mount = tmp_path / "huge"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=always", "none", mount], check=False)
    if done.returncode:
        pytest.skip("tmpfs has no huge pages here")
    try:
        program = (
            f"head -c {5 * HUGE + 5000} /dev/zero >{mount}/a; truncate -s {HUGE + 7} {mount}/a"
        )
        _, report = traced(tmp_path / "out", "segment", "sh", "-c", program)
        stat = (mount / "a").stat()
    finally:
        subprocess.check_call(["umount", mount])
    (row,) = report["rows"]
    assert row["grown_bytes"] >= 5 * HUGE + 5000
    assert row["grown_bytes"] - row["freed_bytes"] == row["resident_bytes"] == stat.st_blocks * 512


@pytest.mark.usefixtures("huge")
def test_huge_pages_are_declared_and_what_there_is_of_them_is_told(tmp_path: Path) -> None:
    program = python("""
        import ctypes, mmap, os
        fd = os.memfd_create("large", os.MFD_HUGETLB)
        os.ftruncate(fd, 3 << 21)
        memory = mmap.mmap(fd, 3 << 21)
        memory[0] = memory[1 << 21] = 1
        own = mmap.mmap(-1, 1 << 21, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
        own[0] = 1
        input()
    """)
    out = tmp_path / "out"
    with (
        reporting(out, "shm", "-f", "json", "-b", "process,segment", 0.2),
        subprocess.Popen(program, stdin=subprocess.PIPE, text=True) as process,
    ):
        assert eventually(lambda: bool(rows_of(out, process.pid)))
        process.communicate("\n", timeout=30)
    (row,) = rows_of(out, process.pid)
    assert (row["kind"], row["segment"]) == ("memfd", "memfd:large")
    assert (row["created"], row["attaches"], row["grown_bytes"]) == (1, 1, None)
    assert row["size_bytes"] == 3 * HUGE
    assert row["resident_bytes"] in (0, HUGE, 2 * HUGE)  # it may not have touched them yet
    (report,) = [report for report in reports(out.read_text()) if row in report["rows"]]
    assert any("huge pages" in note for note in report["audit"]["notes"])


@pytest.mark.usefixtures("swap")
def test_what_swap_makes_unsure_is_bounded(tmp_path: Path) -> None:
    """Pages that come out of swap are no growth, and what is freed there no tracepoint tells."""
    program = python("""
        import mmap, os
        memory = mmap.mmap(-1, 4096 * 4000)
        for _ in range(2):
            for page in range(4000):
                memory[page * 4096] = 1
    """)
    with limited(8 << 20) as cgroup:
        cgroup.limit(8 << 20, swaps=True)
        inside = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', cgroup.folder / "cgroup.procs", *program]
        _, report = traced(tmp_path / "out", "segment", *inside)
    (row,) = [row for row in report["rows"] if row["kind"] == "anonymous"]
    assert report["audit"]["kernel"]["pswpout"] > 0
    assert report["audit"]["accuracy"] == "bounded"
    bound = sum(bounds(report["audit"]["notes"]))
    assert 4000 <= pages(row, "grown") <= 4000 + bound
    assert 4000 - bound <= pages(row, "freed") <= 4000


def bounds(notes: list[str]) -> list[int]:
    """The numbers of pages that notes tell of."""
    words = [note.split() for note in notes]
    return [int(each[at - 1]) for each in words for at, word in enumerate(each) if word == "pages"]


def test_only_those_who_are_asked_for_are_told_of(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = python("import mmap, sys; input(); m = mmap.mmap(-1, 40960); m[:] = bytes(40960)")
    processes = [subprocess.Popen(program, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    with reporting(out, "shm", "-f", "json", "-b", "process", "-p", processes[0].pid, 0.2):
        for process in reversed(processes):
            process.communicate("\n", timeout=30)
        assert eventually(lambda: grown(rows_of(out, processes[0].pid)) == 10)
    assert not rows_of(out, processes[1].pid)


def test_a_recording_says_the_same(tmp_path: Path, tmpfs: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept.parquet"
    command = (sys.executable, SEGMENTS, 7, 5, 5, tmpfs)
    done = memtap("shm", "-f", "json", "-o", out, "--record", kept, "--", *command)
    assert done.returncode == 0, done.stderr
    again = memtap("shm", "-f", "json", "--from", kept)
    assert again.stdout == out.read_text()
    by_process = memtap("shm", "-f", "json", "-b", "process,segment", "--from", kept)
    (report,) = reports(by_process.stdout)
    assert counted(report["rows"]) == told(json.loads(done.stdout))


def test_an_empty_report_says_why() -> None:
    done = memtap("shm", "--", "true")
    assert "no shared memory was made, mapped, grown or freed" in done.stdout
    assert mmap.PAGESIZE == PAGE
