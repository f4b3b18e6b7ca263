"""memtap's own tracing, driven as its loop drives it, to be measured inside the process."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import IO

import numpy as np

from memtap.bpf.cache import Cache
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Request
from memtap.bpf.session import Losses
from memtap.cli.loop import TICK_S
from memtap.tracers.live.live import Live
from memtap.tracers.live.processes import Processes
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.pagecache.counts import PageCache
from memtap.tracers.pagecache.enrich import PageEnricher
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN, Kind
from tests.bench.harness import Storm


class Tracer:
    """Traces the page cache of the whole host, and counts what some storms do.

    Attributes:
        accesses: hits and misses of the storms on their files.
        details: how many events of reads came in, of anybody, besides the counted runs.
        losses: what the session lost.
    """

    def __init__(self, *storms: Storm) -> None:
        self._keys = {(storm.pid, storm.path.stat().st_ino) for storm in storms}
        self.accesses = self.details = 0
        self.losses = Losses()
        kernel = Kernel()
        attempts = Attempts(Request(PLAN, settings=(NAME_FILES,)), kernel, Cache())
        self._processes = Processes(kernel.btf, kernel.possible_cpus)
        self._live = Live(attempts.wait(), kernel, self._processes, PageEnricher)
        self.cache = PageCache()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.close()
        self._processes.close()

    def follow(self, storm: Storm, collect: Callable[[], None]) -> None:
        """Takes events in until the storm has answered."""
        while not storm.has_answered():
            self._wait(storm)
            collect()
        storm.finish()

    def _wait(self, storm: Storm) -> None:
        end = time.monotonic() + TICK_S
        assert storm.process.stdout
        descriptors: list[IO[str] | int] = [*self._live.session.readable, storm.process.stdout]
        while (left := end - time.monotonic()) > 0 and not storm.has_answered():
            select.select(descriptors, [], [], left)
            self._live.consume()

    def stream(self) -> None:
        """Takes events in and only counts them by process and file."""
        events = self._live.session.drain().events
        is_read = events["kind"] == Kind.READ
        group = group_numbers(events["tgid"], events["ino"])
        _, one = np.unique(group, return_index=True)
        for event, count in zip(events[one], np.bincount(group, is_read), strict=True):
            if (event["tgid"], event["ino"]) in self._keys:
                self.accesses += int(count)
        self.details += int(is_read.sum())

    def collect(self) -> None:
        """Ends an interval: its events are counted, as for a report."""
        chunk = self._live.collect(ends=True)
        self.cache.feed(chunk.rows, chunk.until_ns)
        self._live.enricher.feedback(self)
        assert chunk.interval
        self.losses += chunk.interval.losses
        self.details += int((chunk.rows["kind"] == Kind.READ).sum())
        for row in self.cache.take().iter_rows(named=True):
            if (row["tgid"], row["ino"]) in self._keys:
                self.accesses += row["hits"] + row["misses"]
