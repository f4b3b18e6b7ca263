"""Records out of the perf buffers into numpy arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# How many batches are decoded at a time: so many fit into a CPU's cache.
_TOGETHER = 16

Events = npt.NDArray[np.void]

# The type of records that a program does not send.
_NOTHING = np.dtype([("record", "u4")])

# The first word of every record, an enum in memtap/batch.h.
RECORD_EVENTS, RECORD_NAME, RECORD_RUNS, RECORD_FRAME = 1, 2, 3, 4

# Of a `struct lane`: the bytes before its table of runs, how many runs it has, and the bytes of the
# table's last member, which shows whether a run is open.
LANE_HEAD_BYTES, RUNS, _OPEN_BYTES = 32, 64, 8

# How many words of a call's stack follow a `struct frame`.
STACK_WORDS = 128


class NameRecord(NamedTuple):
    """`struct name_head` of memtap/names.h, and the names: the file's own, its folder's, ... .

    Each name ends with NUL.
    """

    ns: int
    file: int
    ino: int
    dev: int
    volume: int
    rdev: int
    generation: int
    mount: int
    flags: int
    names: bytes


_NAME_MEMBERS = NameRecord._fields[:-1]


def dtype_of(layout: dict[str, Any]) -> np.dtype[np.void]:
    """The numpy type of a C struct, all of whose members are unsigned numbers."""
    members = layout["members"]
    return np.dtype(
        {
            "names": [name for name, _, _ in members],
            "formats": [f"u{size}" for _, _, size in members],
            "offsets": [offset for _, offset, _ in members],
            "itemsize": layout["size"],
        }
    )


def _with_stack(head: np.dtype[np.void]) -> np.dtype[np.void]:
    members = [(name, head[name]) for name in head.names or ()]
    return np.dtype([*members, ("words", "u8", STACK_WORDS)])


def take(rows: npt.NDArray[Any], which: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """rows[which], with whole rows copied; numpy would copy structs member by member."""
    wholes: npt.NDArray[Any] = rows.view(np.dtype((np.void, rows.dtype.itemsize)))[which]
    return wholes.view(rows.dtype)


class Stream:
    """Collects the records of all CPUs, and gives them out as one array in order of time.

    Attributes:
        received: how many batches of events have come in, ever.
    """

    def __init__(self, layouts: dict[str, dict[str, Any]]) -> None:
        self._head, self._event, self._run, self._name = (
            dtype_of(layouts[name]) if name in layouts else _NOTHING
            for name in ("batch", "event", "run", "name")
        )
        self._frame = _with_stack(dtype_of(layouts["frame"])) if "frame" in layouts else self._head
        self.received = 0
        self._batches: list[bytes] = []
        self._runs: list[bytes] = []
        self._names: list[bytes] = []
        self._frames: list[bytes] = []

    def add(self, record: bytes) -> None:
        """Takes one record; perf pads it, so it may be longer than what was submitted."""
        kind = int.from_bytes(record[:4], "little")
        if kind == RECORD_EVENTS:
            self._batches.append(record)
            self.received += 1
        elif kind == RECORD_RUNS:
            self._runs.append(record)
        elif kind == RECORD_FRAME:
            self._frames.append(record[: self._frame.itemsize])
        else:
            self._names.append(record)

    def add_lane(self, lane: bytes) -> None:
        """Takes what a lane of a CPU that is offline holds (`struct lane` of memtap/batch.h)."""
        ends = LANE_HEAD_BYTES + self._head.itemsize + RUNS * self._run.itemsize + _OPEN_BYTES
        runs, batch = lane[LANE_HEAD_BYTES:ends], lane[ends:]
        if np.frombuffer(batch, self._head, count=1)["used"][0]:
            self.add(RECORD_EVENTS.to_bytes(4, "little") + batch[4:])
        if int.from_bytes(runs[-_OPEN_BYTES:], "little"):
            self.add(RECORD_RUNS.to_bytes(4, "little") + runs[4:])

    @property
    def waiting(self) -> int:
        """How many batches of events have not been taken yet."""
        return len(self._batches)

    def _decode_names(self, records: list[bytes]) -> list[NameRecord]:
        """Decodes names in order of time: a task may have moved to another CPU between two names.

        All are decoded at once: hundreds of thousands may come in a second, and each member takes
        time.
        """
        if not records:
            return []
        start = self._name.itemsize
        heads = np.frombuffer(b"".join(record[:start] for record in records), self._name)
        order = np.argsort(heads["ns"], kind="stable")
        heads = take(heads, order)
        members = [heads[name].tolist() for name in _NAME_MEMBERS]
        ends = (start + heads["used"]).tolist()
        names = [records[at][start:end] for at, end in zip(order.tolist(), ends, strict=True)]
        return list(map(NameRecord._make, zip(*members, names, strict=True)))

    def take(self) -> tuple[Events, Events, list[NameRecord]]:
        """Events, runs and names so far; the stream is empty afterwards.

        The events are in order of time and have the members of `struct event`, but `ns`
        (CLOCK_MONOTONIC) for `dt_ns`. The runs have the members of `struct run`.
        """
        batches, self._batches = self._batches, []
        runs, self._runs = self._runs, []
        names, self._names = self._names, []
        return self._merge(batches), self._open_runs(runs), self._decode_names(names)

    def take_frames(self) -> Events:
        """Registers and stacks of calls so far, with the members of `struct frame` and `words`.

        Only the first `used` bytes of `words` are of the stack.
        """
        frames, self._frames = self._frames, []
        return np.frombuffer(b"".join(frames), self._frame)

    def _open_runs(self, records: list[bytes]) -> Events:
        """The runs of the epoch that just ended, picked out of whole tables."""
        tables = [np.empty(0, self._run)]
        for record in records:
            head = np.frombuffer(record, self._head, count=1)[0]
            start = self._head.itemsize
            count = (len(record) - start) // self._run.itemsize
            table = np.frombuffer(record, self._run, count=count, offset=start)
            tables.append(table[table["epoch"] == head["used"] + 1])
        return np.concatenate(tables)

    def _merge(self, batches: list[bytes]) -> Events:
        heads = [np.frombuffer(batch, self._head, count=1)[0] for batch in batches]
        ends = np.cumsum([0, *(int(head["used"]) for head in heads)])
        names = [name for name in self._event.names or () if name != "dt_ns"]
        types = [("ns", "u8"), *((name, self._event[name]) for name in names)]
        events = np.empty(ends[-1], types)
        for at in range(0, len(batches), _TOGETHER):
            until = min(at + _TOGETHER, len(batches))
            raw = np.frombuffer(b"".join(map(self._body, batches[at:until])), self._event)
            bases = np.array([head["base_ns"] for head in heads[at:until]], np.uint64)
            into = events[ends[at] : ends[until]]
            into["ns"] = np.repeat(bases, np.diff(ends[at : until + 1])) + raw["dt_ns"]
            for name in names:
                into[name] = raw[name]
        ns = events["ns"]
        if (ns[1:] >= ns[:-1]).all():  # mostly so where one CPU is busy
            return events
        return take(events, np.argsort(ns, kind="stable"))

    def _body(self, batch: bytes) -> memoryview:
        """The events of a batch, without its head and perf's padding."""
        used = int(np.frombuffer(batch, self._head, count=1)[0]["used"])
        start = self._head.itemsize
        return memoryview(batch)[start : start + used * self._event.itemsize]
