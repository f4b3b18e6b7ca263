"""doctor: what this host can trace, by which probes, how exactly, and what to do for more.

It really loads and attaches every report's probes, and shows what the kernel said. It compiles
them, unless the same compiler has compiled the same text before; a small sample shows that the
compiler still works. Facts about the host stand beside that, to explain it.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from memtap.bpf import libbpf
from memtap.bpf.cache import Cache
from memtap.bpf.compiled import Compiling
from memtap.bpf.errors import LoadError, MemtapError
from memtap.bpf.filters import cgroup_mounts
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Attempts, Loaded, Request
from memtap.bpf.plan import Variant
from memtap.bpf.session import Session
from memtap.tracers import every, every_declared
from memtap.tracers.live.processes import Processes
from memtap.tracers.model.report import Report, Row, now
from memtap.tracers.model.schema import DIALECT, Schema, record, report_schema
from memtap.tracers.model.tracer import Inspector

# Every report that traces, and what it needs of the kernel.
REPORTS = {
    tracer.name: Request(tracer.plan, settings=tracer.settings(tracer.usual()))
    for tracer in every()
}
# The same for reports that read the present state by BPF.
LOOKS = {
    each.name: Request(each.plan, notes_processes=False)
    for each in every_declared()
    if isinstance(each, Inspector) and each.plan
}

# A function and a map, to see whether the compiler works.
_SAMPLE = """
BPF_ARRAY(numbers, u64, 1);
int sample(void *context)
{
	int zero = 0;
	u64 *number = numbers.lookup(&zero);

	return number ? *number : 0;
}
"""

# The folders of the programs that we start, whatever PATH says.
_PATH = "/usr/bin:/bin"


@dataclass(frozen=True)
class Fact:
    """Something about the host.

    Attributes:
        name: of the feature.
        state: what was found.
        todo: what would help, "" if nothing is amiss.
    """

    name: str
    state: str
    todo: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What doctor found.

    Attributes:
        time: when, UTC, ISO 8601.
        rows: one per report: `report`, `accuracy` and `way` (None if it cannot run), `probes`,
            `missing` (what a better variant would need: what the kernel lacks, and the variants
            that it refused, with the last line of its message), `todo`, `notes`.
        host: facts that explain the rows.
        compiles: whether the compiler works; programs that were compiled before run without it.
    """

    time: str
    rows: list[Row]
    host: list[Fact]
    compiles: bool

    @property
    def all_run(self) -> bool:
        """Whether every report that is built can run, whatever its options."""
        return self.compiles and all(row["way"] for row in self.rows)


def diagnose(kernel: Kernel) -> Diagnosis:
    """Tries every report: compiles each one while the one before it is attached."""
    sample = Compiling(_SAMPLE, cache=None)
    begun = {name: _begin(request, kernel) for name, request in (REPORTS | LOOKS).items()}
    rows = [_finish(name, attempts, kernel) for name, attempts in begun.items()]
    compiler = _compiler(sample, kernel)
    host = [*_needs(kernel), compiler, *_libraries(), *_helpers(kernel)]
    return Diagnosis(now(), rows, host, compiles=not compiler.todo)


def _begin(request: Request, kernel: Kernel) -> Attempts | MemtapError:
    try:
        return Attempts(request, kernel, Cache())
    except MemtapError as error:
        return error


def _finish(name: str, attempts: Attempts | MemtapError, kernel: Kernel) -> Row:
    """The row of a report, its probes attached for a moment."""
    if isinstance(attempts, MemtapError):
        return _unusable(name, attempts)
    try:
        loaded = attempts.wait()
        with Session(loaded, kernel):
            return _usable(name, loaded, kernel)
    except (MemtapError, OSError) as error:
        return _unusable(name, error)
    finally:
        attempts.abandon()


def _unusable(name: str, error: MemtapError | OSError) -> Row:
    said = error if isinstance(error, MemtapError) else MemtapError(str(error.strerror), "")
    return {
        "report": name,
        "accuracy": None,
        "way": None,
        "probes": [],
        "missing": [said.what],
        "todo": said.hint or None,
        "notes": [],
    }


def _usable(name: str, loaded: Loaded, kernel: Kernel) -> Row:
    """The row of a report that runs; says why no better variant runs, if there is one."""
    variants, variant = loaded.request.plan.variants, loaded.variant
    missing = [
        probe for each in variants[: variants.index(variant)] for probe in each.missing(kernel)
    ]
    missing += map(str, loaded.refused)
    return {
        "report": name,
        "accuracy": variant.of_host or variant.accuracy,
        "way": variant.name,
        "probes": list(loaded.probes),
        "missing": list(dict.fromkeys(missing)),
        "todo": _todo(loaded, best=variants[0]),
        "notes": list(variant.notes),
    }


def _todo(loaded: Loaded, best: Variant) -> str | None:
    """What would make a better variant run."""
    if loaded.refused:
        return "report what was refused, with the output of memtap doctor -f json"
    return (
        None
        if loaded.variant.accuracy == best.accuracy
        else "run Linux 6.12 or later for exact counts"
    )


def _needs(kernel: Kernel) -> Iterator[Fact]:
    """What every tracer needs."""
    yield Fact("kernel", f"{kernel.release}, {platform.machine()}")
    held = kernel.may_trace
    yield Fact("privileges", "enough" if held else "too few", "" if held else "run it with sudo")
    btf = kernel.has_btf
    todo = "" if btf else "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    yield Fact("types (BTF)", "present" if btf else "absent", todo)
    lockdown = kernel.lockdown
    todo = "boot with lockdown=integrity" if lockdown == "confidentiality" else ""
    yield Fact("lockdown", lockdown or "unknown to this kernel", todo)


def _compiler(sample: Compiling, kernel: Kernel) -> Fact:
    """Which one it is, or why it does not work."""
    if not kernel.may_trace:
        return Fact("compiler", "only root can tell", "run it with sudo")
    try:
        return Fact("compiler", sample.wait().compiler)
    except LoadError as error:
        return Fact("compiler", f"does not work: {error.what}", error.hint)


def _libraries() -> Iterator[Fact]:
    """What has to be installed."""
    try:
        version = libbpf.library().libbpf_version_string().decode()
        yield Fact("libbpf", version.removeprefix("v"))
    except MemtapError as error:
        yield Fact("libbpf", "absent", error.hint)
    parquet = find_spec("pyarrow") is not None
    todo = "" if parquet else "pip install 'memtap[record]'"
    demangles = all(shutil.which(name, path=_PATH) for name in ("c++filt", "prlimit"))
    state = "as they are written" if demangles else "as the linker has them: no c++filt"
    yield Fact("C++, Rust names", state, "" if demangles else "apt install binutils util-linux")
    yield Fact("recordings", "--record and --from work" if parquet else "no pyarrow", todo)


def _helpers(kernel: Kernel) -> Iterator[Fact]:
    """What makes reports better, or other variants possible."""
    yield from _processes(kernel)
    yield Fact("cgroups", _cgroups(kernel.root) or "none mounted")
    for each in every_declared():
        if each.state:
            yield Fact(each.name, each.state(kernel.root))
    for name, is_there in (("kprobes", kernel.has_kprobes), ("fentry", kernel.has_trampolines)):
        state = "present" if is_there else "absent"
        known = state if kernel.may_trace else "only root can tell"
        yield Fact(name, f"{known}; not needed where tracepoints are")
    unseen = "not mounted" if kernel.may_trace else "only root can tell"
    tracefs = str(kernel.tracefs) if kernel.tracefs else unseen
    yield Fact("tracefs", f"{tracefs}; not needed")


def _processes(kernel: Kernel) -> Iterator[Fact]:
    """The two netlink families that report processes, if we can listen to them."""
    if not kernel.may_trace or not kernel.has_btf:
        return
    processes = Processes(kernel.btf, kernel.possible_cpus)
    try:
        for name in ("proc connector", "taskstats"):
            trouble = [note for note in processes.notes if name in note]
            yield Fact(name, "absent" if trouble else "listening", "".join(trouble))
    finally:
        processes.close()


def _cgroups(root: Path) -> str:
    mounts = cgroup_mounts((root / "proc/self/mountinfo").read_text())
    kinds = {"v1" if mount.controllers else "v2" for mount in mounts}
    return " and ".join(sorted(kinds))


def to_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """The JSON object: that of every report, and `host` beside it."""
    probes = dict.fromkeys(probe for row in diagnosis.rows for probe in row["probes"])
    nothing_counted = {"events": 0, "lost": 0, "missed": 0, "map_full": 0}
    return {
        "report": "doctor",
        "schema": Report.SCHEMA,
        "time": diagnosis.time,
        "interval_s": 0.0,
        "rows": diagnosis.rows,
        "audit": {
            "accuracy": "exact",
            **nothing_counted,
            "probes": list(probes),
            "kernel": {},
            "notes": [],
        },
        "host": [asdict(fact) for fact in diagnosis.host],
    }


_SAID: Schema = {"type": "array", "items": {"type": "string"}}
_MAYBE: Schema = {"type": ["string", "null"]}
_ROW: dict[str, Schema] = {
    "report": {"enum": [*REPORTS, *LOOKS]},
    "accuracy": {"enum": ["exact", "bounded", "estimated", None]},
    "way": _MAYBE,
    "probes": _SAID,
    "missing": _SAID,
    "todo": _MAYBE,
    "notes": _SAID,
}
_FACT: dict[str, Schema] = {name: {"type": "string"} for name in ("name", "state", "todo")}

# Of the object that to_dict() gives.
SCHEMA = {"$schema": DIALECT} | report_schema(
    "doctor",
    {"type": "array", "items": record(_ROW)},
    {"host": {"type": "array", "items": record(_FACT)}},
)
