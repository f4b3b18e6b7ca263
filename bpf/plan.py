"""Probe plans: the variants by which a tracer can see its events, best first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from memtap.bpf.errors import MemtapError
from memtap.bpf.kernel import Kernel
from memtap.bpf.source import Words

Kind = Literal[
    "tp_btf", "raw_tp", "fentry", "fexit", "kprobe", "software", "iter", "uprobe", "demand"
]
Accuracy = Literal["exact", "bounded", "estimated"]

# Where memtap's own events are left out: in the kernel; in the rows that were made of all events;
# or in the report, which has to know what these events did to other processes.
LeftOut = Literal["kernel", "rows", "report"]

# When a program has a standby: another program that runs where the kernel refused it.
StandbyUse = Literal["never", "always", "preempted"]

# perf_sw_ids of uapi/linux/perf_event.h, by the names that perf(1) has for them.
SOFTWARE = {"minor-faults": 5, "major-faults": 6}


@dataclass(frozen=True)
class Probe:
    """A function of the C program and the place in the kernel it is attached to.

    Attributes:
        function: its name in the program.
        kind: `tp_btf` (a tracepoint, arguments typed by BTF), `raw_tp` (the same, arguments just
            numbers), `fentry`, `fexit` (with the return value), `kprobe`, `software` (each count of
            a perf software event), `iter` (over all objects of a type, when we ask), `uprobe` (a
            function of a process, when we have found it), or `demand` (attached to nothing, and run
            when we ask; the target names what it looks at).
        targets: names of tracepoints, kernel functions, perf events or iterators; the first that
            exists is taken.
        reads_user: whether it may read memory of the process, and is attached where faults occur.
            Then its own read can fault and run it again. The kernel refuses such a run, which is no
            event.
        standby: when another program takes its place where it runs already (memtap/standby.h):
            always, as it is also run in interrupts, or only where tasks are preempted in the midst
            of a program; see Kernel.preempts().
        takes: an argument of a tracepoint, by its number, and the struct that it must point to.
        is_event: whether it sees events of the report. Then it is named in the report, and a run
            that the kernel refuses means a missed event.
        wanted: whether it is of any use on this kernel; if not, it is left out.
    """

    function: str
    kind: Kind
    targets: tuple[str, ...]
    reads_user: bool = False
    standby: StandbyUse = "never"
    takes: tuple[int, str] | None = None
    is_event: bool = True
    wanted: Callable[[Kernel], bool] = field(default=lambda _: True, compare=False)

    def standbys(self, kernel: Kernel) -> int:
        """How many standbys it has on this kernel: a task can be preempted in the first, too."""
        if self.standby != "never" and kernel.preempts(self.kind):
            return 2
        return int(self.standby == "always")

    def target(self, kernel: Kernel) -> str | None:
        """The first target that this kernel has, or None."""
        return next((name for name in self.targets if self._exists(kernel, name)), None)

    def _exists(self, kernel: Kernel, name: str) -> bool:
        if self.kind in ("tp_btf", "raw_tp"):
            return kernel.btf.has_raw_tracepoint(name) and self._takes(kernel, name)
        if self.kind in ("fentry", "fexit"):
            return kernel.btf.has_function(name) and kernel.has_trampolines
        if self.kind == "iter":
            return kernel.btf.attach_id("iter", name) > 0
        if self.kind == "demand":
            return True
        if self.kind == "uprobe":  # whether the process has the function is found out later
            return kernel.has_uprobes
        if self.kind == "software":  # the kernel has perf, which our own rings need
            return name in SOFTWARE
        return kernel.has_kprobes and name in kernel.functions

    def _takes(self, kernel: Kernel, tracepoint: str) -> bool:
        return self.takes is None or kernel.btf.argument(tracepoint, self.takes[0]) == self.takes[1]


@dataclass(frozen=True)
class Variant:
    """One set of probes that sees a tracer's events: all its probes and calls must exist.

    Attributes:
        name: what `doctor` and --dry-run call it.
        accuracy: how far its numbers can be believed.
        of_host: the accuracy of a report of the whole host, where that is lower.
        probes: what is attached.
        defines: macros that select it in the C program.
        notes: what it cannot see; goes into the audit.
        calls: kernel functions that the C program calls (KFUNC in memtap/fields.h).
        members: structs and members that it reads and that not every kernel has.
    """

    name: str
    accuracy: Accuracy
    probes: tuple[Probe, ...]
    defines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    members: tuple[tuple[str, str], ...] = ()
    of_host: Accuracy | None = None

    def missing(self, kernel: Kernel) -> list[str]:
        """What the variant needs and this kernel does not have, as `kind:name`."""
        probes = [
            f"{probe.kind}:{probe.targets[0]}"
            for probe in self.probes
            if probe.wanted(kernel) and probe.target(kernel) is None
        ]
        calls = [f"kfunc:{name}" for name in self.calls if not kernel.btf.has_function(name)]
        members = [f"member:{s}.{m}" for s, m in self.members if not kernel.btf.member(s, m)]
        return probes + calls + members


@dataclass(frozen=True)
class Plan:
    """A C program and the variants in which it can be attached, best first.

    Attributes:
        name: the tracer's name, which its recordings carry too; its file is NAME.bpf.c.
        variants: the variants, best first.
        words: enums of Python that its C program uses.
        mappings: whether the tracer also needs the side-band events of mappings; see sideband.py.
        own: where memtap's own events are left out of reports of the whole host.
        wakeup: the reader wakes up after so many batches of a CPU; with 0, when the CPU's ring is
            an eighth full, because the reader looks at the end of an interval anyway.
        least_mib: the memory that it needs in a cgroup, with its maps in the kernel: the least with
            which it ran twice, in steps of 4, on two CPUs and compiled before, and 8 more.
    """

    name: str
    variants: tuple[Variant, ...]
    words: tuple[Words, ...] = ()
    mappings: bool = False
    wakeup: int = 0
    own: LeftOut = "kernel"
    least_mib: int = 0

    def possible(self, kernel: Kernel) -> Iterator[Variant]:
        """The variants whose probes all exist here, best first; loading them may still fail.

        Each is checked only when it is asked for: it takes long to list what kprobes can be set on.
        """
        return (variant for variant in self.variants if not variant.missing(kernel))

    def require(self, kernel: Kernel) -> Iterator[Variant]:
        """`possible`, or MemtapError that names the probes missing from the best variant."""
        variants = self.possible(kernel)
        best = next(variants, None)
        if best is None:
            lacking = ", ".join(self.variants[0].missing(kernel))
            raise MemtapError(
                f"this kernel lacks every probe this report can use ({lacking} and others)",
                "run memtap doctor to see what would be needed",
            )
        return chain([best], variants)
