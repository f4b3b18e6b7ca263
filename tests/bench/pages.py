"""How much slower page faults get while pages are counted as they are handed out."""

from __future__ import annotations

from tests.bench.faults import PAGES, TOUCHES, Toucher, slowdown
from tests.bench.harness import MEMTAP, Row, compiled, workshop

ONE_LINER = (
    "tracepoint:kmem:mm_page_alloc { @allocs[args->order] = count(); } "
    "tracepoint:kmem:mm_page_free { @frees[args->order] = count(); }"
)


def measure() -> list[Row]:
    """CPU time of a first touch, a page handed out and given back, against untraced."""
    with workshop() as folder:
        toucher = Toucher(compiled(folder, "touches"), PAGES, "touch", TOUCHES)
        report = ["-o", str(folder / "report")]
        tracers = {
            "memtap pages": [MEMTAP, "pages", *report],
            "memtap pages -b process": [MEMTAP, "pages", "-b", "process", *report],
            "memtap oom": [MEMTAP, "oom", *report],
            "memtap slab": [MEMTAP, "slab", *report],
            "bpftrace, counting pages by order": ["bpftrace", "-e", ONE_LINER],
        }
        try:
            return [
                slowdown(toucher, folder, f"a page fault under {name}", "touch", command, None)
                for name, command in tracers.items()
            ]
        finally:
            toucher.end()
