"""The question to one tracer of a run."""

from __future__ import annotations

from dataclasses import dataclass

from memtap.bpf.plan import Plan
from memtap.cli.arrange import Order
from memtap.tracers.model.tracer import Query, Tracer


@dataclass(frozen=True)
class Job:
    """What one tracer is asked, and how its reports are to be shown.

    Attributes:
        tracer: the tracer that is asked.
        query: what it is asked.
        order: the order of rows.
    """

    tracer: Tracer
    query: Query
    order: Order

    @property
    def plan(self) -> Plan:
        """The plan by which the tracer is attached."""
        return self.tracer.plan_of(self.query)
