"""Prints the README's accuracy tables: workloads whose answer is known, and what was counted.

    sudo ./bootstrap python -m tests.bench.accuracy [--peers]

With --peers the last columns are what bcc's own cachestat and cachetop say, each of a run of its
own; they need kprobes, and know of the host and of processes, not of files. Else the last column is
what counting as bcc's cachestat does would have said on the same events: a folio that entered the
cache is one miss, less one for each folio that was dirtied.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from memtap.tracers.live.recording import Recording
from memtap.tracers.pagecache.probes import Kind
from tests.bench.peers import Cachestat, Cachetop, DidNotStartError
from tests.live.tracing import PAGE, WORKLOADS, evict, kept, make_file, memtap, reports

PAGES = 16384
WRITTEN = 2000
READS = 10_000
SMALL = 1000
IMAGE_BYTES = 400 << 20
FILE_SYSTEMS = {
    "xfs": ("mkfs.xfs", "-q"),
    "xfs with blocks of 16 KiB": ("mkfs.xfs", "-q", "-b", "size=16384"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "ext4 with blocks of 1 KiB": ("mkfs.ext4", "-q", "-b", "1024"),
}

Counts = tuple[int, int, int]
Files = list[Path]

# Other ways than read(), see tests/workloads/reader.c.
METHODS = ("pread", "readv", "preadv2", "sendfile", "splice", "io_uring", "libaio")


@dataclass(frozen=True)
class Case:
    """A workload on files, and its hits, misses and dirties; `truth` may look at its output."""

    name: str
    command: list[str]
    files: Files
    truth: Callable[[str], Counts]
    cached: Callable[[], AbstractContextManager[object]]


def cold(*files: Path) -> Callable[[], AbstractContextManager[object]]:
    def prepare() -> AbstractContextManager[object]:
        evict(*files)
        return nullcontext()

    return prepare


def warm(*files: Path, pages: int | None = None) -> Callable[[], AbstractContextManager[object]]:
    def prepare() -> AbstractContextManager[object]:
        evict(*files)
        stack = ExitStack()
        for file in files:
            stack.enter_context(kept(file, pages))
        return stack

    return prepare


def nothing() -> AbstractContextManager[object]:
    return nullcontext()


def always(*counts: int) -> Callable[[str], Counts]:
    hits, misses, dirties = counts
    return lambda _output: (hits, misses, dirties)


def distinct(output: str) -> Counts:
    """random_reader prints how many different pages it read."""
    return READS - int(output), int(output), 0


def faults(output: str) -> Counts:
    """mapper prints its minor and major faults; this mapping's pages were all cached."""
    return sum(map(int, output.split())), 0, 0


def minor_major(output: str) -> Counts:
    """The same, where some were not cached."""
    minor, major = map(int, output.split())
    return minor, major, 0


def reads(run: Callable[[str], str], disk: Path) -> Iterator[Case]:
    big = make_file(disk / "big", PAGES)
    read = [run("reader"), "read", str(big)]
    for size in ("4 KiB", "128 KiB", "1 MiB", "8 MiB"):
        number, unit = size.split()
        block = str(int(number) << {"KiB": 10, "MiB": 20}[unit])
        name = f"read of {PAGES} cold pages, {size} at a time"
        yield Case(name, [*read, block], [big], always(0, PAGES, 0), cold(big))
    hit = always(PAGES, 0, 0)
    yield Case("the same pages again", [*read, "131072"], [big], hit, warm(big))
    half = PAGES // 2
    name = "the same, half of them cached"
    yield Case(name, [*read, "131072"], [big], always(half, half, 0), warm(big, pages=half))
    for method in METHODS:
        command = [run("reader"), method, str(big), "131072"]
        yield Case(f"cold, by {method}", command, [big], always(0, PAGES, 0), cold(big))
    yield from partly_cached(run, big)
    for name, program in (("by two threads", "two_threads"), ("by a migrating thread", "migrator")):
        command = [run(program), str(big), "131072"]
        yield Case(f"cold, {name}", command, [big], always(0, PAGES, 0), cold(big))
    command = [run("random_reader"), str(big), str(READS)]
    yield Case(f"{READS} random reads, cold, no readahead", command, [big], distinct, cold(big))
    past = [str(len(big.read_bytes()) + 1), str(big)]
    command = ["tail", "-c", f"+{past[0]}", past[1]]
    yield Case("read past the end", command, [big], always(0, 0, 0), cold(big))
    small = [make_file(disk / f"small-{number}", 0, tail=3000) for number in range(SMALL)]
    md5 = ["md5sum", *map(str, small)]
    yield Case(f"{SMALL} cold files of 3000 bytes", md5, small, always(0, SMALL, 0), cold(*small))
    yield Case("the same files again", md5, small, always(SMALL, 0, 0), warm(*small))


def every_other(file: Path, pages: int = 1) -> Callable[[], AbstractContextManager[object]]:
    """Makes every other block of so many pages cached, without readahead."""

    def prepare() -> AbstractContextManager[object]:
        evict(file)
        return kept(file, every=2 * pages)

    return prepare


def partly_cached(run: Callable[[str], str], big: Path) -> Iterator[Case]:
    half = always(PAGES // 2, PAGES // 2, 0)
    for method in ("read", *METHODS):
        command = [run("reader"), method, str(big), "131072"]
        name = f"every other page cached, by {method}"
        yield Case(name, command, [big], half, every_other(big))


def others(run: Callable[[str], str], disk: Path) -> Iterator[Case]:
    """The same on other file systems, in images."""
    for name, maker in FILE_SYSTEMS.items():
        image, folder = disk / f"{name}.image", disk / name
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.check_call([*maker, image], stdout=subprocess.DEVNULL)
        folder.mkdir()
        subprocess.check_call(["mount", "-o", "loop", image, folder])
        try:
            big = make_file(folder / "big", PAGES)
            command = [run("reader"), "pread", str(big), "131072"]
            half = always(PAGES // 2, PAGES // 2, 0)
            pages = max(os.statvfs(folder).f_bsize // PAGE, 1)
            what = "page" if pages == 1 else "block"
            case = f"every other {what} cached, {name}"
            yield Case(case, command, [big], half, every_other(big, pages))
        finally:
            subprocess.check_call(["umount", folder])


def maps(run: Callable[[str], str], disk: Path) -> Iterator[Case]:
    big = disk / "big"
    scan = [run("mapper"), "random", str(big)]
    name = f"mapped, {PAGES} cold pages touched"
    yield Case(name, scan, [big], always(0, PAGES, 0), cold(big))
    yield Case("mapped, cached pages touched", scan, [big], faults, warm(big))
    yield Case("mapped, every other page cached", scan, [big], minor_major, every_other(big))
    around = [run("mapper"), "normal", str(big)]
    yield Case("mapped, cached, with fault-around", around, [big], faults, warm(big))


def writes(run: Callable[[str], str], disk: Path) -> Iterator[Case]:
    new, old = disk / "new", make_file(disk / "old", WRITTEN)
    writer, pages, page = run("writer"), str(WRITTEN), str(PAGE)
    dirty = always(0, 0, WRITTEN)
    fresh = [writer, str(new), "new", pages, page]
    yield Case(f"write of {WRITTEN} new pages", [*fresh, "1"], [new], dirty, nothing)
    yield Case("the same, five times over", [*fresh, "5"], [new], dirty, nothing)
    again = [writer, str(old), "old", pages]
    yield Case("write to cached, clean pages", [*again, page, "1"], [old], dirty, warm(old))
    yield Case("write of 100 bytes of cold pages", [*again, "100", "1"], [old], dirty, cold(old))
    direct = [writer, str(old), "direct", pages, page, "1"]
    yield Case("write with O_DIRECT", direct, [old], always(0, 0, 0), cold(old))


def counted(case: Case, disk: Path) -> tuple[Counts, Counts, int]:
    """The truth, what memtap says, and what counting folios says of misses."""
    report, recording = disk / "report", disk / "recording"
    keep = ["-b", "file", "-f", "json", "-o", str(report), "--record", str(recording)]
    with case.cached():
        done = memtap("cachetop", *keep, "--", *case.command)
    assert done.returncode == 0, done.stderr
    paths = set(map(str, case.files))
    rows = [row for row in reports(report.read_text())[0]["rows"] if row["path"] in paths]
    names = ("hits_pages", "misses_pages", "dirties_pages")
    hits, misses, dirties = (sum(row[name] for row in rows) for name in names)
    return case.truth(done.stdout), (hits, misses, dirties), folio_misses(recording, case.files)


def folio_misses(recording: Path, files: Files) -> int:
    """Folios that entered the cache less folios that were dirtied, at least none."""
    paths = set(map(str, files))
    mine: set[int] = set()
    added = dirtied = 0
    for chunk in Recording(recording):
        mine |= {number for number, name in chunk.paths.items() if name.path in paths}
        kinds = chunk.rows["kind"][np.isin(chunk.rows["file"], list(mine))]
        added += int((kinds == Kind.ADD).sum())
        dirtied += int((kinds == Kind.DIRTY).sum())
    return max(added - dirtied, 0)


Peer = Cachestat | Cachetop


@contextmanager
def running(tool: type[Peer]) -> Iterator[Peer | None]:
    """One of bcc's tools, or None where it does not start."""
    try:
        peer = tool()
    except DidNotStartError:
        yield None
        return
    try:
        yield peer
    finally:
        peer.close()


def said(peer: Peer | None, case: Case) -> str:
    """What one of bcc's tools says of a workload."""
    if peer is None:
        return "does not start"
    with case.cached():
        run = partial(subprocess.run, case.command, capture_output=True)
        return ", ".join(map(str, peer.counts(run, Path(case.command[0]).name)))


def compiler(folder: Path) -> Callable[[str], str]:
    def run(name: str) -> str:
        program = folder / name
        if not program.exists():
            source = WORKLOADS / f"{name}.c"
            subprocess.check_call(["cc", "-O1", "-pthread", "-o", program, source])
        return str(program)

    return run


def main(with_peers: bool) -> None:
    """Prints the tables, in Markdown; ends with status 1 if a count is not the truth."""
    wrong = 0
    tools: dict[str, type[Peer]] = {}
    if with_peers:
        tools = {"bcc cachestat": Cachestat, "bcc cachetop": Cachetop}
    headings = ["workload", "true hits, misses, dirties", "memtap"]
    headings += tools or ["misses, folio by folio"]
    print(line(headings), line("---" for _ in headings), sep="\n", flush=True)
    with ExitStack() as stack:
        peers = [stack.enter_context(running(tool)) for tool in tools.values()]
        disk = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="memtap-", dir="/var/tmp"))
        )
        run = compiler(disk)
        for case in chain(reads(run, disk), others(run, disk), maps(run, disk), writes(run, disk)):
            truth, ours, folios = counted(case, disk)
            wrong += truth != ours
            texts = [", ".join(map(str, counts)) for counts in (truth, ours)]
            texts += [said(peer, case) for peer in peers] or [str(folios)]
            print(line([case.name, *texts]), flush=True)
    wrong += 0 if with_peers else faulted()
    raise SystemExit(wrong > 0)


PROGRAMS = (["true"], ["sh", "-c", "true"], ["/usr/bin/python3", "-c", "pass"])


def faulted() -> int:
    """Prints the faults of programs, from exec on, as taskstats has them; how many rows differ."""
    print("", line(["program", "true minor, major faults", "memtap"]), line(["---"] * 3), sep="\n")
    wrong = 0
    for program in PROGRAMS:
        done = memtap("faults", "-b", "process", "-f", "json", "-o", "/dev/stdout", "--", *program)
        report = reports(done.stdout)[0]
        truth = (report["audit"]["kernel"][name] for name in ("ac_minflt", "ac_majflt"))
        ours = (sum(row[name] for row in report["rows"]) for name in ("minor", "major"))
        texts = [", ".join(map(str, counts)) for counts in (truth, ours)]
        wrong += len(set(texts)) > 1
        print(line([f"`-- {' '.join(program)}`", *texts]), flush=True)
    return wrong


def line(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main("--peers" in sys.argv[1:])
