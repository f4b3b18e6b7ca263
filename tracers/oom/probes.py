"""Victims of the OOM killer: the probes."""

from __future__ import annotations

from memtap.bpf.plan import Plan, Probe, Variant

_NOTES = (
    "sizes are the kernel's own, as in its log: each CPU can hold back up to 32 pages of each kind "
    "(on more than 16 CPUs, twice as many as there are CPUs)",
)

_ON_VICTIM = Probe("on_victim", "tp_btf", ("mark_victim",))

# The verifier decides which variant fits: it knows whether the tracepoint gives a task or a number.
PLAN = Plan(
    "oom",
    (
        # Since 72ba14deb40a, and where that was backported.
        Variant("victim", "bounded", (_ON_VICTIM,), notes=_NOTES),
        Variant(
            "signal",
            "bounded",
            (Probe("on_signal", "tp_btf", ("signal_generate",)), _ON_VICTIM),
            defines=("BY_SIGNAL", "UNTYPED_POINTERS"),
            notes=_NOTES,
        ),
        # Before 3ca1032ab7ab the helper that gives a typed task is missing.
        Variant("untyped", "bounded", (_ON_VICTIM,), ("UNTYPED_POINTERS",), _NOTES),
    ),
    wakeup=1,
    least_mib=48,
)
