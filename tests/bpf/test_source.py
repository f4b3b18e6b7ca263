"""The one text that is handed to the compiler."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from memtap.bpf.btf import Btf
from memtap.bpf.filters import Filter
from memtap.bpf.plan import Variant
from memtap.bpf.source import compose
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN

EVERYTHING = Filter(by_tgid=True, comms=("a",))


@pytest.fixture(params=PLAN.variants, ids=lambda variant: variant.name)
def text(request: pytest.FixtureRequest, btf: Btf) -> str:
    variant: Variant = request.param
    settings = [f"{name} 1" for name in variant.defines] + [NAME_FILES]
    return compose(PLAN.name, [*settings, *EVERYTHING.defines(btf)], btf)


def test_our_headers_are_in_it(text: str) -> None:
    assert "#include <memtap/" not in text
    assert "static inline int followed(" in text


def test_settings_come_first(btf: Btf) -> None:
    assert compose(PLAN.name, ["ONE 1", "TWO(x) x"], btf).startswith(
        "#define ONE 1\n#define TWO(x) x\n#define PAGE_SHIFT "
    )


def test_every_field_that_this_kernel_compiles_is_defined(text: str) -> None:
    if not shutil.which("cc"):
        pytest.skip("no C compiler is installed")
    body = "".join(line for line in text.splitlines(True) if not line.startswith("#include"))
    done = subprocess.run(
        ["cc", "-E", "-P", "-x", "c", "-"], input=body, capture_output=True, text=True, check=True
    )
    left = re.findall(r"\b(?:FIELD|PEEK|OFFSET|ENUM|SIZE|HAVE)_\w+__\w+|\bSIZE_\w+", done.stdout)
    assert left == []
    assert "int on_add(" in done.stdout
