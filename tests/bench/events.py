"""What it costs to take a million events out of the kernel and count them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

from tests.bench.harness import (
    OUR_HEADERS,
    Row,
    Storm,
    apart,
    compiled,
    make_file,
    pairs,
    show,
    workshop,
)
from tests.live.tracing import kept

ROUNDS = 5
BURSTS, BURST = 4, 250_000
MILLIONS = BURSTS * BURST / 1e6
GOAL_S = 0.5
GOAL = 1 / 30
PAGES = 8192

# A ring of 32 MiB per CPU, as memtap has.
RING_PAGES = 8192

CALLBACK_TEXT = """
typedef u32 dev_t;

struct event {
	u64 ns, ino, index, last;
	u32 dev, tgid, tid;
};
BPF_PERF_OUTPUT(events);

TRACEPOINT_PROBE(filemap, mm_filemap_get_pages)
{
	u64 id = bpf_get_current_pid_tgid();
	struct event event = {
		.ns = bpf_ktime_get_ns(),
		.ino = args->i_ino,
		.index = args->index,
		.last = args->last_index,
		.dev = args->s_dev,
		.tgid = id >> 32,
		.tid = id,
	};

	if (event.tgid == STORM)
		events.perf_submit(args, &event, sizeof(event));
	return 0;
}
"""


def measure() -> list[Row]:
    """CPU time (user + system) of the reading process for a million page lookups.

    The lookups are warm reads of one page. In a file of which other pages are fresh, each is an
    event of its own, in memtap 40 bytes of a batch. The peer is BCC's usual way: a perf buffer, a
    record and a Python callback for each event, which counts in a dict by process and file.

    First memtap does no more than that with its events; then all that its reports need, which is
    to match them with the fresh pages; then the same for a file without fresh pages, which most
    are: its lookups are counted in the kernel. Each side runs in a process of its own; starting
    and attaching are left out.
    """
    with workshop() as folder:
        storm = compiled(folder, "preads"), make_file(folder / "file", PAGES)
        taken = pairs(
            ROUNDS, lambda: apart(batches, *storm, "stream"), lambda: apart(callbacks, *storm)
        )
        judged = [apart(batches, *storm, "collect") for _ in range(ROUNDS)]
        settled = [apart(batches, *storm, "settled") for _ in range(ROUNDS)]
    ours = [our for our, _ in taken]
    ratios = [our / their for our, their in taken]
    note = f"the callbacks take {show(median(their for _, their in taken))} s"
    return [
        Row("a million events counted, CPU", "BCC, a callback each", ratios, GOAL, note=note),
        Row("the same", "", ours, GOAL_S, "s"),
        Row("a million events in a report, CPU", "", judged, GOAL_S, "s"),
        Row("a million lookups of settled files, CPU", "", settled, GOAL_S, "s"),
    ]


def batches(*storm_of: Any) -> float:
    """Seconds of CPU that memtap's classes take for a million lookups."""
    from tests.bench.tracing import Tracer

    *file, what = storm_of
    fresh = what != "settled"
    # Left alone, pages that nobody reads get evicted, and then the file is not settled any more.
    held = nullcontext() if fresh else kept(file[1])
    with held, Storm(*file) as storm, Tracer(storm) as tracer:
        collect = tracer.stream if what == "stream" else tracer.collect
        burst(storm, tracer, collect, fresh)
        tracer.accesses = tracer.details = 0
        start = time.process_time()
        for _ in range(BURSTS):
            burst(storm, tracer, collect, fresh)
        taken = time.process_time() - start
    if tracer.accesses != BURSTS * BURST or (tracer.details >= BURSTS * BURST) != fresh:
        raise RuntimeError(f"{tracer.accesses} accesses, {tracer.details} events came in")
    return taken / MILLIONS


def burst(storm: Storm, tracer: Any, collect: Callable[[], None], fresh: bool) -> None:
    """One burst of reads, taken in."""
    if fresh:
        storm.ask("fresh")
    storm.begin("read", BURST)
    tracer.follow(storm, collect)


def callbacks(*file: Any) -> float:
    """Seconds of CPU that BCC's usual way takes for a million lookups."""
    os.environ["BCC_KERNEL_SOURCE"] = str(OUR_HEADERS)
    import bcc

    counts: Counter[tuple[int, int]] = Counter()

    def count(_cpu: int, data: Any, _size: int) -> None:
        event = module["events"].event(data)
        counts[event.tgid, event.ino] += 1

    with Storm(*file) as storm:
        module = bcc.BPF(text=CALLBACK_TEXT, cflags=[f"-DSTORM={storm.pid}"])
        module["events"].open_perf_buffer(count, page_cnt=RING_PAGES)
        start = time.process_time()
        for number in range(1, BURSTS + 1):
            storm.begin("read", BURST)
            while counts.total() < number * BURST:
                module.perf_buffer_poll(100)
            storm.finish()
        taken = time.process_time() - start
        module.cleanup()
    return taken / MILLIONS
