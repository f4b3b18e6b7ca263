"""How long page faults took: those that were timed, and what these tell of the others.

In a storm not every minor fault is timed. One that was not is taken for like those of its process,
region and cause that were, and whose thread stayed on its CPU, or left it, as this one's did: so a
few that waited do not stand for many that did not. And it took no longer than its thread had room
for, up to the next exception; no two faults share any of that, so no sum exceeds what is possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np

from memtap.bpf.stream import Events
from memtap.tracers.faults.probes import COUNTS, Kind
from memtap.tracers.model.arrays import group_numbers
from memtap.tracers.model.durations import STEPS, bucket_of
from memtap.tracers.model.frames import pl

# What a fault that was not timed is like, from the best answer to the last.
_LIKE = (
    ("tgid", "region", "cause", "kind", "switched"),
    ("region", "cause", "kind", "switched"),
    ("kind", "switched"),
)
_SUMS = ("count", "time_ns", "room_ns")


def _keys(numbers: list[str]) -> list[str]:
    return list(dict.fromkeys([*numbers, *_LIKE[0]]))


def tally(rows: Events, numbers: list[str]) -> pl.DataFrame:
    """Faults by some of their numbers, by what they are like and by how long they took.

    Columns: the keys, `bucket`, `count`, `time_ns`, `room_ns` and `longest` (all ns). Of faults
    that were not timed `bucket` is 0, or below if it is known what room they had.
    """
    timed = rows["time_ns"] > 0
    room = np.where(timed, 0, rows["room_ns"])
    each = bucket_of(room // np.maximum(rows["count"], 1))
    bucket = np.where(timed, bucket_of(rows["time_ns"]), -(each // STEPS) - (each > 0))
    keys = _keys(numbers)
    group = group_numbers(*(rows[name] for name in keys), bucket)
    _, one = np.unique(group, return_index=True)
    longest = np.zeros(len(one), np.uint64)
    np.maximum.at(longest, group, rows["time_ns"])
    sums = {"count": rows["count"], "time_ns": rows["time_ns"], "room_ns": room}
    return pl.DataFrame(
        {name: rows[name][one].astype(np.int64) for name in keys}
        | {"bucket": bucket[one].astype(np.int64)}
        | {n: np.bincount(group, sums[n], len(one)).astype(np.int64) for n in _SUMS}
        | {"longest": longest.astype(np.int64)}
    )


def merged(tallies: list[pl.DataFrame], numbers: list[str]) -> pl.DataFrame:
    """Tallies as one, each key and bucket once; and what is known of their times.

    Columns, besides those of tally(): `time_ns` of all faults, as far as anybody can tell;
    `least_ns` and `most_ns`, between which that is for certain; `timed`, of how many it is known;
    `weight`, for how many like it a timed one stands, times `timed`.
    """
    keys = [*_keys(numbers), "bucket"]
    empty = pl.DataFrame(schema=dict.fromkeys([*keys, *_SUMS, "longest"], pl.Int64))
    summed = (
        pl.concat([empty, *tallies])
        .group_by(keys)
        .agg(pl.col(_SUMS).sum(), pl.col("longest").max())
    )
    of_timed = pl.col("bucket") > 0
    known = summed.with_columns(
        timed=pl.when(of_timed).then(pl.col("count")).otherwise(0),
        least_ns=pl.when(of_timed).then(pl.col("time_ns")).otherwise(0),
        most_ns=pl.when(of_timed).then(pl.col("time_ns")).otherwise(_room()).cast(pl.Float64),
    )
    stands_for = pl.col("count").sum().over(_LIKE[0]) / pl.col("timed").sum().over(_LIKE[0])
    return known.with_columns(
        time_ns=pl.when(of_timed).then(pl.col("time_ns")).otherwise(_guess()).cast(pl.Int64),
        weight=pl.when(of_timed).then(pl.col("timed") * stands_for).otherwise(0.0),
    )


def of_kind(counted: pl.DataFrame, kind: Kind) -> int:
    """How many faults of merged tallies are minor, or major."""
    return int(counted.filter(pl.col("kind") == kind)["count"].sum())


def notes_of_times(way: str, counted: pl.DataFrame) -> Iterator[str]:
    """Of how many faults the times are, and between what the sum of all is for certain."""
    timed = counted.filter(pl.col("timed") > 0)
    if way == COUNTS or len(timed) == len(counted):
        return
    minor, major = (
        f"{of_kind(timed, kind)} of {of_kind(counted, kind)}" for kind in (Kind.MINOR, Kind.MAJOR)
    )
    said = f"times are of {minor} minor faults, and of {major} major ones"
    least, most = (float(counted[name].sum()) for name in ("least_ns", "most_ns"))
    known = f": all took from {least / 1e6:.1f} to {most / 1e6:.1f} ms" if most < inf else ""
    yield said + known


def _room() -> pl.Expr:
    """What faults that were not timed can have taken together; without end if nobody knows."""
    return pl.when(pl.col("bucket") < 0).then(pl.col("room_ns")).otherwise(float("inf"))


def _guess() -> pl.Expr:
    """What faults that were not timed took: as those that they are like, if they had the room."""
    means = [
        (pl.col("least_ns").sum().over(like) / pl.col("timed").sum().over(like)).fill_nan(None)
        for like in _LIKE
    ]
    guess = pl.coalesce(*means) * pl.col("count")
    return pl.min_horizontal(guess, pl.col("most_ns")).fill_null(0).replace(float("inf"), 0).round()
