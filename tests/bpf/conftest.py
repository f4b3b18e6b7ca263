"""The types of the kernel that the tests run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtap.bpf.btf import Btf, vmlinux


@pytest.fixture
def btf() -> Btf:
    if not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.skip("this kernel has no BTF")
    return vmlinux()
