"""Quantiles and histograms out of buckets."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from memtap.tracers.model.durations import bucket_of, histogram, quantile, quantiles


def counted(times: list[int]) -> pl.DataFrame:
    ns = np.array(times, np.uint64)
    frame = pl.DataFrame({"bucket": bucket_of(ns).astype(np.int64), "longest": ns.astype(np.int64)})
    grouped = frame.group_by("bucket").agg(
        pl.len().alias("count"), pl.len().alias("weight"), pl.col("longest").max()
    )
    return grouped.sort("bucket")


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_quantile_is_right_to_about_one_per_cent(share: float) -> None:
    times = [int(t) for t in np.random.default_rng(7).lognormal(8, 2, 20_000)]
    exact = sorted(times)[int(share * len(times))]
    found = counted([t + 1 for t in times]).select(quantile(share)).item()
    assert found == pytest.approx(exact, rel=0.02)


def test_a_quantile_is_never_more_than_the_longest() -> None:
    for ns in (1, 2, 3, 1000, 1_000_001, 2**40):
        assert counted([ns]).select(quantile(0.99)).item() <= ns
        assert counted([ns]).select(quantile(0.99)).item() >= ns * 0.97


def test_no_time_has_a_bucket_of_its_own() -> None:
    assert bucket_of(np.array([0, 1, 2], np.uint64)).tolist() == [0, 1, 33]


def test_a_histogram_has_powers_of_two_and_the_empty_ones_between() -> None:
    found = histogram(counted([1, 2, 3, 16, 31, 0]))
    assert [(b["from_ns"], b["to_ns"], b["count"]) for b in found] == [
        (1, 2, 1),
        (2, 4, 2),
        (4, 8, 0),
        (8, 16, 0),
        (16, 32, 2),
    ]
    assert histogram(counted([0])) == []


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
def test_quantiles_of_many_groups_are_those_of_each(seed: int, share: float) -> None:
    chance = np.random.default_rng(seed)
    group = chance.permutation(np.repeat(np.arange(0, 60, 2), chance.integers(1, 9, 30)))
    buckets = chance.integers(1, 900, len(group))
    weights = chance.choice([1.0, 2.0, 1 / 3, 1e6 / 7], len(group))
    found = quantiles(group, buckets, weights, share)
    longest = np.full(len(group), 1 << 62)
    frame = pl.DataFrame({"bucket": buckets, "weight": weights, "longest": longest})
    for number in np.unique(group).tolist():
        alone = frame.filter(pl.Series(group == number)).sort("bucket")
        assert found[number] == alone.select(quantile(share)).item()
    assert np.isnan(found[1::2]).all()
