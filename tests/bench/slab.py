"""How much slower a program gets that allocates kernel objects while these are traced."""

from __future__ import annotations

from tests.bench.faults import Toucher, slowdown
from tests.bench.harness import MEMTAP, Row, compiled, workshop
from tests.bench.pages import ONE_LINER as BY_ORDER

PAIRS = 500
ROUNDS = 200  # of all pairs, in a phase
BY_SIZE = (
    "tracepoint:kmem:kmalloc, tracepoint:kmem:kmem_cache_alloc "
    "{ @allocs[args->bytes_alloc] = count(); @bytes[args->bytes_alloc] = sum(args->bytes_alloc); } "
    "tracepoint:kmem:kfree, tracepoint:kmem:kmem_cache_free { @frees = count(); }"
)


def measure() -> list[Row]:
    """CPU time of eventfd() and close() under each tracer, against untraced.

    Eight events for each pair: four objects allocated and freed. The one-liner tells caches apart
    by size, and of frees nothing but their number.
    """
    with workshop() as folder:
        toucher = Toucher(compiled(folder, "eventfds"), PAIRS, "eventfd", ROUNDS)
        report = ["-o", str(folder / "report")]
        tracers = {
            "memtap slab": [MEMTAP, "slab", *report],
            "memtap slab -b process": [MEMTAP, "slab", "-b", "process", *report],
            "memtap slab --leaks": [MEMTAP, "slab", "--leaks", *report],
            "memtap slab --leaks --stacks": [MEMTAP, "slab", "--leaks", "--stacks", *report],
            "bpftrace, counting objects by size": ["bpftrace", "-e", BY_SIZE],
            "memtap pages": [MEMTAP, "pages", *report],
            "bpftrace, counting pages by order": ["bpftrace", "-e", BY_ORDER],
            "memtap reclaim": [MEMTAP, "reclaim", *report],
            "memtap oom": [MEMTAP, "oom", *report],
        }
        try:
            return [
                slowdown(
                    toucher,
                    folder,
                    f"eventfd and close under {name}",
                    "eventfd",
                    command,
                    None,
                    rounds=ROUNDS,
                )
                for name, command in tracers.items()
            ]
        finally:
            toucher.end()
