"""The few functions of libbpf that memtap calls, with errors as OSError.

libbcc itself links libbpf, so it is there wherever BCC is. It is small, while libbcc brings LLVM
along, which only the child that compiles needs.
"""

from __future__ import annotations

import ctypes as ct
import os
from functools import cache

from memtap.bpf.errors import MemtapError

SO_NAME = "libbpf.so.1"

RecordCallback = ct.CFUNCTYPE(ct.c_int, ct.c_void_p, ct.c_int, ct.c_void_p)

# A map, where to begin and where it ended, keys, values, how many, options.
_BATCH: list[type] = [ct.c_int, *[ct.c_void_p] * 6]

_PROTOTYPES: dict[str, tuple[type | None, list[type]]] = {
    "libbpf_set_print": (ct.c_void_p, [ct.c_void_p]),
    "libbpf_version_string": (ct.c_char_p, []),
    "libbpf_num_possible_cpus": (ct.c_int, []),
    "bpf_map_create": (
        ct.c_int,
        [ct.c_int, ct.c_char_p, ct.c_uint32, ct.c_uint32, ct.c_uint32, ct.c_void_p],
    ),
    "bpf_prog_load": (
        ct.c_int,
        [ct.c_int, ct.c_char_p, ct.c_char_p, ct.c_char_p, ct.c_size_t, ct.c_void_p],
    ),
    "bpf_raw_tracepoint_open": (ct.c_int, [ct.c_char_p, ct.c_int]),
    "bpf_link_create": (ct.c_int, [ct.c_int, ct.c_int, ct.c_int, ct.c_void_p]),
    "bpf_iter_create": (ct.c_int, [ct.c_int]),
    "bpf_map_lookup_elem": (ct.c_int, [ct.c_int, ct.c_void_p, ct.c_void_p]),
    "bpf_map_update_elem": (ct.c_int, [ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_uint64]),
    "bpf_map_lookup_batch": (ct.c_int, _BATCH),
    "bpf_map_lookup_and_delete_batch": (ct.c_int, _BATCH),
    "bpf_obj_get_info_by_fd": (ct.c_int, [ct.c_int, ct.c_void_p, ct.c_void_p]),
    "bpf_prog_test_run_opts": (ct.c_int, [ct.c_int, ct.c_void_p]),
    "btf__load_vmlinux_btf": (ct.c_void_p, []),
    "btf__load_module_btf": (ct.c_void_p, [ct.c_char_p, ct.c_void_p]),
    "btf__find_by_name_kind": (ct.c_int, [ct.c_void_p, ct.c_char_p, ct.c_uint32]),
    "btf__type_by_id": (ct.c_void_p, [ct.c_void_p, ct.c_uint32]),
    "btf__name_by_offset": (ct.c_char_p, [ct.c_void_p, ct.c_uint32]),
    "btf__resolve_size": (ct.c_int64, [ct.c_void_p, ct.c_uint32]),
    "btf__new_empty": (ct.c_void_p, []),
    "btf__add_int": (ct.c_int, [ct.c_void_p, ct.c_char_p, ct.c_size_t, ct.c_int]),
    "btf__add_struct": (ct.c_int, [ct.c_void_p, ct.c_char_p, ct.c_uint32]),
    "btf__load_into_kernel": (ct.c_int, [ct.c_void_p]),
    "btf__fd": (ct.c_int, [ct.c_void_p]),
    "btf__free": (None, [ct.c_void_p]),
    "perf_buffer__new_raw": (
        ct.c_void_p,
        [ct.c_int, ct.c_size_t, ct.c_void_p, ct.c_void_p, ct.c_void_p, ct.c_void_p],
    ),
    "perf_buffer__epoll_fd": (ct.c_int, [ct.c_void_p]),
    "perf_buffer__consume": (ct.c_int, [ct.c_void_p]),
    "perf_buffer__free": (None, [ct.c_void_p]),
}


class ProgLoadOpts(ct.Structure):
    """struct bpf_prog_load_opts of libbpf 1.0, up to the verifier's log."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("attempts", ct.c_int),
        ("expected_attach_type", ct.c_int),
        ("prog_btf_fd", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("prog_ifindex", ct.c_uint32),
        ("kern_version", ct.c_uint32),
        ("attach_btf_id", ct.c_uint32),
        ("attach_prog_fd", ct.c_uint32),
        ("attach_btf_obj_fd", ct.c_uint32),
        ("fd_array", ct.c_void_p),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log_buf", ct.c_char_p),
    ]


class MapCreateOpts(ct.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("map_extra", ct.c_uint64),
        ("numa_node", ct.c_uint32),
        ("map_ifindex", ct.c_uint32),
    ]


class IterTask(ct.Structure):
    """union bpf_iter_link_info, for tasks."""

    _fields_ = [("tid", ct.c_uint32), ("pid", ct.c_uint32), ("pid_fd", ct.c_uint32)]


class LinkCreateOpts(ct.Structure):
    """struct bpf_link_create_opts, without what is not for iterators."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("flags", ct.c_uint32),
        ("iter_info", ct.c_void_p),
        ("iter_info_len", ct.c_uint32),
        ("target_btf_id", ct.c_uint32),
    ]


class TestRunOpts(ct.Structure):
    """struct bpf_test_run_opts."""

    __test__ = False  # no test class, whatever pytest thinks of the name
    _fields_ = [
        ("sz", ct.c_size_t),
        ("data_in", ct.c_void_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    ]


class PerfEventAttr(ct.Structure):
    """struct perf_event_attr, the 112 bytes of PERF_ATTR_SIZE_VER5."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("size", ct.c_uint32),
        ("config", ct.c_uint64),
        ("sample_period", ct.c_uint64),
        ("sample_type", ct.c_uint64),
        ("read_format", ct.c_uint64),
        ("bits", ct.c_uint64),
        ("wakeup_events", ct.c_uint32),
        ("bp_type", ct.c_uint32),
        ("config1", ct.c_uint64),
        ("config2", ct.c_uint64),
        ("branch_sample_type", ct.c_uint64),
        ("sample_regs_user", ct.c_uint64),
        ("sample_stack_user", ct.c_uint32),
        ("clockid", ct.c_int32),
        ("sample_regs_intr", ct.c_uint64),
        ("aux_watermark", ct.c_uint32),
        ("sample_max_stack", ct.c_uint16),
        ("reserved", ct.c_uint16),
    ]


class PerfBufferRawOpts(ct.Structure):
    """struct perf_buffer_raw_opts."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("cpu_cnt", ct.c_int),
        ("cpus", ct.POINTER(ct.c_int)),
        ("map_keys", ct.POINTER(ct.c_int)),
    ]


@cache
def library() -> ct.CDLL:
    """libbpf, quiet, with the prototypes set; MemtapError if it is not installed."""
    try:
        lib = ct.CDLL(SO_NAME, use_errno=True)
    except OSError as error:
        raise MemtapError(f"{SO_NAME} is missing", "install it: apt install libbpf1") from error
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    lib.libbpf_set_print(None)
    return lib


def check(result: int | None, doing: str) -> int:
    """`result`; if it means failure, raises OSError with errno and what was being done."""
    if result is None or result < 0:
        number = ct.get_errno() or -(result or 0)
        raise OSError(number, f"{doing}: {os.strerror(number)}")
    return result
