"""How long things took: times in buckets so fine that a quantile is right to about one per cent."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.tracers.model.arrays import Numbers, Places
from memtap.tracers.model.frames import pl

# The relative error that a sum of weights can have.
_ROUNDED = 1e-9

# How many buckets each power of two has.
STEPS = 32


def bucket_of(ns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int16]:
    """The bucket of each time; 0 is for no time at all."""
    exponents = np.log2(np.maximum(ns, 1).astype(np.float64))
    buckets: npt.NDArray[np.int16] = np.where(ns > 0, exponents * STEPS + 1, 0).astype(np.int16)
    return buckets


def middle_of(bucket: pl.Expr) -> pl.Expr:
    """The time in the middle of a bucket, in ns."""
    return (2.0 ** ((bucket - 0.5) / STEPS)).round().cast(pl.Int64)


def quantile(share: float) -> pl.Expr:
    """The time that this share of all times do not exceed, in ns.

    An aggregation of rows with `bucket` and `weight`, sorted by bucket, without bucket 0; null
    where there are none. Never more than the largest time, `longest`.
    """
    reached = pl.col("weight").cum_sum() >= share * pl.col("weight").sum()
    found = middle_of(pl.col("bucket").filter(reached).first())
    return pl.min_horizontal(found, pl.col("longest").max())


def quantiles(
    group: Places, buckets: Numbers, weights: Numbers, share: float
) -> npt.NDArray[np.float64]:
    """quantile() of each of many groups, by their numbers, without the bound by `longest`.

    NaN for groups without rows. No row has bucket 0.
    """
    order = np.lexsort((buckets, group))
    group, weights = group[order], weights[order]
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    reached = np.cumsum(weights, dtype=np.longdouble)
    sums = np.add.reduceat(weights, begins) if len(begins) else weights
    before = np.repeat(reached[begins] - weights[begins], np.diff(begins, append=len(group)))
    wanted = share * np.repeat(sums, np.diff(begins, append=len(group))) * (1 - _ROUNDED)
    beyond = np.flatnonzero(reached - before >= wanted)
    found = np.full(group[-1] + 1 if len(group) else 0, np.nan)
    found[group[beyond][::-1]] = middle(buckets[order][beyond][::-1])
    return found


def middle(buckets: Numbers) -> npt.NDArray[np.float64]:
    """middle_of() of numbers."""
    found: npt.NDArray[np.float64] = np.rint(2.0 ** ((buckets - 0.5) / STEPS))
    return found


def histogram(buckets: pl.DataFrame) -> list[dict[str, Any]]:
    """Times by powers of two, from the shortest to the longest, the empty ones between included.

    Args:
        buckets: `bucket` and `count`.
    """
    timed = buckets.filter(pl.col("bucket") > 0)
    octaves = timed.group_by((pl.col("bucket") - 1) // STEPS).agg(pl.col("count").sum())
    counts = {int(octave): int(count) for octave, count in octaves.rows()}
    if not counts:
        return []
    return [
        {"from_ns": 1 << octave, "to_ns": 2 << octave, "count": counts.get(octave, 0)}
        for octave in range(min(counts), max(counts) + 1)
    ]
