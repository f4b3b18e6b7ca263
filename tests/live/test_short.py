"""Calls that look up more than they hand out: what they asked the page cache for is what counts."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memtap.tracers.pagecache.counts import BATCH
from tests.live.asking import Case, Range, cache_some, here_and_there, in_a_row, pages_of
from tests.live.tracing import PAGE, Trace, evict, kept, make_file

Run = Callable[..., Trace]

SEED = int(os.environ.get("MEMTAP_SEED", "0")) or random.randrange(1 << 30)
CASES = int(os.environ.get("MEMTAP_CASES", "12"))
PAGES = 700
BUFFER = 299 * PAGE
PIPE = 16 * PAGE  # sendfile(2) looks up as much at a time as its own pipe has room for

HEAD = """
import ctypes, mmap, os, pathlib, random, socket, sys
from tests.live.tracing import PAGE, cached_pages
libc = ctypes.CDLL(None)
"""

# Prints what of each file is cached, and what each of its calls returned.
TAIL = """
for path, reads, seed in eval(sys.stdin.read()):
    path, got = pathlib.Path(path), []
    fd = os.open(path, os.O_RDONLY)
    print("".join(map(str, cached_pages(path))))
    calls(fd, reads, random.Random(seed), got)
    print(*got)
"""

# Sends to a socket that nobody, or somebody now and then, reads.
FULL_SOCKETS = """
def unix():
    return socket.socketpair()
def tcp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]
def calls(fd, reads, dice, got):
    ours, theirs = dice.choice((unix, tcp))()
    ours.setblocking(False)
    theirs.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, dice.choice((4096, 100_000, 1 << 20)))
    for at, size in reads:
        try:
            got.append(os.sendfile(ours.fileno(), fd, at, size))
        except BlockingIOError:
            got.append(0)
        if dice.random() < 0.3:
            try:
                theirs.recv(dice.randrange(1, 1 << 18))
            except BlockingIOError:
                pass
"""

# Reads into memory of which a page cannot be written.
BAD_BUFFERS = """
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
libc.pread.restype = ctypes.c_ssize_t
def calls(fd, reads, dice, got):
    memory = mmap.mmap(-1, 300 * PAGE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc.mprotect(begin + dice.randrange(300) * PAGE, PAGE, dice.choice((0, 1)))
    for at, size in reads:
        got.append(libc.pread(fd, begin + dice.randrange(PAGE), min(size, 299 * PAGE), at))
"""

HASTY = """
def calls(fd, reads, dice, got):
    for at, size in reads:
        try:
            got.append(os.preadv(fd, [bytearray(size)], at, os.RWF_NOWAIT))
        except BlockingIOError:
            got.append(0)
"""


def case_of(dice: random.Random, file: Path, cached: bool) -> Case:
    """Reads that begin with a page, of a file of which all or some pages are cached."""
    cache_some(dice, file)
    if cached:
        file.read_bytes()
    size = file.stat().st_size
    reads = in_a_row(dice, size) if dice.random() < 0.5 else here_and_there(dice, size)
    return Case("", file, 0, [(at // PAGE * PAGE, min(length, 1 << 20)) for at, length in reads])


def run(program: str, cases: list[Case], trace: Run) -> tuple[Trace, list[list[str]]]:
    """Calls of a kind; and of each case what was cached, and what its calls returned."""
    dice = random.Random(SEED)
    told = repr([(str(case.file), case.reads, dice.random()) for case in cases])
    done = trace(sys.executable, "-c", HEAD + program + TAIL, input=told)
    assert done.status == 0, done.stderr
    return done, [list(lines) for lines in zip(*[iter(done.stdout.splitlines())] * 2, strict=True)]


def cases_of(disk: Path, cached: bool = False) -> list[Case]:
    dice = random.Random(SEED)
    files = [make_file(disk / f"short-{n}", PAGES, tail=77) for n in range(CASES)]
    return [case_of(dice, file, cached) for file in files]


def within(read: Range, size: int) -> Range:
    """What a read asks for of a file of this size."""
    at, length = read
    return at, max(min(length, size - at), 0)


def sent_pages(read: Range, sent: int) -> int:
    """How many pages a sendfile() looks up that sends so much: all of the pipe that stopped it."""
    at, length = read
    begun = sent // PIPE * PIPE + PIPE
    return len(pages_of(at, min(begun, length)))


@pytest.mark.parametrize("cached", [True, False])
def test_what_a_full_socket_does_not_take_was_asked_for(
    cached: bool, disk: Path, trace: Run
) -> None:
    """The next call asks for it once more."""
    cases = cases_of(disk, cached)
    done, lines = run(FULL_SOCKETS, cases, trace)
    wrong = []
    for case, (_, got) in zip(cases, lines, strict=True):
        reads = [within(read, case.file.stat().st_size) for read in case.reads]
        truth = sum(map(sent_pages, reads, map(int, got.split())))
        if truth != (counted := sum(done.counts(case.file)[:2])):
            wrong.append((case, truth, counted))
    assert (wrong, done.audit["accuracy"]) == ([], "exact"), f"MEMTAP_SEED={SEED}"


def asked_pages(case: Case) -> Iterator[tuple[int, int, int]]:
    """Of each read where it begins, and how many bytes and pages of the file it asks for."""
    for at, length in case.reads:
        _, size = within((at, min(length, BUFFER)), case.file.stat().st_size)
        yield at, size, len(pages_of(at, size))


@pytest.mark.parametrize("cached", [True, False])
def test_what_a_bad_buffer_has_no_room_for_was_asked_for(
    cached: bool, disk: Path, trace: Run
) -> None:
    """Of a call that ends before a page which is still being read nothing may be told."""
    cases = cases_of(disk, cached)
    done, lines = run(BAD_BUFFERS, cases, trace)
    wrong = []
    for case, (_, got) in zip(cases, lines, strict=True):
        asked = list(asked_pages(case))
        whole = [
            size == int(result) for (_, size, _), result in zip(asked, got.split(), strict=True)
        ]
        most = sum(pages for _, _, pages in asked)
        least = sum(
            pages
            for (_, _, pages), all_of_it in zip(asked, whole, strict=True)
            if cached or all_of_it
        )
        if not least <= (counted := sum(done.counts(case.file)[:2])) <= most:
            wrong.append((case, least, counted, most))
    assert (wrong, done.audit["accuracy"]) == ([], "exact"), f"MEMTAP_SEED={SEED}"


def test_what_does_not_wait_is_exact_or_bounded(disk: Path, trace: Run) -> None:
    cases = cases_of(disk)
    done, lines = run(HASTY, cases, trace)
    off = 0
    for case, (cached, got) in zip(cases, lines, strict=True):
        truth, counted = sum(case.truth(cached, got)), sum(done.counts(case.file)[:2])
        off += abs(truth - counted)
    notes = [note for note in done.audit["notes"] if note.startswith("where")]
    assert off <= sum(int(note.split()[1]) for note in notes) * BATCH, f"MEMTAP_SEED={SEED}"


def test_pages_that_are_asked_for_one_by_one_without_waiting_are_exact(
    disk: Path, trace: Run
) -> None:
    """What is not there, or still being read, is no access; to have it read is none either."""
    file = make_file(disk / "one-by-one", PAGES)
    evict(file)
    case = Case("", file, 0, [(page * PAGE, PAGE) for page in range(PAGES)] * 2)
    with kept(file, every=7):
        done, ((cached, got),) = run(HASTY, [case], trace)
    assert done.counts(file)[:2] == case.truth(cached, got)
