"""The audit: how far a report can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from memtap.bpf.plan import Accuracy
from memtap.bpf.session import Losses
from memtap.tracers.model.chunk import Interval, Origin


def accuracy(promised: Accuracy, losses: Losses, unseen: int) -> Accuracy:
    """What the probes promise, unless something was lost or is known to be unseen."""
    if replace(losses, spilled=0) != Losses():
        return "estimated"
    return "bounded" if promised == "exact" and unseen + losses.spilled else promised


def audit(
    origin: Origin,
    interval: Interval,
    events: int,
    *,
    unseen: int = 0,
    notes: Sequence[str] = (),
    own: int = 0,
) -> dict[str, Any]:
    """The `audit` object of a report, as the contract has it.

    Args:
        origin: where the report's events come from.
        interval: when.
        events: how many there are.
        unseen: how many more there would be if all could be seen; they bound the report's error.
        notes: what else to say of this report.
        own: events of the tracing process that the report left out, beside those of the interval.
    """
    losses = interval.losses
    return {
        "accuracy": accuracy(origin.accuracy, losses, unseen + interval.reused),
        "events": events,
        "lost": losses.lost,
        "missed": losses.missed,
        "map_full": losses.map_full,
        "probes": list(origin.probes),
        "kernel": interval.kernel,
        "self": interval.own | {"events": interval.own.get("events", 0) + own},
        "notes": [
            *origin.notes,
            *interval.notes,
            *notes,
            *_reused(interval.reused),
            *_lost_records(losses),
            *_spilled(losses),
        ],
    }


def _reused(numbers: int) -> list[str]:
    """The note that rows add up several processes, as in a long interval or a whole run."""
    if not numbers:
        return []
    return [
        f"{numbers} process number{'s were' if numbers > 1 else ' was'} given to another process "
        "meanwhile: what all of one number did stands under the name of the last"
    ]


def _lost_records(losses: Losses) -> list[str]:
    """The note on lost records that say where memory is mapped, or no longer is."""
    if not losses.records:
        return []
    return [f"{losses.records} records of mappings and events did not fit the rings"]


def _spilled(losses: Losses) -> list[str]:
    """The note on events for which the buffers had no room."""
    if not losses.spilled:
        return []
    return [
        f"{losses.spilled} were only added up, by process and kind, as the buffers were full: sums "
        "hold, but so many can stand in a wrong row or column"
    ]
