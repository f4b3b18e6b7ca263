"""From a request to programs in the kernel: the best variant that the kernel accepts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from memtap.bpf import objects
from memtap.bpf.cache import Cache
from memtap.bpf.compiled import Compiled, Compiling
from memtap.bpf.errors import LoadError
from memtap.bpf.filters import Filter, cgroup_defines
from memtap.bpf.kernel import Kernel
from memtap.bpf.plan import Plan, Probe, Variant
from memtap.bpf.source import compose

_ON_FORK = Probe("on_fork", "tp_btf", ("sched_process_fork",))
_ON_FREE = Probe("on_free", "tp_btf", ("sched_process_free",))
_ON_EXEC = Probe("on_exec", "tp_btf", ("task_rename",))
_ON_NEW_CGROUP = Probe("on_new_cgroup", "tp_btf", ("cgroup_mkdir",), is_event=False)

# These note the cgroups of processes (memtap/cgroups.h) and their arguments (memtap/arguments.h).
_NOTING = tuple(
    Probe(function, "tp_btf", (target,), is_event=False)
    for function, target in (
        ("on_birth", "sched_process_fork"),
        ("on_move", "cgroup_attach_task"),
        ("on_end", "sched_process_exit"),
        ("on_program", "sched_process_exec"),
        ("on_inherit", "sched_process_fork"),
    )
)

# The tables of memtap/counters.h, and the map of maps that holds the one in use.
TABLES, IN_USE = ("totals_0", "totals_1"), "totals"

# The function that empties the batches. It is attached to nothing, but run on each CPU on demand.
_FLUSH = "flush"


@dataclass(frozen=True)
class Request:
    """What to compile and attach.

    Attributes:
        plan: the C program and the variants in which it can be attached.
        filter: the processes whose events are kept.
        settings: further macros of the program (`NAME value`).
        notes_processes: whether cgroups and arguments of processes are noted, also of processes
            that are gone before we can look.
    """

    plan: Plan
    filter: Filter = field(default_factory=Filter)
    settings: tuple[str, ...] = ()
    notes_processes: bool = True

    def text(self, kernel: Kernel, variant: Variant) -> str:
        """The text handed to the compiler: what --dump-c shows."""
        settings = [f"{name} 1" for name in variant.defines]
        if standbys := max(probe.standbys(kernel) for probe in variant.probes):
            settings.append(f"STANDBYS {standbys}")
        if kernel.has_casts:
            settings.append("CASTS 1")
        settings += [*self.settings, *self.filter.defines(kernel.btf)]
        if self.filter.own and self.plan.own == "kernel":
            settings.append("LEAVE_OWN_OUT 1")
        if self.notes_processes:
            settings += ["NOTE_PROCESSES 1", *cgroup_defines(kernel.btf)]
        return compose(self.plan.name, settings, kernel.btf, self.plan.words)

    def probes(self, variant: Variant) -> tuple[Probe, ...]:
        """The variant's probes, those that keep the set of processes, and those of _NOTING."""
        keeping = (_ON_FREE,) if self.filter.by_tgid else ()
        joining = (_ON_FORK,) if self.filter.by_tgid and self.filter.follow else ()
        starting = (_ON_EXEC,) if self.filter.starts else ()
        awaiting = (_ON_NEW_CGROUP,) if self.filter.cgroups else ()
        noting = _NOTING if self.notes_processes else ()
        return variant.probes + joining + keeping + starting + awaiting + noting


@dataclass(frozen=True)
class _Attachment:
    """A probe and what it is attached to, or one of its standbys, from 1 on."""

    probe: Probe
    target: str
    standby: int = 0

    @property
    def name(self) -> str:
        return f"{self.probe.function}_{self.standby}" if self.standby else self.probe.function


def _attachments(probe: Probe, kernel: Kernel) -> list[_Attachment]:
    """A program and its standbys, in the order in which they are attached.

    Standbys must run behind their program. At a tracepoint the program that was attached first
    runs first, at a function the one that was attached last.
    """
    target = probe.target(kernel) or ""
    in_turn = [_Attachment(probe, target, standby) for standby in range(1 + probe.standbys(kernel))]
    return in_turn[::-1] if probe.kind in ("fentry", "fexit") else in_turn


@dataclass(frozen=True)
class Refusal:
    """A variant that did not load, though the kernel has all that it needs."""

    variant: Variant
    error: LoadError

    def __str__(self) -> str:
        """One line, with the kernel's reason."""
        name, accuracy = self.variant.name, self.variant.accuracy
        return f"the variant {name!r}, which is {accuracy}, was refused: {self.error.what}"


class Loaded:
    """Programs in the kernel, not attached yet. Raises LoadError when it is made.

    Attributes:
        request, variant: what was loaded.
        refused: the better variants, which were tried before and refused.
        programs, maps: descriptors by name.
        entries: how many elements each map has room for.
        layouts: the structs of the records, see Compiled.
        compiler: what compiled them, for a person to read.
    """

    def __init__(
        self, request: Request, variant: Variant, compiled: Compiled, kernel: Kernel
    ) -> None:
        self.request, self.variant = request, variant
        self.refused: tuple[Refusal, ...] = ()
        self.layouts, self.compiler = compiled.layouts, compiled.compiler
        wanted = [probe for probe in request.probes(variant) if probe.wanted(kernel)]
        self._attached = [each for probe in wanted for each in _attachments(probe, kernel)]
        self.maps: dict[str, int] = {}
        self.entries = {spec.name: spec.entries for spec in compiled.maps}
        self.programs: dict[str, int] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            self._create(compiled, kernel)
            undo.pop_all()

    def _create(self, compiled: Compiled, kernel: Kernel) -> None:
        for spec in sorted(compiled.maps, key=lambda spec: spec.name == IN_USE):
            self.maps[spec.name] = objects.create_map(spec, self.maps.get(TABLES[0]))
        for each in self._attached:
            function, own = compiled.programs[each.probe.function], self.request.filter.own
            code = function.using(self.maps, each.standby, own)
            self.programs[each.name] = objects.load_program(
                each.name, each.probe.kind, each.target, code, kernel
            )
        if _FLUSH in compiled.programs:
            code = compiled.programs[_FLUSH].using(self.maps)
            self.programs[_FLUSH] = objects.load_program(_FLUSH, "demand", "", code, kernel)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the variant cannot see, and why no better one is used."""
        return (*self.variant.notes, *map(str, self.refused))

    @property
    def countable(self) -> list[str]:
        """The functions for which each run that the kernel refused means a missed event."""
        return [
            each.name
            for each in self._attached
            if each.probe.is_event and not each.probe.reads_user and not each.standby
        ]

    @property
    def probes(self) -> tuple[str, ...]:
        """The probes that see the events, as `kind:target`."""
        return tuple(
            f"{each.probe.kind}:{each.target}"
            for each in self._attached
            if each.probe.is_event and not each.standby
        )

    def attach(self, cpus: Sequence[int]) -> dict[str, list[int]]:
        """Attaches everything, and gives the descriptors by function.

        A function stays attached until all of its descriptors are closed.

        Args:
            cpus: the CPUs that are online; a perf event is of one CPU.
        """
        links: dict[str, list[int]] = {}
        with ExitStack() as undo:
            for each in self._attached:
                links[each.name] = self.attach_one(each.name, cpus)
                for link in links[each.name]:
                    undo.callback(os.close, link)
            undo.pop_all()
        return links

    def attach_one(self, name: str, cpus: Sequence[int]) -> list[int]:
        """Attaches one of the functions, as attach() does."""
        each = next(each for each in self._attached if each.name == name)
        return objects.attach(each.probe.kind, each.target, self.programs[name], cpus)

    def attach_to_cpu(self, name: str, cpu: int) -> list[int]:
        """Attaches a function to a CPU that came online, if it is attached to CPUs at all."""
        each = next((each for each in self._attached if each.name == name), None)
        if each is None or each.probe.kind != "software":
            return []
        return objects.attach(each.probe.kind, each.target, self.programs[name], [cpu])

    def close(self) -> None:
        """Gives programs and maps back to the kernel."""
        for held in (self.programs, self.maps):
            for fd in held.values():
                os.close(fd)
            held.clear()


class Attempts:
    """Loads the best variant that this kernel accepts, trying each that could work.

    The first is being compiled and loaded when this returns; wait() waits for the end.
    """

    def __init__(self, request: Request, kernel: Kernel, cache: Cache | None) -> None:
        kernel.require_tracing()
        self._request, self._kernel, self._cache = request, kernel, cache
        self._variants = request.plan.require(kernel)
        self._best = next(self._variants)
        self._compiling = self._compile(self._best)
        # The verifier takes time, during which other Python code can run.
        self._thread = ThreadPoolExecutor(1)
        self._first = self._thread.submit(self._load, self._best, self._compiling)

    def _compile(self, variant: Variant) -> Compiling:
        return Compiling(self._request.text(self._kernel, variant), self._cache)

    def _load(self, variant: Variant, compiling: Compiling) -> Loaded:
        return Loaded(self._request, variant, compiling.wait(), self._kernel)

    @property
    def takes_time(self) -> bool:
        """Whether the first variant has to be compiled, which takes seconds; see Cache."""
        return self._compiling.takes_time

    def abandon(self) -> None:
        """Gives up."""
        self._compiling.abandon()
        self._thread.shutdown()

    def wait(self) -> Loaded:
        """What was loaded. If no variant could be, raises the LoadError of the best one."""
        try:
            return self._first.result()
        except LoadError as error:
            refused = [Refusal(self._best, error)]
        for variant in self._variants:
            try:
                loaded = self._load(variant, self._compile(variant))
            except LoadError as error:
                refused.append(Refusal(variant, error))
            else:
                loaded.refused = tuple(refused)
                return loaded
        raise refused[0].error
