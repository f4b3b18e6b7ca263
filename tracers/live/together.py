"""Several tracers in one run: they share one set of processes, and their intervals end together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Loaded
from memtap.tracers.live.live import Live
from memtap.tracers.live.processes import Processes
from memtap.tracers.model.chunk import Chunk
from memtap.tracers.model.tracer import Query, Tracer


class Together:
    """Live sessions that share what is known of processes.

    Attributes:
        lives: the sessions, in the order in which they began.
        processes: what is known of processes, by all of them.
    """

    def __init__(self, kernel: Kernel, tracers: Iterable[Tracer]) -> None:
        """Listens to processes from now on, so that every process that is traced later is known."""
        counted = dict.fromkeys(name for tracer in tracers for name in tracer.exit_record)
        self._kernel = kernel
        self.processes = Processes(kernel.btf, kernel.possible_cpus, tuple(counted))
        self.lives: list[Live] = []

    def begin(
        self,
        loaded: Loaded,
        tracer: Tracer,
        query: Query,
        targets: Sequence[int],
        starting: int | None = None,
    ) -> Live:
        """Attaches one tracer's loaded programs; see Live for which processes it traces."""
        live = Live(
            loaded,
            self._kernel,
            self.processes,
            lambda session: tracer.make_enricher(session, query),
            targets,
            tracer.counters,
            starting,
            tracer.names_threads(query),
        )
        self.lives.append(live)
        return live

    @property
    def readable(self) -> list[int]:
        """Descriptors that become readable when there are enough events to consume()."""
        return [descriptor for live in self.lives for descriptor in live.session.readable]

    @property
    def interval_began_s(self) -> float:
        """When the current interval began for the last of them (CLOCK_MONOTONIC)."""
        return max(live.interval_began_s for live in self.lives)

    def begin_interval(self) -> None:
        """Begins the current interval now, for all of them."""
        for live in self.lives:
            live.begin_interval()

    @property
    def patience_s(self) -> float:
        """consume() must be called after this many seconds, even if no event comes."""
        return min(live.patience_s for live in self.lives)

    @property
    def is_full(self) -> bool:
        """Whether so many events wait that collect() should be called."""
        return any(live.is_full for live in self.lives)

    def consume(self) -> None:
        """Reads what the kernel has sent, so that no buffer overflows."""
        for live in self.lives:
            live.consume()
        self.processes.consume()

    def collect(
        self, ends: bool, last: bool, hurries: Callable[[], bool]
    ) -> Iterator[tuple[int, Chunk]]:
        """All events up to now, each chunk with the number of its session; see Live.chunks().

        All sessions are drained before the first is processed: so their intervals end together.
        """
        drained_by_each = [live.drain(ends, last) for live in self.lives]
        for number, (live, drained) in enumerate(zip(self.lives, drained_by_each, strict=True)):
            for chunk in live.chunks(drained, ends, last, hurries):
                yield number, chunk
        if ends:
            self.processes.settle()

    def followed(self) -> set[int]:
        """The traced processes that have not ended, if only some are traced."""
        return {tgid for live in self.lives for tgid in live.session.followed()}

    def close(self) -> None:
        """Ends tracing and frees everything."""
        for live in self.lives:
            live.close()
        self.processes.close()
