"""How long things took: times in buckets so fine that a quantile is right to about one per cent."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memtap.tracers.model.frames import pl

# Each power of two has so many buckets.
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


def quantiles(timed: pl.DataFrame, keys: list[str], shares: dict[str, float]) -> pl.DataFrame:
    """quantile() of each group, by the name of its column, and the largest time, `max_ns`.

    Groups can be many: so they are not worked on one by one.
    """
    weight = pl.col("weight")
    ranked = timed.sort("bucket").with_columns(
        reached=weight.cum_sum().over(keys), all=weight.sum().over(keys)
    )
    found = timed.group_by(keys).agg(pl.col("longest").max().alias("max_ns"))
    for name, share in shares.items():
        beyond = ranked.filter(pl.col("reached") >= share * pl.col("all"))
        first = beyond.group_by(keys).agg(pl.col("bucket").min().alias(name))
        found = found.join(first, on=keys, how="left", nulls_equal=True).with_columns(
            pl.min_horizontal(middle_of(pl.col(name)), "max_ns").alias(name)
        )
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
