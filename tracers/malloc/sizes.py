"""The sizes of blocks that a program asks malloc for, and the path of each size."""

from __future__ import annotations

from collections import Counter

from memtap.bpf.stream import Events
from memtap.tracers.malloc.allocator import Path, Rule, Step
from memtap.tracers.malloc.probes import Call
from memtap.tracers.malloc.rows import Fact
from memtap.tracers.model.report import Row

# The rules by which a call gets memory for a request.
FOR_REQUESTS = (
    Rule.HEAP_GROWN,
    Rule.CHUNK_MAPPED,
    Rule.CHUNK_RESIZED,
    Rule.ARENA_RESERVED,
    Rule.ARENA_GROWN,
)
_FREES = 0

# The calls that can get memory for a request.
_GETTING = (Call.BRK, Call.MMAP, Call.MOVED_TO, Call.MPROTECT)

# No malloc serves larger requests, nor asks the kernel for them; these have this power of two or
# more.
_MOST = 63

# A process, a thread, and the number of its request, from 1 on.
_Request = tuple[int, int, int]

# A power of two, and the path; None if it was refused.
_Way = tuple[int, Path | None]


class Sizes:
    """Requests by powers of two of their size, and by the path to the kernel."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()
        self._asked: dict[_Request, _Way] = {}

    def feed(self, rows: Events) -> None:
        """Takes in how many requests there were (Fact.REQUESTED)."""
        for row in rows[rows["kind"] == Fact.REQUESTED]:
            self._requests[int(row["size_class"])] += int(row["requests"])

    def note(self, row: Row, step: Step) -> None:
        """Takes in a call; of several for one request the last decides the path, or the refusal."""
        refused = step.rule is Rule.FAILED and row["kind"] in _GETTING
        if row["request_number"] and (refused or step.rule in FOR_REQUESTS):
            request = row["tgid"], row["tid"], row["request_number"]
            self._asked[request] = class_of(row["request"]), None if refused else step.path

    def take(self) -> list[dict[str, int]] | None:
        """A row for each size that was asked for since the last call; None if none was counted.

        `reused` is how many requests were served without the kernel.
        """
        requests, self._requests = self._requests, Counter()
        asked, self._asked = Counter(self._asked.values()), {}
        del requests[_FREES]
        sizes = sorted(requests.keys() | {size for size, _ in asked})
        return [_row(size, requests[size], asked) for size in sizes] or None


def class_of(size: int) -> int:
    """The power of two of a request, from 1 on, as the C program counts them."""
    return max(1, size.bit_length())


def _row(size: int, requests: int, asked: Counter[_Way]) -> dict[str, int]:
    ways = {path.text: asked[size, path] for path in (Path.BRK, Path.MMAP, Path.ARENA)}
    refused = asked[size, None]
    reused = max(0, requests - sum(ways.values()) - refused)  # one may be counted a little later
    if size > _MOST:
        refused, reused = refused + reused, 0
    return {
        "from_bytes": 1 << size - 1 if size > 1 else 0,
        "to_bytes": (1 << size) - 1,
        "requests": requests,
        "reused": reused,
        "refused": refused,
        **ways,
    }
