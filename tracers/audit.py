"""The audit: how far a report can be believed."""

from __future__ import annotations

from typing import Any

from memtap.bpf.plan import Accuracy
from memtap.bpf.session import Losses
from memtap.tracers.chunk import Interval, Origin


def accuracy(promised: Accuracy, losses: Losses, unseen: int) -> Accuracy:
    """What the probes promise, unless something was lost or is known to be unseen."""
    if losses != Losses():
        return "estimated"
    return "bounded" if promised == "exact" and unseen else promised


def audit(origin: Origin, interval: Interval, events: int) -> dict[str, Any]:
    """The `audit` object of a report, as the contract has it."""
    losses = interval.losses
    # A fault that maps 2 MiB of a file at once (filemap_map_pmd()) fires no tracepoint.
    unseen = interval.kernel.get("thp_file_mapped", 0)
    huge = f"{unseen} huge mappings of files were made; up to as many accesses are not counted"
    return {
        "accuracy": accuracy(origin.accuracy, losses, unseen),
        "events": events,
        "lost": losses.lost,
        "missed": losses.missed,
        "map_full": losses.map_full,
        "probes": list(origin.probes),
        "kernel": interval.kernel,
        "notes": [*origin.notes, *interval.notes, *([huge] if unseen else [])],
    }
