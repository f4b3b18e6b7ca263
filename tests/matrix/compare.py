"""Prints docs/accuracy.md: workloads whose answer is known, under memtap and under bcc's tools.

    sudo ./bootstrap python -m tests.matrix.compare > docs/accuracy.md

Each kernel on which those tools run is started in a machine of its own; it takes half an hour.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from memtap.bpf.compiler import HEADERS
from tests.matrix.kernels import release_of
from tests.matrix.project import kernels, run_in

VERSIONS = ("6.1", "6.12")
PEERS = ("bpfcc-tools",)

HEAD = """# memtap and bcc's tools on the same workloads

Workloads whose answer is known, each run once under `memtap cachetop`, once under bcc's cachestat
and once under bcc's cachetop ({peers}), on Debian's kernels in emulated machines. A cell is
hits, misses, dirties, in pages. bcc's cachestat counts the host, its cachetop the processes of the
workload's name, memtap the workload's files.

bcc's tools count calls of `mark_page_accessed()`, `add_to_page_cache_lru()` and
`mark_buffer_dirty()`. Since Linux 5.16 files are read by others, which work on folios, so reads are
not seen; and a page that is dirty already is made dirty again by each write. The tools attach all
the same, and do not say.

This page is printed by

    sudo ./bootstrap python -m tests.matrix.compare > docs/accuracy.md
"""


def main() -> int:
    """Prints the page; 1 if a machine was lost, or a count of memtap's was wrong."""
    subprocess.run(["apt-get", "-qq", "install", "-y", *PEERS], check=True, stdout=sys.stderr)
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}", *PEERS]
    print(HEAD.format(peers=subprocess.check_output(query, text=True)))
    return max([compare(version) for version in VERSIONS])


def compare(version: str) -> int:
    """Prints the table of one kernel."""
    command = ["-m", "tests.bench.accuracy", "--peers"]
    kernel = kernels().fetch(version)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_in(kernel, Path(folder), command, BCC_KERNEL_SOURCE=str(HEADERS))
    lines = [line for line in outcome.output.splitlines() if line.startswith("|")]
    print(f"## Linux {release_of(kernel)}", "", *lines, "", sep="\n", flush=True)
    if outcome.status != 0:
        print(outcome.output[-2000:], outcome.console[-1000:], sep="\n", file=sys.stderr)
    return int(outcome.status != 0)


if __name__ == "__main__":
    sys.exit(main())
