"""Rows of oom: victims get their cgroup, the reason, and the other candidates."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from memtap.bpf.filters import memory_mounts
from memtap.bpf.session import Drained
from memtap.bpf.stream import Events
from memtap.tracers.host.hostile import printable
from memtap.tracers.model.enricher import Enricher, Source, Taken, Texts
from memtap.tracers.oom import badness
from memtap.tracers.oom.badness import Score
from memtap.tracers.oom.kmsg import KernelLog, Verdict
from memtap.tracers.oom.rows import ROW, Constraint, Kind

# How many of the processes that could have been killed instead become rows.
CANDIDATES = 5

# The kernel logs the reason just after it has marked a victim.
_PATIENCE_S = 0.2

_PAGE = os.sysconf("SC_PAGESIZE")
_SIZES = ("total_vm", "anon", "file", "shmem", "swap")


class OomEnricher(Enricher):
    """See Enricher."""

    row = ROW

    def __init__(self, session: Source, log: KernelLog | None = None) -> None:
        """`log`: the kernel's messages from now on; by default /dev/kmsg."""
        self._session = session
        self._mounts = memory_mounts()
        self._log = log or KernelLog()
        self._looks: list[tuple[int, list[Score]]] = []
        self._cgroups: dict[int, str] = {}
        self._seen = self._taken = 0

    def polled(self) -> float:
        """Reads all processes as soon as one was killed; each victim is a batch of its own."""
        if self._session.received > self._seen:
            self._seen = self._session.received
            self._looks.append((self._seen, [*filter(None, badness.look())]))
            self._cgroups = dict(self._directories())
        return math.inf

    def _directories(self) -> Iterator[tuple[int, str]]:
        """The existing cgroups, by their inodes."""
        for mount in self._mounts:
            for folder, _, _ in os.walk(mount.path):
                inside = os.path.relpath(folder, mount.path)
                path = "/" if inside == "." else f"/{inside}"
                yield Path(folder).stat().st_ino, printable(os.fsencode(path))

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        self.polled()
        parts, texts = [np.zeros(0, ROW)], _nothing()
        for event in drained.events:
            verdict = self._log.verdict(int(event["tgid"]), _PATIENCE_S)
            victim = _victim(event, verdict, self._scope(verdict))
            self._name(event, verdict, texts)
            parts += [victim, self._others(victim[0], verdict)]
        return Taken(np.concatenate(parts), texts=texts)

    def _scope(self, verdict: Verdict) -> int:
        if verdict.constraint is Constraint.UNKNOWN:
            return 0
        if verdict.constraint is not Constraint.MEMCG:
            return badness.host_scope()
        limited = verdict.limited
        return badness.cgroup_scope(limited, self._mounts) if limited else 0

    def _name(self, event: Any, verdict: Verdict, texts: Texts) -> None:
        tgid = int(event["tgid"])
        texts["trigger"][int(event["trigger"])] = _comm(event, "trigger_comm")
        if event["known"]:
            texts["victim"][tgid] = _comm(event, "comm")
        found = self._cgroups.get(int(event["cgroup"]), verdict.cgroup)
        texts["cgroup"] |= {tgid: found} if found else {}
        texts["limited"] |= {tgid: verdict.limited}

    def _others(self, victim: Any, verdict: Verdict) -> Events:
        """The other candidates with the most points, highest first."""
        while self._looks and self._looks[0][0] <= self._taken:
            self._looks.pop(0)
        self._taken += 1
        scope = int(victim["scope"])
        seen = self._looks[0][1] if self._looks and scope else []
        bad = {
            score.pid: points
            for score in seen
            if score.pid not in (1, victim["tgid"]) and _is_below(score.cgroup, verdict.limited)
            if (points := badness.badness(score.held, score.adj, scope, _PAGE)) is not None
        }
        chosen = sorted((s for s in seen if s.pid in bad), key=lambda s: -bad[s.pid])
        return _candidates(chosen[:CANDIDATES], victim)


def _nothing() -> Texts:
    return {kind: {} for kind in ("victim", "trigger", "cgroup", "limited")}


def _is_below(cgroup: str, limited: str) -> bool:
    """Whether a cgroup is `limited` or below it; true if no cgroup's limit was reached."""
    return (cgroup + "/").startswith(limited.rstrip("/") + "/")


def _comm(event: Any, name: str) -> str:
    words = (int(event[f"{name}_{number}"]).to_bytes(8, "little") for number in (0, 1))
    return printable(b"".join(words).partition(b"\0")[0])


def _victim(event: Any, verdict: Verdict, scope: int) -> Events:
    row = np.zeros(1, ROW)
    for name in ("ns", "tgid", "trigger", "uid", "known", "pgtables"):
        row[name] = event[name]
    for name in _SIZES:
        row[name] = event[name] * _PAGE
    row["adj"] = event["adj"].astype(np.int16)
    row["kind"], row["constraint"], row["scope"] = Kind.VICTIM, verdict.constraint, scope
    return row


def _candidates(chosen: list[Score], victim: Any) -> Events:
    rows = np.zeros(len(chosen), ROW)
    for row, score in zip(rows, chosen, strict=True):
        for name in (*_SIZES, "pgtables", "uid", "adj"):
            row[name] = getattr(score, name)
        row["ns"], row["tgid"], row["trigger"] = victim["ns"], score.pid, victim["tgid"]
        row["kind"], row["known"], row["scope"] = Kind.CANDIDATE, 1, victim["scope"]
    return rows
