"""What goes from a source, live or recorded, to a report.

A report sees nothing else: no clock, no /proc. So the replay of a recording gives the report that
the live run gave.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from memtap.bpf.plan import Accuracy
from memtap.bpf.session import Losses
from memtap.bpf.stream import Events
from memtap.tracers.host.counters import Counters
from memtap.tracers.host.files import FileName
from memtap.tracers.model import claims
from memtap.tracers.model.process import Process


@dataclass(frozen=True)
class Origin:
    """Where events come from; the same for a whole run.

    Attributes:
        tracer: the C program.
        way: which of the plan's variants was attached.
        accuracy: how far counts can be believed if nothing is lost.
        probes: what was attached, as `kind:target`.
        notes: what this variant cannot see, and which better one was refused.
        filtered: whether only some processes were traced.
        page_bytes: the size of a page.
        host, machine, kernel, boot_id: those of the traced machine; `kernel` as uname -r has it.
        own: the process that traced, if reports leave it out; else 0.
        clock: what the events' `ns` count.
    """

    tracer: str
    way: str
    accuracy: Accuracy
    probes: tuple[str, ...]
    notes: tuple[str, ...]
    filtered: bool
    page_bytes: int
    host: str
    machine: str
    kernel: str
    boot_id: str
    own: int = 0
    clock: str = "CLOCK_MONOTONIC"

    def to_json(self) -> str:
        """One line of JSON; from_json() reads it."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Origin:
        """Reads what to_json() gave. Raises what claims.py does: any user may have written it."""
        said = json.loads(text)
        return claims.made(Origin, said, page_bytes=claims.page_bytes(said.pop("page_bytes")))


@dataclass(frozen=True)
class Interval:
    """An interval that has ended, and the host's counters then.

    Attributes:
        time: its end, UTC, ISO 8601 with milliseconds.
        seconds: its length.
        kernel: how much the kernel's own counters grew in it, by their names.
        buffers_bytes, cached_bytes: Buffers and Cached of /proc/meminfo, at its end.
        losses: what was lost in it.
        notes: what could not be seen in it.
        unsettled: how many events the kernel may have counted in it that become rows of the next
            interval.
        reused: how many process numbers belonged to more than one process in it.
        remarks: what else there is to say of it.
        own: what tracing itself cost meanwhile; see own_work().
    """

    time: str
    seconds: float
    kernel: Counters
    buffers_bytes: int
    cached_bytes: int
    losses: Losses
    notes: tuple[str, ...] = ()
    unsettled: int = 0
    reused: int = 0
    remarks: tuple[str, ...] = ()
    own: Counters = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """Events in order of time, and what is known about the processes and files in them.

    Attributes:
        rows: the events.
        until_ns: all events before this are in this chunk or an earlier one.
        processes, paths: processes and files; of those named before, only the changed ones.
        texts: what other numbers in rows stand for, by kind and number; each once.
        interval: the interval that this chunk is the end of, if it is.
        last: whether nothing comes after it.
    """

    rows: Events
    until_ns: int
    processes: dict[int, Process] = field(default_factory=dict)
    paths: dict[int, FileName] = field(default_factory=dict)
    texts: dict[str, dict[int, str]] = field(default_factory=dict)
    interval: Interval | None = None
    last: bool = False

    def head(self) -> str:
        """All but the rows, as one line of JSON."""
        return json.dumps(
            {
                "until_ns": self.until_ns,
                "who": [[n, *asdict(process).values()] for n, process in self.processes.items()],
                "paths": [[number, *name] for number, name in self.paths.items()],
                "texts": {kind: list(texts.items()) for kind, texts in self.texts.items()},
                "interval": asdict(self.interval) if self.interval else None,
                "last": self.last,
            }
        )

    @staticmethod
    def from_head(text: str, rows: Events) -> Chunk:
        """What head() gave, and the rows, as a chunk again.

        Raises what claims.py raises: the text may come from any user, and no name in it is safe to
        print.
        """
        said = json.loads(text)
        return Chunk(
            rows=rows,
            until_ns=claims.number(said["until_ns"], claims.LATEST_NS),
            processes={
                claims.number32(tgid): _process(values)
                for tgid, *values in claims.listed(said["who"])
            },
            paths={
                claims.number(number): FileName(
                    claims.text(dev), claims.number(ino), claims.text(path)
                )
                for number, dev, ino, path in claims.listed(said["paths"])
            },
            texts={
                claims.text(kind): {claims.number32(n): claims.text(text) for n, text in texts}
                for kind, texts in said["texts"].items()
            },
            interval=_interval(said["interval"]),
            last=claims.flag(said["last"]),
        )


def _process(values: list[Any]) -> Process:
    """A process from a recording; raises if there are more values than fields."""
    said = dict(zip([field.name for field in fields(Process)][: len(values)], values, strict=True))
    return claims.made(Process, said, uid=claims.user(said.pop("uid")))


def _interval(said: dict[str, Any] | None) -> Interval | None:
    if said is None:
        return None
    return claims.made(Interval, said, time=claims.moment(said.pop("time")))
