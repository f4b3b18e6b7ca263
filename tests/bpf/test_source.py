"""The one text that is handed to the compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from memtap.bpf.btf import Btf
from memtap.bpf.filters import Filter
from memtap.bpf.kernel import Kernel
from memtap.bpf.plan import Variant
from memtap.bpf.source import compose, declaration
from memtap.tracers.doctor import REPORTS
from memtap.tracers.pagecache.probes import NAME_FILES, PLAN
from tests.bpf.ctext import enumerators

EVERYTHING = Filter(by_tgid=True, comms=("a",))


@pytest.fixture(params=PLAN.variants, ids=lambda variant: variant.name)
def text(request: pytest.FixtureRequest, btf: Btf) -> str:
    variant: Variant = request.param
    settings = [f"{name} 1" for name in variant.defines] + [NAME_FILES]
    return compose(PLAN.name, [*settings, *EVERYTHING.defines(btf)], btf, PLAN.words)


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


class OddWord(IntEnum):
    """What a test has.

    More of it.
    """

    SECOND = 2
    FIRST = 1
    LAST = 7


class OddFlag(IntFlag):
    ONE = 1
    ALSO_ONE = 1
    FOUR = 4


def test_enums_of_python_are_those_of_the_program(btf: Btf) -> None:
    """By their names and in their order, two of one number too."""
    made = declaration(OddWord)
    assert made.startswith("\n/* What a test has. */\nenum odd_word {\n")
    assert enumerators(made, "SECOND") == dict(OddWord.__members__)
    assert enumerators(declaration(OddFlag), "ONE") == {"ONE": 1, "ALSO_ONE": 1, "FOUR": 4}
    assert compose(PLAN.name, [], btf, [OddWord]).count(made) == 1


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_hands_its_enums_to_the_compiler(name: str) -> None:
    if not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.skip("this kernel has no BTF")
    request = REPORTS[name]
    text = request.text(Kernel(), request.plan.variants[0])
    for words in request.plan.words:
        assert text.count(declaration(words)) == 1
