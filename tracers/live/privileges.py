"""What a run without all of root's capabilities cannot see, and which capability would help."""

from __future__ import annotations

from memtap.bpf.kernel import CAP_SYS_PTRACE, Kernel
from memtap.bpf.plan import Plan

_NO_MAPPINGS = (
    "without CAP_SYS_PTRACE it is not known what processes of others had mapped before tracing "
    "began: such addresses are in region ?"
)


def notes_of(kernel: Kernel, plan: Plan) -> list[str]:
    """The notes on a run of this plan by this process."""
    return [_NO_MAPPINGS] if plan.mappings and not kernel.holds(CAP_SYS_PTRACE) else []
