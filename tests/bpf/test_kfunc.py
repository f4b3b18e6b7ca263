"""Calls of functions of the kernel, which the compiler does not know."""

from __future__ import annotations

from memtap.bpf.btf import KFUNC_CALL, Btf, defines, mentions
from memtap.bpf.compiled import Code

CALL = 0x85


def call(registers: int, number: int) -> bytes:
    return bytes([CALL, registers, 0, 0]) + number.to_bytes(4, "little")


def test_a_call_by_a_number_of_btf_becomes_one_of_a_kernel_function() -> None:
    code = Code(call(0, KFUNC_CALL | 64023), [])
    assert code.using({}) == call(0x20, 64023)  # src_reg is BPF_PSEUDO_KFUNC_CALL


def test_other_calls_stay_as_they_are() -> None:
    helper, function = call(0, 5), call(0x10, 2**32 - 1)  # BPF_PSEUDO_CALL, backwards
    assert Code(helper + function, []).using({}) == helper + function


def test_a_program_is_told_the_number_of_a_function(btf: Btf) -> None:
    text = "u64 file = KFUNC(vfs_read)(ctx[1]);"
    assert mentions(text) == {("kfunc", "vfs_read")}
    number = KFUNC_CALL | btf.attach_id("fentry", "vfs_read")
    assert defines(btf, text) == f"#define KFUNC_vfs_read {number:#x}\n"


def test_a_function_that_is_not_there_has_no_number(btf: Btf) -> None:
    assert defines(btf, "KFUNC(no_such_function)(1)") == ""


def test_a_program_is_told_which_helpers_there_are(btf: Btf) -> None:
    text = "#if HELPER(probe_read_kernel) || HELPER(no_such_helper)"
    assert mentions(text) == {("helper", "probe_read_kernel"), ("helper", "no_such_helper")}
    assert defines(btf, text) == "#define HELPER_probe_read_kernel 1\n"


def test_what_an_argument_of_a_tracepoint_points_to_is_known(btf: Btf) -> None:
    assert btf.argument("sched_process_fork", 0) == "task_struct"
    assert btf.argument("sched_process_fork", 1) == "task_struct"
    assert btf.argument("kmem_cache_free", 0) is None  # a number
    assert btf.argument("kfree", 1) is None  # const void *
    assert btf.argument("kfree", 2) is None  # there is none
    assert btf.argument("no_such_tracepoint", 0) is None


def test_a_program_is_told_which_struct_it_takes_an_address_for(btf: Btf) -> None:
    text = "return CAST(stack + NOTED(*place), pt_regs);"
    assert mentions(text) == {("cast", "pt_regs")}
    assert defines(btf, text) == f"#define TYPE_pt_regs {btf.struct_id('pt_regs')}\n"
    assert defines(btf, "CAST(0, no_such_struct)") == ""
