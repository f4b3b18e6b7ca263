"""Each variant of each report compiles, also those that other kernels need, to what they know."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from memtap.bpf.cache import Cache
from memtap.bpf.compiled import Code, Compiled, Compiling
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Request
from memtap.bpf.plan import Variant
from memtap.tracers.doctor import LOOKS, REPORTS
from tests.live.ahead import Found, ahead

VARIANTS = [
    pytest.param(request, variant, id=f"{name}-{variant.name}")
    for name, request in (REPORTS | LOOKS).items()
    for variant in request.plan.variants
]


# Of uapi/linux/bpf.h: struct bpf_insn has its class in three bits of the first byte, and a number
# in the last four bytes. Stores had none before 5.12; now it tells what is atomic, and no mere
# addition (91c960b00566).
INSTRUCTION = struct.Struct("<BBhi")
CLASS, STORE = 7, 3


def unknown_to_old_kernels(code: Code) -> list[int]:
    """Where there are atomic instructions that kernels before 5.12 refuse."""
    each = enumerate(INSTRUCTION.iter_unpack(code.instructions))
    return [at for at, (what, _, _, number) in each if what & CLASS == STORE and number]


def compile_(request_: Request, variant: Variant) -> Compiled:
    return Compiling(request_.text(Kernel(), variant), Cache()).wait()


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> Iterator[Found]:
    yield from ahead(request, compile_, "found")


@pytest.mark.parametrize(("request_", "variant"), VARIANTS)
def test_a_variant_compiles(
    request_: Request, variant: Variant, found: Found, request: pytest.FixtureRequest
) -> None:
    compiled: Compiled = found[request.node.nodeid].result()
    assert {probe.function for probe in variant.probes} & set(compiled.programs)
    refused = {name: unknown_to_old_kernels(code) for name, code in compiled.programs.items()}
    assert {name: at for name, at in refused.items() if at} == {}
