"""Numbers that the C programs write down are the kernel's, and Python's."""

from __future__ import annotations

import mmap
import re
import signal
from pathlib import Path

import pytest

from memtap.bpf.plan import Plan, Variant
from memtap.tracers import every
from memtap.tracers.faults import probes as faults
from memtap.tracers.malloc import allocator
from memtap.tracers.malloc import probes as malloc
from memtap.tracers.pages import rows as pages
from memtap.tracers.slab import enrich as slab
from memtap.tracers.slab import probes as slabs
from memtap.tracers.slab import report as slab_report
from tests.bpf.ctext import BPF, enumerators, number, source, whole

CALLS = source("include/memtap/calls.h")
FAULTS, MALLOC, RECLAIM = whole("faults"), whole("malloc"), whole("reclaim")
SLAB, PAGES = source("programs/slab.bpf.c"), source("programs/pages.bpf.c")
PLANS = {tracer.plan.name: tracer.plan for tracer in every()}

# Of linux-libc-dev, which comes with a compiler's own headers.
HEADERS = Path("/usr/include")


def test_calls_are_no_kinds_of_faults() -> None:
    assert max(faults.Kind) < faults.FIRST_CALL == min(malloc.Call)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_no_program_has_words_of_its_own_where_python_has_some(plan: Plan) -> None:
    """Its enums are made from those of Python, or have names that Python has not."""
    enums = re.findall(r"enum \w*\s*{(.*?)}", whole(plan.name), re.DOTALL)
    own = {name for body in enums for name in re.findall(r"\b[A-Z]\w*\b", body)}
    assert not own & {name for words in plan.words for name in words.__members__}


def test_what_stands_for_no_cache_site_or_process_is_the_same() -> None:
    assert enumerators(SLAB, "UNKNOWN") == {"UNKNOWN": slab.UNKNOWN, "LARGE": slab.LARGE}
    assert enumerators(SLAB, "EARLIER") == {"EARLIER": slab.EARLIER, "IN_BULK": slab.IN_BULK}
    assert number(SLAB, "NO_PROCESS") == slab_report.NO_PROCESS
    assert number(SLAB, "NAME_BYTES") == slab._NAME["text"].itemsize
    assert "#define ANY_CACHE (1ULL << 62)" in SLAB
    assert slab.ANY_CACHE == 1 << 62
    assert number(PAGES, "UNTOLD") == pages.UNTOLD


def numbers_of(header: Path, prefix: str) -> dict[str, int]:
    found = re.findall(rf"^#define {prefix}(\w+) (\d+)$", header.read_text(), re.MULTILINE)
    return {name.upper(): int(value) for name, value in found}


def blocks() -> list[dict[str, int]]:
    """The enums of system calls: of x86-64, of its 32-bit programs, of arm64."""
    found = re.findall(r"enum {\s*(NR_.*?)}", CALLS, re.DOTALL)
    return [
        {name: int(value) for name, value in re.findall(r"NR_(\w+) = (\d+)", block)}
        for block in found
    ]


@pytest.mark.parametrize(
    ("block", "header", "prefix", "ours"),
    [
        (0, "x86_64-linux-gnu/asm/unistd_64.h", "__NR_", ""),
        (1, "x86_64-linux-gnu/asm/unistd_32.h", "__NR_", "32_"),
        (2, "asm-generic/unistd.h", "__NR(?:3264)?_", ""),
    ],
)
def test_system_calls_have_the_kernels_numbers(
    block: int, header: str, prefix: str, ours: str
) -> None:
    if not (HEADERS / header).exists():
        pytest.skip(f"{header} is not installed: no kernel headers of this machine")
    known = numbers_of(HEADERS / header, prefix)
    for name, value in blocks()[block].items():
        assert (name, value) == (name, known[name.removeprefix(ours)])


def test_signals_and_flags_have_the_kernels_numbers() -> None:
    assert number(FAULTS, "SIGSEGV") == signal.SIGSEGV
    assert number(FAULTS, "SIGBUS") == signal.SIGBUS
    assert allocator._MADV_DONTNEED == mmap.MADV_DONTNEED
    assert allocator._MADV_FREE == mmap.MADV_FREE
    assert allocator._MAP_STACK == mmap.MAP_STACK
    assert allocator._MAP_ANONYMOUS == mmap.MAP_ANONYMOUS
    assert allocator.PROT_WRITE == mmap.PROT_WRITE
    assert allocator.MAP_SHARED == mmap.MAP_SHARED


VARIANTS = [
    pytest.param(p, variant, id=f"{p.name}-{variant.name}")
    for p in PLANS.values()
    for variant in p.variants
]
INCLUDED = "".join(
    source(f"include/memtap/{path.name}") for path in sorted(BPF.glob("include/memtap/*.h"))
)


@pytest.mark.parametrize(("plan", "variant"), VARIANTS)
def test_what_a_variant_attaches_and_selects_is_in_the_program(
    plan: Plan, variant: Variant
) -> None:
    text = source(f"programs/{plan.name}.bpf.c") + INCLUDED
    for name in [probe.function for probe in variant.probes] + [*variant.defines]:
        assert re.search(rf"\b{name.split()[0]}\b", text), name


def settings() -> dict[str, tuple[str, str]]:
    """Macros by which Python asks a program for more, and the program that knows them."""
    asked = {
        "faults": (faults.STACKS,),
        "malloc": (malloc.FRAMES, malloc.huge_pages({})),
        "slab": (slabs.BY_SITE, slabs.BY_PROCESS, slabs.LEAKS, slabs.STACKS, slabs.objects()),
    }
    return {f"{name} {text}": (name, text) for name, texts in asked.items() for text in texts}


@pytest.mark.parametrize(("program", "setting"), settings().values(), ids=settings())
def test_a_program_knows_what_it_is_asked_for(program: str, setting: str) -> None:
    name = setting.split()[0]
    assert re.search(rf"\b{name}\b", source(f"programs/{program}.bpf.c") + INCLUDED), name
