"""Tries whether programs can be attached to the kernel's functions (fentry, fexit)."""

from __future__ import annotations

import ctypes as ct
import os

from memtap.bpf import libbpf
from memtap.bpf.btf import Btf

_PROG_TYPE_TRACING, _TRACE_FENTRY = 26, 24
_RETURN_0 = bytes.fromhex("b700000000000000 9500000000000000")

# Every kernel has it, and few call it.
_FUNCTION = "begin_new_exec"


def works(btf: Btf) -> bool:
    """Does the kernel load a program for a function, and attach it?

    Without CONFIG_DYNAMIC_FTRACE it loads none, and on arm64 before 6.4 it attaches none
    (2aa6ac03516d).
    """
    lib = libbpf.library()
    options = libbpf.ProgLoadOpts(
        sz=ct.sizeof(libbpf.ProgLoadOpts),
        expected_attach_type=_TRACE_FENTRY,
        attach_btf_id=max(btf.attach_id("fentry", _FUNCTION), 0),
    )
    code = (b"GPL", _RETURN_0, len(_RETURN_0) // 8)
    program = lib.bpf_prog_load(_PROG_TYPE_TRACING, b"try", *code, ct.byref(options))
    if program < 0:
        return False
    try:
        link = lib.bpf_raw_tracepoint_open(None, program)
        if link >= 0:
            os.close(link)
        return bool(link >= 0)
    finally:
        os.close(program)
