"""The live tests on other kernels, each in a machine of its own."""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.matrix.inside import ONLY_TESTS, OUT
from tests.matrix.kernels import SUITES, Kernels
from tests.matrix.machine import ARM64
from tests.matrix.project import CACHE, HERE, kernels, run_in, run_in_foreign
from tests.matrix.rootfs import Rootfs
from tests.matrix.table import PARTS, RESULTS
from tests.matrix.vm import Outcome

pytestmark = pytest.mark.matrix

# Those that compare counts with what is known.
TRUTHS = (
    "cached fault_variants faults files heaps ledger malloc maps oom page_variants pages ps reads "
    "reclaim refused slab writes"
)
# Emulation is some 20 times slower: loops of a million are shorter, and ends are waited for longer.
SLOW = {"MEMTAP_SCALE": "0.1", "MEMTAP_LONGEST_S": "240"}

TESTS = [f"tests/live/test_{name}.py" for name in TRUTHS.split()]

# Some truths of each report that hold where no tracepoint tells of exceptions.
ARM64_TRUTHS = (
    "fault_variants.py",
    "faults.py::test_stacks_lead_to_the_code_that_faults",
    "faults.py::test_a_cold_file_is_read_in",
    "faults.py::test_a_bad_access_is_no_completed_fault",
    "reads.py::test_each_page_is_missed_once_and_each_other_time_that_it_is_asked_for_is_a_hit",
    "writes.py::test_writes_to_cached_clean_pages_are_write_hits",
    "maps.py::test_a_warm_scan_is_a_hit_for_each_fault",
    "malloc.py::test_the_site_is_the_function_that_called_malloc",
    "malloc.py::test_a_heap_is_as_malloc_itself_says",
    "heaps.py::test_all_arenas_are_as_malloc_says_and_trim_gives_back_what_was_told[threads]",
    "slab.py::test_the_site_is_the_code_that_allocated",
    "pages.py::test_a_process_has_what_it_took",
    "oom.py::test_a_victim_is_told_with_the_sizes_of_the_kernel_log",
    "ps.py::test_pmap_adds_up_to_smaps",
    "cached.py",
    "ledger.py::test_the_table_says_what_memory_there_is",
)
ARM64_TESTS = [f"tests/live/test_{name}" for name in ARM64_TRUTHS]


@pytest.fixture(scope="session", name="kernels")
def all_kernels() -> Kernels:
    """Kernels, and what machines for them take."""
    return kernels()


@pytest.mark.parametrize("version", SUITES, ids=lambda version: f"{version}.y")
def test_what_holds_here_holds_on(version: str, kernels: Kernels, tmp_path: Path) -> None:
    """With the kernel of that version, and BCC as it is here."""
    kernel = kernels.fetch(version)
    judge(partial(run_in, kernel, tmp_path, command(), **SLOW), tmp_path, version)


@pytest.mark.parametrize("version", ["6.12"], ids=lambda version: f"arm64-{version}")
def test_what_holds_here_holds_on_arm64(version: str, tmp_path: Path) -> None:
    """With the kernel of that version and BCC of Debian 12, by the variant that is left there."""
    kernel = kernels(ARM64).fetch(version)
    run = partial(run_in_foreign, ARM64, kernel, tmp_path, command(ARM64_TESTS), **SLOW)
    judge(run, tmp_path, f"{version}-arm64")


def judge(run: Callable[[], Outcome], out: Path, name: str) -> None:
    """Runs tests in a machine, and fails as they do."""
    outcome = run()
    if outcome.status is None:  # once more: emulation can hang
        (out / "lost.log").write_text(ends(outcome))
        outcome = run()
    (out / "output.log").write_text(outcome.output)
    (out / "console.log").write_text(outcome.console)
    keep(out, f"linux-{name}")
    if outcome.status is None:
        pytest.fail(f"the machine was lost\n{ends(outcome)}", pytrace=False)
    failed = failures(out / "junit.xml")
    if outcome.status or failed:
        pytest.fail("\n".join([*failed, ends(outcome)]), pytrace=False)


@pytest.mark.parametrize("suite", ["trixie", "sid"])
def test_what_holds_here_holds_in(suite: str) -> None:
    """With the BCC, LLVM, libbpf and Python of that release of Debian, on the running kernel."""
    kernels()
    rootfs = Rootfs(CACHE / f"rootfs-{suite}", suite)
    rootfs.put(HERE.parent.parent)
    out = rootfs.folder / OUT.relative_to("/")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    how = {"MEMTAP_LIVE": "require"} | SLOW
    prepared = rootfs.run(["./bootstrap", "pytest", "--version"], **how)
    assert prepared.returncode == 0, prepared.stderr
    done = rootfs.run(["./bootstrap", ".venv/bin/python", *command()], **how)
    keep(out, suite)
    failed = failures(out / "junit.xml")
    if done.returncode or failed:
        pytest.fail("\n".join([*failed, done.stdout[-6000:], done.stderr]), pytrace=False)


def command(chosen: Sequence[str] = TESTS) -> list[str]:
    """MEMTAP_MATRIX_TESTS says which tests, where not all are wanted."""
    tests = os.environ.get("MEMTAP_MATRIX_TESTS", "").split() or chosen
    inside = ["tests.matrix.inside", *([ONLY_TESTS] if only_tests() else [])]
    how = ["-q", "--tb=short", "-p", "no:cacheprovider", "--basetemp=/var/tmp/pytest"]
    return ["-m", *inside, *how, "--durations=10", *tests]


def only_tests() -> bool:
    """Whether MEMTAP_MATRIX_ONLY_TESTS says that nothing is noted of a kernel."""
    return bool(os.environ.get("MEMTAP_MATRIX_ONLY_TESTS"))


def keep(out: Path, name: str) -> None:
    """Keeps what a run has left, for tests.matrix.table and for whoever looks for a cause."""
    folder = (PARTS if only_tests() else RESULTS) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file in filter(Path.is_file, out.iterdir()):
        shutil.copy(file, folder)


def failures(junit: Path) -> list[str]:
    """Names of tests that failed, or were skipped."""
    if not junit.exists():
        return []
    cases = ET.parse(junit).getroot().iter("testcase")
    return [
        f"{case.get('classname')}::{case.get('name')}: {each.tag}"
        for case in cases
        for each in case
        if each.tag in ("failure", "error", "skipped")
    ]


def ends(outcome: Outcome) -> str:
    """The last of what the tests and the kernel said."""
    return f"{outcome.output[-6000:]}\n--- console\n{outcome.console[-2000:]}"
