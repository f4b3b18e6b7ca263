"""Minor faults are timed at the start of each second, and every now and then after that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from memtap.tracers.faults.enrich import Throttle
from memtap.tracers.faults.probes import TIMING
from tests.tracers.sources import Given

ENOUGH = 33  # batches: one more than a second times at first


@dataclass
class Timed(Given):
    """Notes when timing rests and resumes."""

    turns: list[str] = field(default_factory=list)

    def rest(self, function: str) -> None:
        assert function == TIMING
        self.turns.append("rest")

    def resume(self, function: str) -> None:
        assert function == TIMING
        self.turns.append("resume")


def resting(session: Timed, at: float = 100.0) -> Throttle:
    throttle = Throttle(session)
    throttle.look(at)
    session.received += ENOUGH
    throttle.look(at)
    assert session.turns == ["rest"]
    return throttle


def rest_again(session: Timed, throttle: Throttle, batches: int) -> float:
    """Has timing rest for the second time, after so many more batches; gives for how long."""
    throttle.look(100.0)
    assert session.turns == ["rest", "resume"]
    session.received += batches
    return throttle.look(100.0)


def test_timing_goes_on_while_few_faults_come() -> None:
    session = Timed()
    throttle = Throttle(session)
    assert throttle.look(100.0) == math.inf
    session.received += ENOUGH - 1
    assert throttle.look(100.5) == math.inf
    assert session.turns == []


def test_each_second_begins_anew() -> None:
    session = Timed()
    throttle = resting(session)
    throttle.look(101.0)
    session.received += ENOUGH - 1
    throttle.look(101.0)
    assert session.turns == ["rest", "resume"]


def test_within_a_second_timing_resumes_for_fewer_faults() -> None:
    session = Timed()
    throttle = resting(session)
    wait = rest_again(session, throttle, 2)
    assert session.turns == ["rest", "resume"]
    assert 0 < wait < 0.01
    session.received += 1
    throttle.look(100.0)
    assert session.turns == ["rest", "resume", "rest"]


def test_a_storm_makes_it_rest_for_longer() -> None:
    session = Timed()
    throttle = resting(session)
    wait = rest_again(session, throttle, 16)
    assert 0.5 <= wait <= 1


def test_a_birth_ends_a_rest_after_a_quarter() -> None:
    session = Timed()
    throttle = resting(session)
    wait = rest_again(session, throttle, 16)
    session.births += 1
    assert throttle.look(100.0) == wait / 4
    throttle.look(100.0 + wait / 4)
    assert session.turns == ["rest", "resume", "rest", "resume"]
