"""Faults become rows: each gets its place, its cause and the code that took it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memtap.bpf.session import Drained
from memtap.bpf.sideband import Began, Ended
from memtap.bpf.stream import Events, take
from memtap.tracers.code.mappings import Heard, Moved
from memtap.tracers.code.unlinked import Unlinked
from memtap.tracers.faults.locate import Locator
from memtap.tracers.faults.match import Exceptions
from memtap.tracers.faults.probes import COUNTS, FIRST_CALL, SWAP, TIMING, Kind
from memtap.tracers.faults.rows import ROW, already_spilled, by_process, rows_of, spilled_rows
from memtap.tracers.faults.threadstacks import ThreadStacks
from memtap.tracers.faults.userfault import Watched, leave_files_out, tell_between
from memtap.tracers.host import procfs
from memtap.tracers.host.hostile import DELETED, one_line
from memtap.tracers.model.enricher import REMEMBERED, Enricher, Source, Taken

# In each second, the timing of minor faults rests after this many batches of events. When it
# resumes within that second, it rests again after only this many more.
_FIRST_BATCHES = 32
_MORE_BATCHES = 2

# To resume costs up to a millisecond on each CPU. It rests this many times as long as that took,
# of which at most so much counts.
_REST = 64
_MOST_COST_S = 1 / _REST

# The shortest time until we check again whether there are enough.
_SOON_S = 0.001

# How many batches are processed at a time: all that is made of them fits into a CPU's cache.
_TOGETHER = 128


# Of /proc/PID/task/TID/stat, counted from the field behind the name.
_MINOR, _MAJOR = 7, 9


def faults_of(tgid: int, tid: int) -> int | None:
    """How many faults a thread has completed, by its stat in /proc; None if it is gone."""
    try:
        stat = procfs.read(f"/proc/{tgid}/task/{tid}/stat")
    except procfs.Gone:
        return None
    fields = procfs.stat_fields(stat)
    return int(fields[_MINOR]) + int(fields[_MAJOR])


class Throttle:
    """Times a sample of the minor faults: the first ones of each second, then a few now and then.

    Timing costs more than all other probes together, and in a storm of faults some thousands tell
    as much as all of them. So timing rests as soon as there are enough. It resumes before long, and
    sooner after a fork or exec, so that later processes have timed faults too.
    """

    def __init__(self, session: Source) -> None:
        self._session = session
        self._second = self._began = self._rested = self._rest_s = 0.0
        self._received = self._births = 0
        self._allowed, self._rests, self._cost_s = _FIRST_BATCHES, False, 0.0

    def look(self, now: float) -> float:
        """Rests or resumes timing; gives the seconds until the next look. `now` is in seconds."""
        if now >= self._second + 1:
            self._second = now
            self._begin(now, _FIRST_BATCHES)
        elif self._rests and now >= self._wakes():
            self._begin(now, _MORE_BATCHES)
        elif not self._rests and self._timed() > self._allowed:
            self._rest(now)
        return self._patience(now)

    def _timed(self) -> int:
        """How many batches have come in since timing resumed."""
        return self._session.received - self._received

    def _begin(self, now: float, allowed: int) -> None:
        if self._rests:
            begin = time.monotonic()
            self._session.resume(TIMING)
            self._cost_s = min(time.monotonic() - begin, _MOST_COST_S)
        self._began, self._allowed, self._rests = now, allowed, False
        self._received = self._session.received

    def _rest(self, now: float) -> None:
        self._session.rest(TIMING)
        timed = 0 if self._allowed == _FIRST_BATCHES else self._timed() / _FIRST_BATCHES
        self._rests, self._births, self._rested = True, self._session.births, now
        self._rest_s = max(self._cost_s * _REST, timed)

    def _wakes(self) -> float:
        """When timing is to resume: after a fork or exec, a quarter of the rest is enough."""
        born = self._session.births > self._births
        return self._rested + (self._rest_s / 4 if born else self._rest_s)

    def _patience(self, now: float) -> float:
        if self._rests:
            return max(self._wakes() - now, 0)
        return math.inf if self._allowed == _FIRST_BATCHES else max(now - self._began, _SOON_S)


@dataclass(frozen=True)
class Settled:
    """What has become of events.

    Attributes:
        faults: rows; see faults.rows.ROW.
        calls: events that are not faults, in order of time.
        where: where each of the calls came from; see locate.WHERE.
        heard: what the kernel said about processes meanwhile.
    """

    faults: Events
    calls: Events
    where: Events
    heard: list[Heard]


class FaultEnricher(Enricher):
    """See Enricher. With `names_code` each fault gets its site, and its stack if one was taken.

    Attributes:
        mappings: see Locator.
    """

    row = ROW
    most_batches: float = _TOGETHER

    def __init__(self, session: Source, names_code: bool, callers: Sequence[str] = ()) -> None:
        """`callers`: see Locator."""
        self._locator = Locator(session, names_code, callers)
        self.mappings, self._sites = self._locator.mappings, self._locator.sites
        self._exceptions = Exceptions(faults_of)
        self._watched = Watched(session)
        self._threads = ThreadStacks()
        # Where exceptions are not seen, that probe is what counts the faults.
        self._counts = session.way == COUNTS
        self._throttle = None if self._counts else Throttle(session)
        self._swaps = SWAP in session.programs
        self._spilled: dict[int, int] = {}
        self._places_named: set[int] = set()
        self._unlinked = Unlinked()

    def follow(self, tgid: int) -> None:
        """Reads a process's mappings before they change."""
        self.mappings.read(tgid)

    def polled(self) -> float:
        """Throttles the timing of minor faults."""
        return self._throttle.look(time.monotonic()) if self._throttle else math.inf

    def enrich(self, drained: Drained, last: bool) -> Taken:
        """See Enricher."""
        spilled = spilled_rows(drained.spilled, self._counts, drained.until_ns)
        self._spilled = by_process(spilled) if len(spilled) else self._spilled
        settled = self.settle(drained, last)
        self._spilled = self._spilled if len(spilled) else {}
        rows = np.concatenate([settled.faults, spilled, _changes(settled.heard)])
        notes = self._sites.notes() if self._sites else []
        unsettled = self._exceptions.unsettled
        texts = self.texts(settled.faults)
        texts["place"] |= self._unlinked_since(settled.faults, drained.until_ns)
        return Taken(rows, texts=texts, notes=notes, unsettled=unsettled)

    def settle(self, drained: Drained, last: bool) -> Settled:
        """What has become of events."""
        self.polled()
        seen = self._locator.locate(drained, last)
        events, where = seen.events, seen.where
        self._threads.note(events[events["kind"] == Kind.THREAD], self.mappings.start_of)
        of_calls = events["kind"] >= FIRST_CALL
        calls, code = take(events, of_calls), take(where, of_calls)
        if len(calls):
            events, where = take(events, ~of_calls), take(where, ~of_calls)
        faults = self._exceptions.feed(
            events, where, last, settles=not drained.goes_on, until_ns=drained.until_ns
        )
        if self._spilled and not self._counts:
            faults = take(faults, ~already_spilled(faults, self._spilled))
        self._threads.check(faults)
        ended = {each.tgid for each in seen.heard if isinstance(each, Ended)}
        leave_files_out(faults, self.mappings.traits)
        self._watched.tell(faults, drained.until_ns / 1e9, ended)
        tell_between(faults)
        rows = rows_of(faults, self.mappings.traits, self._swaps)
        return Settled(rows, calls, code, seen.heard)

    def units_of(self, events: Events) -> int:
        """See Divisible: faults, and calls."""
        kinds = (Kind.MINOR, Kind.MAJOR) if self._counts else (Kind.RAISED,)
        faults = events["count"][np.isin(events["kind"], kinds)].sum()
        return int(faults + (events["kind"] >= FIRST_CALL).sum())

    def feedback(self, reporter: object) -> None:
        """Does nothing: the kernel has to send every fault."""

    def texts(self, rows: Events) -> dict[str, dict[int, str]]:
        """The texts of new sites, and of places that rows refer to for the first time."""
        if len(self._places_named) > REMEMBERED:
            self._places_named.clear()
        new = set(np.unique(rows["place"]).tolist()) - self._places_named
        self._places_named |= new
        texts = {"place": {n: self._path(n) for n in sorted(new)}}
        if self._sites:
            texts |= {"site": self._sites.sites.take(), "stack": self._sites.stacks.take()}
        return texts

    def _unlinked_since(self, rows: Events, now_ns: int) -> dict[int, str]:
        """The texts of places whose file was deleted or linked again since they were sent."""
        rows = take(rows, self.mappings.traits["of_file"][rows["place"]])
        news = self._unlinked.look(rows["place"], rows["tgid"], self.mappings.places, now_ns)
        self._unlinked.forget(self.mappings.places)
        return {number: self._path(number) for number in sorted(news)}

    def _path(self, number: int) -> str:
        path = one_line(self.mappings.places[number].path)
        return path + DELETED if number in self._unlinked.numbers else path


def _changes(heard: list[Heard]) -> Events:
    """A row without faults for each change of what a process has at an address."""
    changes = [each for each in heard if isinstance(each, Began | Moved)]
    rows = np.zeros(len(changes), ROW)
    rows["kind"] = Kind.MOVED
    rows["ns"] = [each.ns for each in changes]
    rows["tgid"] = [each.tgid for each in changes]
    return rows
