"""malloc: the ways of page faults, and the system calls by which memory comes and goes."""

from __future__ import annotations

from dataclasses import replace

from memtap.bpf.plan import Plan, Probe
from memtap.tracers import faultplan

_CALLS = Probe("on_call", "tp_btf", ("sys_exit",))

PLAN = Plan(
    "malloc",
    tuple(
        replace(way, probes=(*way.probes, _CALLS), defines=(*way.defines, "CALLS"))
        for way in faultplan.PLAN.ways
    ),
    mappings=True,
    wakeup=faultplan.PLAN.wakeup,
    program=faultplan.PLAN.name,
)
