"""Prints docs/kernels.md: what was tried, on which kernels and with which BCC, and what held.

    sudo ./bootstrap pytest -m matrix
    sudo ./bootstrap python -m tests.matrix.table > docs/kernels.md

Made of what the first command has left: the junit file of each run, and what `doctor` said there.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from memtap.tracers.doctor import LOOKS, REPORTS
from tests.matrix.project import CACHE

# Of whole runs, and of those in which nothing was noted of the kernel.
RESULTS, PARTS = CACHE / "results", CACHE / "parts"

HEAD = """# Kernels

The live tests of counts, run on each of these kernels (Debian's in emulated machines; on arm64 some
of the tests) and with each of these versions of BCC, without kernel headers. A row is a run. The
second table tells by which variant each report looks, and how far it can be believed; for `ledger`,
which needs no program, which lines it has.

In an emulated machine, what the tests need is compiled outside, which is ten times as fast.
Such a run holds only if BCC in the machine makes the same of each report's program, byte by byte.

This page is printed by

    sudo ./bootstrap pytest -m matrix
    sudo ./bootstrap python -m tests.matrix.table > docs/kernels.md
"""


def main() -> int:
    """Prints the page; 1 if a run is missing or something did not hold."""
    runs = sorted(map(read, RESULTS.iterdir()), key=lambda run: run["release"])
    headings = ["Linux", "BCC", "libbpf", "held", "did not"]
    counts = (
        [str(run[name]) for name in ("release", "bcc", "libbpf", "held", "not")] for run in runs
    )
    looking = [*REPORTS, *LOOKS, "ledger"]
    variants = ([run["release"], *(run["ways"][name] for name in looking)] for run in runs)
    print(HEAD, *table(headings, counts), "", *table(["Linux", *looking], variants), sep="\n")
    return int(any(run["not"] for run in runs))


def read(folder: Path) -> dict[str, Any]:
    """What a run has left."""
    kernel = json.loads((folder / "kernel.json").read_text())
    facts = {fact["name"]: fact["state"] for fact in kernel["host"]}
    cases = Counter(map(outcome, ET.parse(folder / "junit.xml").getroot().iter("testcase")))
    variants = {
        row["report"]: f"{row['way'] or '-'} ({row['accuracy']})" for row in kernel["reports"]
    }
    return {
        "release": kernel["release"],
        "bcc": facts["compiler"].partition(",")[0].removeprefix("BCC "),
        "libbpf": facts["libbpf"],
        "held": cases["passed"],
        "not": cases.total() - cases["passed"],
        "ways": variants | {"ledger": facts["ledger"]},
    }


def outcome(case: ET.Element) -> str:
    """What became of a test: passed, failure, error, or skipped."""
    return next(
        (each.tag for each in case if each.tag in ("failure", "error", "skipped")), "passed"
    )


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table in Markdown, line by line."""
    titles = list(headings)
    for cells in (titles, ["---"] * len(titles), *rows):
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
