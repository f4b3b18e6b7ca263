"""Each way of each report compiles, also those that other kernels need."""

from __future__ import annotations

import pytest

from memtap.bpf.cache import Cache
from memtap.bpf.compiled import Compiling
from memtap.bpf.kernel import Kernel
from memtap.bpf.loading import Request
from memtap.bpf.plan import Way
from memtap.tracers.doctor import REPORTS

WAYS = [
    pytest.param(request, way, id=f"{name}-{way.name}")
    for name, request in REPORTS.items()
    for way in request.plan.ways
]


@pytest.mark.parametrize(("request_", "way"), WAYS)
def test_a_way_compiles(request_: Request, way: Way) -> None:
    compiled = Compiling(request_.text(Kernel(), way), Cache()).wait()
    assert {probe.function for probe in way.probes} & set(compiled.programs)
