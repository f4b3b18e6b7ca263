"""How long page faults took: the timed ones, and estimates for the others.

In a storm not every minor fault is timed. We assume that an untimed fault is like the timed ones of
its process, region and cause whose thread also stayed on its CPU, or also left it: so a few faults
that waited do not stand for many that did not. And it took no longer than the time to its thread's
next exception; no two faults share any of that time, so no sum exceeds what is possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np
import numpy.typing as npt

from memtap.bpf.stream import Events
from memtap.tracers.faults.probes import COUNTS, Kind
from memtap.tracers.model.arrays import Numbers, first_of_each, group_numbers
from memtap.tracers.model.durations import STEPS, bucket_of
from memtap.tracers.model.frames import pl

# What an untimed fault has in common with the timed ones that stand for it, best match first.
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

    Columns: the keys, `bucket`, `count`, `time_ns`, `room_ns` and `longest` (all ns). For untimed
    faults `bucket` is 0, or negative if `room_ns` is known.
    """
    timed = rows["time_ns"] > 0
    room = np.where(timed, 0, rows["room_ns"])
    each = bucket_of(room // np.maximum(rows["count"], 1))
    bucket = np.where(timed, bucket_of(rows["time_ns"]), -(each // STEPS) - (each > 0))
    keys = _keys(numbers)
    group = group_numbers(*(rows[name] for name in keys), bucket)
    one = first_of_each(group)
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
    """Merges tallies, each key and bucket once; adds what is known of their times.

    Columns, besides those of tally(): `time_ns` of all faults, as far as it can be known;
    `least_ns` and `most_ns`, its certain bounds; `timed`, how many faults were timed; `weight`,
    `timed` times the number of faults for which each timed one stands.
    """
    found = _summed(tallies, numbers)
    of_timed, count = found["bucket"] > 0, found["count"]
    timed, least = np.where(of_timed, count, 0), np.where(of_timed, found["time_ns"], 0)
    room = np.where(found["bucket"] < 0, found["room_ns"], inf)  # without a limit if not known
    most = np.where(of_timed, found["time_ns"], room)
    means, stands_for = _means(found, timed, least)
    guess = np.minimum(np.where(np.isnan(means), inf, means * count), most)
    guess = np.rint(np.where(np.isinf(guess), 0, guess)).astype(np.int64)
    found["time_ns"] = np.where(of_timed, found["time_ns"], guess)
    weight = np.where(of_timed, stands_for, 0.0) * timed
    more = {"timed": timed, "least_ns": least, "most_ns": most, "weight": weight}
    return pl.DataFrame(found | more)


def _summed(tallies: list[pl.DataFrame], numbers: list[str]) -> dict[str, Numbers]:
    """The columns of tally() summed over all tallies, in order of the keys."""
    keys = [*_keys(numbers), "bucket"]
    empty = np.empty(0, np.int64)
    column = {
        name: np.concatenate([empty, *(tally[name].to_numpy() for tally in tallies)])
        for name in (*keys, *_SUMS, "longest")
    }
    group = group_numbers(*(column[name] for name in keys))
    one = first_of_each(group)
    longest = np.zeros(len(one), np.int64)
    np.maximum.at(longest, group, column["longest"])
    sums = {n: np.bincount(group, column[n], len(one)).astype(np.int64) for n in _SUMS}
    return {name: column[name][one] for name in keys} | sums | {"longest": longest}


def _means(
    found: dict[str, Numbers], timed: Numbers, least: Numbers
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The mean time of the timed faults most like each; and for how many each of them stands."""
    means = np.full(len(timed), np.nan)
    stands_for = means
    for like in reversed(_LIKE):
        group = group_numbers(*(found[name] for name in like))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean, share = (
                np.bincount(group, all_of) / np.bincount(group, timed)
                for all_of in (least, found["count"])
            )
        means, stands_for = np.where(np.isnan(mean[group]), means, mean[group]), share[group]
    return means, stands_for


def of_kind(counted: pl.DataFrame, kind: Kind) -> int:
    """How many faults of merged tallies are minor, or major."""
    return int(counted["count"].to_numpy()[counted["kind"].to_numpy() == kind].sum())


def notes_of_times(way: str, counted: pl.DataFrame) -> Iterator[str]:
    """Notes: how many faults were timed, and the certain bounds of the sum."""
    kind, count, timed = (counted[name].to_numpy() for name in ("kind", "count", "timed"))
    if way == COUNTS or (timed > 0).all():
        return
    minor, major = (
        f"{timed[kind == each].sum()} of {count[kind == each].sum()}"
        for each in (Kind.MINOR, Kind.MAJOR)
    )
    said = f"times are of {minor} minor faults, and of {major} major ones"
    least, most = (float(counted[name].to_numpy().sum()) for name in ("least_ns", "most_ns"))
    known = f": all took from {least / 1e6:.1f} to {most / 1e6:.1f} ms" if most < inf else ""
    yield said + known
