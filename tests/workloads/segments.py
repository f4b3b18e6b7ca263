"""Makes segments of shared memory, does things to them at random, and says what it did.

    segments.py SEED SEGMENTS ACTIONS

Prints a line of JSON: for each segment its kind and name, who made and mapped it, and how many
pages each process brought in and gave back, kept in a model of its own. It stops if the kernel's
count of a segment (st_blocks, /proc/sysvipc/shm) is another.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
LIBC.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
LIBC.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
IPC_PRIVATE, IPC_CREAT, IPC_RMID = 0, 0o1000, 0
KEEP_SIZE, PUNCH_HOLE = 1, 2
KINDS = ("sysv", "posix", "memfd", "anonymous", "tmpfs")


def check(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Segment:
    """A segment, and what was done to it."""

    def __init__(self, kind: str, number: int, pages: int, folder: str) -> None:
        self.kind, self.pages = kind, pages
        self.fd, self.id = -1, -1
        self.memory: ctypes.Array[ctypes.c_char]
        self.present: set[int] = set()
        self.grown: Counter[int] = Counter()
        self.freed: Counter[int] = Counter()
        self.attached: Counter[int] = Counter()
        self.maker = os.getpid()
        self.path = ""
        getattr(self, f"make_{kind}")(f"memtap-{self.maker}-{number}", folder)

    def make_sysv(self, name: str, folder: str) -> None:
        self.id = check(LIBC.shmget(IPC_PRIVATE, self.pages * PAGE, IPC_CREAT | 0o600))
        at = LIBC.shmat(self.id, None, 0)
        self.map(at)
        self.name = f"shmid {self.id}"

    def make_posix(self, name: str, folder: str) -> None:
        self.make_file(Path("/dev/shm") / name)

    def make_tmpfs(self, name: str, folder: str) -> None:
        self.make_file(Path(folder) / name)

    def make_file(self, path: Path) -> None:
        self.fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        self.path = self.name = str(path)
        self.size_and_map()

    def make_memfd(self, name: str, folder: str) -> None:
        self.fd, self.name = os.memfd_create(name), f"memfd:{name}"
        self.size_and_map()

    def size_and_map(self) -> None:
        os.ftruncate(self.fd, self.pages * PAGE)
        self.buffer = mmap.mmap(self.fd, self.pages * PAGE)
        self.map(ctypes.addressof(ctypes.c_char.from_buffer(self.buffer)))

    def make_anonymous(self, name: str, folder: str) -> None:
        self.buffer = mmap.mmap(-1, self.pages * PAGE)
        self.name = "/dev/zero"
        self.map(ctypes.addressof(ctypes.c_char.from_buffer(self.buffer)))

    def map(self, address: int) -> None:
        self.memory = (ctypes.c_char * (self.pages * PAGE)).from_address(address)
        self.attached[os.getpid()] += 1

    def bring(self, pages: range) -> None:
        new = set(pages) - self.present
        self.present |= new
        self.grown[os.getpid()] += len(new)

    def drop(self, pages: range) -> None:
        gone = self.present & set(pages)
        self.present -= gone
        self.freed[os.getpid()] += len(gone)

    def some(self, chance: random.Random) -> range:
        first = chance.randrange(self.pages)
        return range(first, min(self.pages, first + chance.randint(1, 40)))

    def touch(self, chance: random.Random) -> None:
        pages = self.some(chance)
        for page in pages:
            if chance.random() < 0.5:
                self.memory[page * PAGE + 7] = b"x"
            else:
                bytes(self.memory[page * PAGE])
        self.bring(pages)

    def write(self, chance: random.Random) -> None:
        pages = self.some(chance)
        skipped = chance.randrange(PAGE)
        os.pwrite(self.fd, b"y" * (len(pages) * PAGE - skipped), pages.start * PAGE + skipped)
        self.bring(pages)

    def read(self, chance: random.Random) -> None:
        os.pread(self.fd, 40 * PAGE, self.some(chance).start * PAGE)

    def allocate(self, chance: random.Random) -> None:
        pages = self.some(chance)
        check(LIBC.fallocate(self.fd, 0, pages.start * PAGE, len(pages) * PAGE))
        self.bring(pages)

    def punch(self, chance: random.Random) -> None:
        pages = self.some(chance)
        how = KEEP_SIZE | PUNCH_HOLE
        check(LIBC.fallocate(self.fd, how, pages.start * PAGE, len(pages) * PAGE))
        self.drop(pages)

    def truncate(self, chance: random.Random) -> None:
        bytes_ = chance.randrange(self.pages * PAGE)
        os.ftruncate(self.fd, bytes_)
        os.ftruncate(self.fd, self.pages * PAGE)
        self.drop(range(-(-bytes_ // PAGE), self.pages))

    def remap(self, chance: random.Random) -> None:
        if self.kind == "sysv":
            check(LIBC.shmdt(ctypes.c_void_p(LIBC.shmat(self.id, None, 0))))
        else:
            mmap.mmap(self.fd, PAGE).close()
        self.attached[os.getpid()] += 1

    def unlink(self, chance: random.Random) -> None:
        if self.path:
            Path(self.path).unlink()
            self.path = ""

    @property
    def actions(self) -> list[Callable[[random.Random], None]]:
        with_file = [self.write, self.read, self.allocate, self.punch, self.truncate, self.remap]
        if self.kind == "anonymous":
            return [self.touch]
        return [self.touch, self.remap if self.kind == "sysv" else self.unlink, self.touch] + (
            [] if self.kind == "sysv" else with_file
        )

    def counted(self) -> int:
        """The pages that the kernel says it has; those of the model where it says nothing."""
        if self.kind == "sysv":
            lines = Path("/proc/sysvipc/shm").read_text().splitlines()
            names = lines[0].split()
            rows = [dict(zip(names, line.split(), strict=True)) for line in lines[1:]]
            (row,) = [row for row in rows if int(row["shmid"]) == self.id]
            return (int(row["rss"]) + int(row["swap"])) // PAGE
        return os.fstat(self.fd).st_blocks * 512 // PAGE if self.fd >= 0 else len(self.present)

    def end(self) -> None:
        """Gives it up; what it has is freed as soon as nobody maps it, which is when this ends."""
        self.unlink(random.Random())
        if self.kind == "sysv":
            check(LIBC.shmctl(self.id, IPC_RMID, None))
        self.drop(range(self.pages))

    def told(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "name": self.name,
            "maker": self.maker,
            "attached": self.attached,
            "grown": +self.grown,
            "freed": +self.freed,
        }


def act(segments: list[Segment], chance: random.Random, actions: int) -> None:
    for _ in range(actions):
        chance.choice(chance.choice(segments).actions)(chance)


def in_child(segments: list[Segment], chance: random.Random, actions: int) -> None:
    """A process that shares them does something, and says what the model is then."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        act(segments, chance, actions)
        news = [
            [sorted(s.present), s.path, *(dict(c) for c in (s.grown, s.freed, s.attached))]
            for s in segments
        ]
        with os.fdopen(writer, "w") as out:
            json.dump(news, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        news = json.load(said)
    os.wait()
    for segment, (present, path, *counts) in zip(segments, news, strict=True):
        segment.present, segment.path = set(present), path
        segment.grown, segment.freed, segment.attached = (
            Counter({int(pid): count for pid, count in each.items()}) for each in counts
        )


def in_thread(segments: list[Segment], chance: random.Random, actions: int) -> None:
    thread = threading.Thread(target=act, args=(segments, chance, actions))
    thread.start()
    thread.join()


def main(seed: int, count: int, actions: int) -> None:
    chance = random.Random(seed)
    folder = sys.argv[4] if len(sys.argv) > 4 else "/dev/shm"
    segments = [
        Segment(KINDS[n % len(KINDS)], n, chance.randint(1, 300), folder) for n in range(count)
    ]
    for _ in range(actions):
        chance.choice((act, in_child, in_thread))(segments, chance, chance.randint(1, 12))
    for segment in segments:
        assert segment.counted() == len(segment.present), segment.told()
    for segment in segments:
        segment.end()
    print(json.dumps([segment.told() for segment in segments]), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
