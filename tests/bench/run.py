"""Runs the benchmarks and prints one table, in Markdown.

    sudo ./bootstrap python -m tests.bench.run [NAME...]

Everything is measured in pairs that alternate, so that a busy machine hurts both sides alike; the
table gives the median of the pairs' ratios and their quartiles. Ends with status 1 if a goal is
not met. A peer that is not installed is a row that says so.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

from tests.bench.harness import NotMeasuredError, Row, table

# Each is a module with a function measure(), which gives rows.
NAMES = (
    "help",
    "start",
    "memory",
    "events",
    "loss",
    "slowdown",
    "faults",
    "malloc",
    "slab",
    "pages",
    "reclaim",
    "ps",
    "combined",
)


def measured(name: str) -> list[Row]:
    """The rows of one benchmark."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    try:
        rows: list[Row] = import_module(f"tests.bench.{name}").measure()
    except NotMeasuredError as reason:
        rows = [Row(name, "", [], note=str(reason))]
    except Exception:
        traceback.print_exc()
        rows = [Row(name, "", [], note="failed; see above")]
    return rows


def main(names: list[str]) -> int:
    """Prints the table of the benchmarks named, or of all; the exit status."""
    unknown = set(names) - set(NAMES)
    if unknown:
        print(f"run.py: {', '.join(unknown)}: none of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    rows = [row for name in names or NAMES for row in measured(name)]
    print(table(rows))
    return int(any(row.samples and not row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
