"""Maps, programs and links in the kernel: each is a descriptor, and goes when that is closed."""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from memtap.bpf import libbpf
from memtap.bpf.compiled import Map
from memtap.bpf.errors import LoadError
from memtap.bpf.kernel import Kernel
from memtap.bpf.plan import SOFTWARE, Kind

# Of uapi/linux/bpf.h and uapi/linux/perf_event.h.
_MAP_PERF_EVENT_ARRAY, _MAP_ARRAY_OF_MAPS, _MAP_TASK_STORAGE = 4, 12, 29
_PROG_TYPE_KPROBE, _PROG_TYPE_PERF_EVENT = 2, 7
_PROG_TYPE_RAW_TRACEPOINT, _PROG_TYPE_TRACING = 17, 26
_TRACE_TYPES = {"tp_btf": 23, "fentry": 24, "fexit": 25, "iter": 28}
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_FLAG_FD_CLOEXEC = 8
_ANY_TASK = _ANY_CPU = _NO_GROUP = -1
_TYPE_SOFTWARE = 1

_BTF_INT_SIGNED = 1
# Of linux/bpf_verifier.h: the verifier logs its reason, and figures. A log of all that it went
# through can be longer than any buffer, and the cause is at the end.
_BPF_LOG_STATS, _LOG_BYTES = 4, 64 << 10
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_INSTRUCTION_BYTES = 8


@contextmanager
def _as_load_error() -> Iterator[None]:
    """Turns an OSError into a LoadError, which says what can be done."""
    try:
        yield
    except OSError as error:
        raise LoadError.of(error) from error


@_as_load_error()
def create_map(spec: Map, inner: int | None = None) -> int:
    """Creates a map; a map of maps holds maps like `inner`. Raises LoadError."""
    lib = libbpf.library()
    options = libbpf.MapCreateOpts(sz=ct.sizeof(libbpf.MapCreateOpts), map_flags=spec.flags)
    entries, types = spec.entries, None
    if spec.kind == _MAP_PERF_EVENT_ARRAY:
        entries = lib.libbpf_num_possible_cpus()
    if spec.kind == _MAP_ARRAY_OF_MAPS and inner is not None:
        options.inner_map_fd = inner
    if spec.kind == _MAP_TASK_STORAGE:
        types = _storage_types(options, spec.value_bytes)
    try:
        arguments = (spec.kind, spec.name.encode(), spec.key_bytes, spec.value_bytes, entries)
        return libbpf.check(lib.bpf_map_create(*arguments, ct.byref(options)), f"map {spec.name}")
    finally:
        lib.btf__free(types)


def _storage_types(options: libbpf.MapCreateOpts, value_bytes: int) -> int:
    """Describes an int and a struct of that size: task storage must have types."""
    lib = libbpf.library()
    types: int = lib.btf__new_empty()
    options.btf_key_type_id = lib.btf__add_int(types, b"int", 4, _BTF_INT_SIGNED)
    options.btf_value_type_id = lib.btf__add_struct(types, b"value", value_bytes)
    libbpf.check(lib.btf__load_into_kernel(types), "types of a map")
    options.btf_fd = lib.btf__fd(types)
    return types


def load_program(function: str, kind: Kind, target: str, code: bytes, kernel: Kernel) -> int:
    """Loads the instructions of a function; of kind `demand` it is only run on demand.

    Raises LoadError with the verifier's message.
    """
    lib = libbpf.library()
    options = libbpf.ProgLoadOpts(sz=ct.sizeof(libbpf.ProgLoadOpts))
    program_type = _PROG_TYPE_RAW_TRACEPOINT
    if kind in ("kprobe", "uprobe"):
        program_type = _PROG_TYPE_KPROBE
    elif kind == "software":
        program_type = _PROG_TYPE_PERF_EVENT
    elif kind in ("tp_btf", "fentry", "fexit", "iter"):
        program_type = _PROG_TYPE_TRACING
        options.expected_attach_type = _TRACE_TYPES[kind]
        options.attach_btf_id = kernel.btf.attach_id(kind, target)
    arguments = (program_type, function.encode(), b"GPL", code, len(code) // _INSTRUCTION_BYTES)
    try:
        return libbpf.check(lib.bpf_prog_load(*arguments, ct.byref(options)), f"loading {function}")
    except OSError as error:
        raise LoadError.of(error, _verdict(arguments, options)) from error


def _verdict(arguments: tuple[object, ...], options: libbpf.ProgLoadOpts) -> str:
    """The verifier's message about a program that was refused."""
    log = ct.create_string_buffer(_LOG_BYTES)
    options.log_level, options.log_size = _BPF_LOG_STATS, len(log)
    options.log_buf = ct.cast(log, ct.c_char_p)
    libbpf.library().bpf_prog_load(*arguments, ct.byref(options))
    return log.value.decode(errors="replace").strip()


@_as_load_error()
def attach(kind: Kind, target: str, program: int, cpus: Sequence[int]) -> list[int]:
    """Attaches a loaded program; it stays attached until all returned descriptors are closed.

    Raises LoadError.
    """
    if kind == "kprobe":
        return [_attach_kprobe(target, program)]
    if kind == "software":
        return _attach_software(target, program, cpus)
    if kind in ("iter", "uprobe", "demand"):  # for iterate(), attach_to_process(), and run()
        return []
    name = target.encode() if kind == "raw_tp" else None  # others were loaded for their target
    link = libbpf.library().bpf_raw_tracepoint_open(name, program)
    return [libbpf.check(link, f"attaching {kind}:{target}")]


def iterate(program: int, tid: int | None) -> bytes:
    """What an iterator's program writes about one task, or all (None). Raises OSError."""
    lib = libbpf.library()
    options = libbpf.LinkCreateOpts(sz=ct.sizeof(libbpf.LinkCreateOpts))
    if tid is not None:
        info = libbpf.IterTask(tid=tid)
        options.iter_info, options.iter_info_len = ct.addressof(info), ct.sizeof(info)
    what = f"iterating over task {tid}" if tid is not None else "iterating over all tasks"
    with ExitStack() as undo:
        link = libbpf.check(
            lib.bpf_link_create(program, 0, _TRACE_TYPES["iter"], ct.byref(options)), what
        )
        undo.callback(os.close, link)
        reader = libbpf.check(lib.bpf_iter_create(link), what)
        return undo.enter_context(os.fdopen(reader, "rb")).read()


def _attach_kprobe(function: str, program: int) -> int:
    """A perf event of the kprobe unit, which needs no tracefs, and the program on it."""
    unit = Path("/sys/bus/event_source/devices/kprobe/type").read_text()
    name = ct.create_string_buffer(function.encode())
    attributes = libbpf.PerfEventAttr(type=int(unit), size=ct.sizeof(libbpf.PerfEventAttr))
    attributes.config1 = ct.addressof(name)
    return _attach_event(attributes, 0, program, f"kprobe:{function}")


@_as_load_error()
def attach_to_process(
    path: Path, offset: int, tgid: int, program: int, *, returns: bool = False
) -> int:
    """Attaches a program to the function at an offset of a file, for one process alone.

    It runs when the function begins, or when it `returns`. Raises LoadError.
    """
    unit = Path("/sys/bus/event_source/devices/uprobe/type").read_text()
    name = ct.create_string_buffer(os.fsencode(path))
    attributes = libbpf.PerfEventAttr(type=int(unit), size=ct.sizeof(libbpf.PerfEventAttr))
    attributes.config1, attributes.config2 = ct.addressof(name), offset
    attributes.config = int(returns)  # format/retprobe
    return _attach_event(attributes, _ANY_CPU, program, f"uprobe:{path}+{offset:#x}", tgid)


def _attach_software(event: str, program: int, cpus: Sequence[int]) -> list[int]:
    """A perf software event on every CPU, and the program on each of its counts."""
    attributes = libbpf.PerfEventAttr(
        type=_TYPE_SOFTWARE,
        size=ct.sizeof(libbpf.PerfEventAttr),
        config=SOFTWARE[event],
        sample_period=1,
    )
    with ExitStack() as undo:
        events = []
        for cpu in cpus:
            try:
                events.append(_attach_event(attributes, cpu, program, f"software:{event}"))
            except OSError as error:
                if error.errno == errno.ENODEV:  # it went offline meanwhile
                    continue
                raise
            undo.callback(os.close, events[-1])
        undo.pop_all()
    return events


def _attach_event(
    attributes: libbpf.PerfEventAttr, cpu: int, program: int, what: str, tgid: int = _ANY_TASK
) -> int:
    """Opens a perf event for one process or all, on one CPU or all, with a program on it."""
    number = _PERF_EVENT_OPEN[platform.machine()]
    libc = ct.CDLL(None, use_errno=True)
    event = libbpf.check(
        libc.syscall(number, ct.byref(attributes), tgid, cpu, _NO_GROUP, _FLAG_FD_CLOEXEC),
        f"attaching {what}",
    )
    with ExitStack() as undo:
        undo.callback(os.close, event)
        fcntl.ioctl(event, _IOC_SET_BPF, program)
        fcntl.ioctl(event, _IOC_ENABLE, 0)
        undo.pop_all()
    return event
