"""Chunks from the running kernel."""

from __future__ import annotations

import math
import os
import platform
import resource
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Loaded
from memtap.bpf.session import Drained, Losses, Session
from memtap.bpf.stream import Events, take
from memtap.tracers.host.counters import Counters, buffers_and_cached, difference, vmstat
from memtap.tracers.live.noted import Noted
from memtap.tracers.live.pieces import Pieces
from memtap.tracers.live.privileges import notes_of
from memtap.tracers.live.processes import Processes, descendants, read_parents
from memtap.tracers.model.chunk import Chunk, Interval, Origin
from memtap.tracers.model.enricher import REMEMBERED, Divisible, Enricher, Texts
from memtap.tracers.model.process import Process
from memtap.tracers.model.report import now


@dataclass
class _Start:
    """The counters at the beginning of an interval; reports have only their growth."""

    ns: int
    losses: Losses
    kernel: Counters
    own: Counters


class Live:
    """A tracing session and everything around it that a report needs. Close it after use.

    `processes` must have been listening before, so that every traced process is known. `enricher`
    makes the enricher, which turns events into rows; `counters` reads the host's counters, which
    reports show beside ours. The `targets` are traced from now on, `starting` from its execve on.
    With `names_threads`, texts of kind `tid` name the threads.

    Attributes:
        notes: what we cannot see because of the buffers or of missing privileges.
        patience_s: consume() must be called after this many seconds, even if no event comes.
    """

    def __init__(
        self,
        loaded: Loaded,
        kernel: Kernel,
        processes: Processes,
        enricher: Callable[[Session], Enricher],
        targets: Sequence[int] = (),
        counters: Callable[[], Counters] = vmstat,
        starting: int | None = None,
        names_threads: bool = False,
    ) -> None:
        self._filter = loaded.request.filter
        self._counters = counters
        self.origin = origin_of(loaded, kernel)
        self.processes = processes
        self.session = Session(loaded, kernel)
        if loaded.request.notes_processes:
            processes.noted = Noted(self.session)
        self.enricher = enricher(self.session)
        self.notes = [*self.session.notes, *notes_of(kernel, loaded.request.plan)]
        self.patience_s = math.inf
        self._own, self._left_out = loaded.request.filter.own, 0
        self._drops_own = bool(self._own) and loaded.request.plan.own != "report"
        self._sent: dict[int, Process] = {}
        self._birth_of: dict[int, int] = {}  # of the processes of this interval
        self._births_before, self._reused = processes.births, set[int]()
        self._sent_threads: dict[int, str] | None = {} if names_threads else None
        self._pieces, self._given_up = Pieces(), 0
        self._notes: dict[str, None] = {}
        self._followed: set[int] = set()
        for tgid in targets:
            self.follow(tgid)
        self._starting = starting
        if starting is not None:
            self._keep(starting, self.session.expect)
        self._start = self._at_drain = self._now(
            time.monotonic_ns(), self._counted(), self._own_counts()
        )

    def follow(self, tgid: int) -> None:
        """Traces a process and its children, unless the filter says not to."""
        self._keep(tgid, self.session.follow)
        if self._filter.follow:
            # A child that is found here may have forked before it was followed.
            while news := descendants(tgid, read_parents()) - self._followed:
                for child in news:
                    self._keep(child, self.session.follow)

    def _keep(self, tgid: int, mark: Callable[[int], None]) -> None:
        self._followed.add(tgid)
        mark(tgid)
        self.enricher.follow(tgid)
        self.processes.targets.add(tgid)

    @property
    def interval_began_s(self) -> float:
        """When the current interval began (CLOCK_MONOTONIC)."""
        return self._start.ns / 1e9

    def begin_interval(self) -> None:
        """Begins the current interval now, as the traced program begins to run."""
        self._start = replace(self._start, ns=time.monotonic_ns())

    def consume(self) -> None:
        """Reads the events that the kernel has sent, so that no buffer overflows."""
        self.session.consume()
        self.patience_s = self.enricher.polled()

    @property
    def is_full(self) -> bool:
        """Whether so many events wait that collect() should be called."""
        return self.session.waiting >= self.enricher.most_batches

    def collect(self, ends: bool, last: bool = False) -> Chunk:
        """All events up to now; with `ends` the interval ends here.

        With `last`, tracing ends first, so no event can come after this chunk. The kernel's own
        counters are read before that: what they have counted is in this chunk, or known to be
        unsettled.
        """
        return self._chunk(self.drain(ends, last), ends, last)

    def chunks(
        self, drained: Drained, ends: bool, last: bool, hurries: Callable[[], bool]
    ) -> Iterator[Chunk]:
        """The drained events, in several chunks if they are many; the last `ends` the interval.

        If `hurries` becomes true, the rest counts as lost.
        """
        if not isinstance(self.enricher, Divisible):
            yield self._chunk(drained, ends, last)
            return
        for piece in self._pieces.of(drained):
            if hurries():
                self._given_up += self.enricher.units_of(piece.events)
                piece = replace(
                    piece, events=piece.events[:0], frames=piece.frames[:0], sideband=[]
                )
            if piece.goes_on:
                if len(piece.events):
                    yield self._chunk(piece, ends=False, last=False)
            else:
                yield self._chunk(piece, ends, last)

    def drain(self, ends: bool, last: bool) -> Drained:
        """All events up to now, to be made into chunks; see collect()."""
        counted, own = (self._counted(), self._own_counts()) if ends else ({}, {})
        if last:
            self.session.detach()
        drained = self.session.drain()
        if ends:
            self._at_drain = self._now(drained.until_ns, counted, own)
        self.processes.consume()
        return drained

    def _chunk(self, drained: Drained, ends: bool, last: bool) -> Chunk:
        taken = self.enricher.enrich(drained, last)
        self._notes |= dict.fromkeys(taken.notes)
        rows = self._of_others(taken.rows) if self._drops_own else taken.rows
        return Chunk(
            rows=rows,
            until_ns=drained.until_ns,
            processes=self._news(rows),
            paths=taken.paths,
            texts=taken.texts | self._thread_news(rows),
            interval=self._end_interval(taken.unsettled) if ends else None,
            last=last,
        )

    def close(self) -> None:
        """Ends tracing and frees everything."""
        self.session.close()

    def _of_others(self, rows: Events) -> Events:
        """Rows of other processes than this one and the children that it starts for its work."""
        own = np.isin(rows["tgid"], [self._own, *self.processes.children])
        if not own.any():
            return rows
        self._left_out += events_of(rows[own])
        return take(rows, ~own)

    def _news(self, rows: Events) -> dict[int, Process]:
        """The processes of these rows that are new, or have changed since they were last sent."""
        self.processes.forget_unwatched()
        found = {int(tgid): self.processes.known(int(tgid)) for tgid in np.unique(rows["tgid"])}
        if unknown := [tgid for tgid, processes in found.items() if processes.uid < 0]:
            self.processes.consume()  # some ended while we looked: their exit records have come
            found |= {tgid: self.processes.known(tgid) for tgid in unknown}
        if len(self._sent) > REMEMBERED:
            self._sent.clear()
        news = {
            tgid: processes
            for tgid, processes in found.items()
            if self._sent.get(tgid) != processes
        }
        self._sent |= news
        self._see_reused(found)
        return news

    def _see_reused(self, tgids: Iterable[int]) -> None:
        """Notes which process numbers were given to another process in this interval."""
        for tgid in tgids:
            before, birth = self.processes.births_of(tgid)
            known = self._birth_of.setdefault(tgid, birth)
            if birth > known or before > self._births_before:
                self._reused.add(tgid)

    def _thread_news(self, rows: Events) -> Texts:
        """The names of these rows' threads, if wanted, without those that were sent before."""
        if self._sent_threads is None:
            return {}
        _, one = np.unique(rows["tid"], return_index=True)
        threads = rows[["tid", "tgid"]][one].tolist()
        found = {tid: self.processes.thread(tgid, tid) for tid, tgid in threads}
        if Process.comm in found.values():
            self.processes.consume()  # some ended while we looked
            found = {tid: self.processes.thread(tgid, tid) for tid, tgid in threads}
        sent = self._sent_threads
        news = {tid: name for tid, name in found.items() if sent.get(tid) != name}
        sent |= news
        return {"tid": news}

    def _counted(self) -> Counters:
        counters = self._counters()
        if self._filter.by_tgid:
            self._see_start()
            counters |= self.processes.counted()
        return counters

    def _see_start(self) -> None:
        """Once PROGRAM has begun, subtracts what its process had counted before."""
        if self._starting is not None and any(self.session.at_exec()):
            self.processes.targets.began(self._starting, self.session.at_exec())
            self._starting = None

    def _now(self, ns: int, counted: Counters, own: Counters) -> _Start:
        return _Start(ns, self.session.losses(), counted, own)

    def _own_counts(self) -> Counters:
        return own_work() | {"events": self.session.left_out()}

    def _end_interval(self, unsettled: int) -> Interval:
        before, self._start = self._start, self._at_drain
        given_up, self._given_up = self._given_up, 0
        own = difference(self._start.own, before.own)
        own["events"] += self._left_out
        self._left_out = 0
        buffers, cached = buffers_and_cached()
        notes, self._notes = self._notes, {}
        reused, self._reused = len(self._reused), set()
        self._birth_of.clear()
        self._births_before = self.processes.births
        return Interval(
            time=now(),
            seconds=round((self._start.ns - before.ns) / 1e9, 3),
            kernel=difference(self._start.kernel, before.kernel),
            buffers_bytes=buffers,
            cached_bytes=cached,
            losses=self._start.losses - before.losses + Losses(lost=given_up),
            notes=(*self.notes, *self.processes.notes, *notes),
            unsettled=unsettled,
            reused=reused,
            own=own,
        )


def own_work() -> Counters:
    """What this process has cost so far: ns on a CPU, minor and major faults."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9)
    return {"cpu_ns": cpu_ns, "minor": usage.ru_minflt, "major": usage.ru_majflt}


def events_of(rows: Events) -> int:
    """How many events these rows stand for."""
    counts = [name for name in ("count", "allocs", "frees") if name in (rows.dtype.names or ())]
    return int(sum(rows[name].sum() for name in counts)) if counts else len(rows)


def origin_of(loaded: Loaded, kernel: Kernel) -> Origin:
    """Where the events of a report or a recording come from."""
    return Origin(
        tracer=loaded.request.plan.name,
        way=loaded.variant.name,
        accuracy=loaded.variant.accuracy,
        probes=loaded.probes,
        notes=loaded.notes,
        filtered=bool(loaded.request.filter),
        page_bytes=os.sysconf("SC_PAGESIZE"),
        host=socket.gethostname(),
        machine=platform.machine(),
        kernel=kernel.release,
        boot_id=kernel.boot_id,
        own=loaded.request.filter.own,
    )
