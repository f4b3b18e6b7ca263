"""How long `memtap --help` takes."""

from __future__ import annotations

from statistics import median

from tests.bench.harness import MEMTAP, PYTHON, Row, pairs, show, timed

ROUNDS = 30
GOAL_S = 0.15


def measure() -> list[Row]:
    """CPU time (user + system) of `memtap --help`, and against a Python that does nothing."""
    taken = pairs(ROUNDS, lambda: timed([MEMTAP, "--help"]), lambda: timed([PYTHON, "-c", "pass"]))
    ours = [our.cpu_s for our, _ in taken]
    ratios = [our.cpu_s / their.cpu_s for our, their in taken]
    nothing = median(their.cpu_s for _, their in taken)
    return [
        Row("help, CPU", "", ours, GOAL_S, "s"),
        Row("help, CPU", "python -c pass", ratios, note=f"that takes {show(nothing)} s"),
    ]
