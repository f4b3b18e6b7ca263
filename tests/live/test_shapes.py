"""Memory that is mapped, moved and unmapped in odd sizes: what is held is what VmSize says."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.tracing import WORKLOADS, Row, memtap, reports, scaled

Build = Callable[[str], Path]

STEPS = scaled(300)
PAGE = 4096
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")


def paths_of(folder: Path, *program: object, comm: str) -> tuple[dict[str, Row], str]:
    """What a process got by which path, and what it printed."""
    out = folder / "report"
    how = ["-b", "process,path", "-f", "json", "-o", out]
    done = memtap("malloc", *how, "--", *map(str, program))
    assert done.returncode == 0, done.stderr
    (report,) = reports(out.read_text())
    assert (report["audit"]["accuracy"], report["audit"]["lost"]) == ("exact", 0)
    return {row["path"]: row for row in report["rows"] if row["comm"] == comm}, done.stdout


def live(paths: dict[str, Row]) -> int:
    return sum(row["live_bytes"] for row in paths.values())


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("seed", [100, 200, 300])
def test_what_is_held_is_by_how_much_a_process_has_grown(
    seed: int, threads: int, workload: Build, tmp_path: Path
) -> None:
    program = workload("shaper"), seed, STEPS, threads
    paths, grown = paths_of(tmp_path, *program, comm="shaper")
    assert live(paths) == int(grown)


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Some pages of 2 MiB that can be mapped."""
    before = HUGE_PAGES.read_text()
    HUGE_PAGES.write_text("8")
    assert int(HUGE_PAGES.read_text()) >= 2, "memory is too fragmented for huge pages"
    yield
    HUGE_PAGES.write_text(before)


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages_are_whole_too(tmp_path: Path) -> None:
    """Python's own arenas, of a megabyte each, are sometimes one more."""
    code = "import mmap; mmap.mmap(-1, 5000, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)"
    plain = code.replace(" | 0x40000", "")
    held = []
    for each in (plain, code):
        program = "env", "PYTHONMALLOC=malloc", "python3", "-S", "-c", each + "[0]"
        paths, _ = paths_of(tmp_path, *program, comm="python3")
        held.append(paths["other"]["requested_bytes"])
    assert held[1] - held[0] == (2 << 20) - 2 * PAGE


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of x86-64 alone")
def test_programs_of_32_bits(tmp_path: Path) -> None:
    program = tmp_path / "bits32"
    how = ["-m32", "-O1", "-ffreestanding", "-fno-pie", "-no-pie", "-nostdlib", "-static"]
    subprocess.check_call(["cc", *how, "-o", program, WORKLOADS / "bits32.c"])
    paths, _ = paths_of(tmp_path, program, comm="bits32")
    mapped, heap = paths["mmap"], paths["brk"]
    assert (mapped["calls"], heap["calls"]) == (10 + 3 + 1, 2)
    assert mapped["requested_bytes"] == (10 * 2 + 3) * PAGE
    assert mapped["returned_bytes"] == 3 * 2 * PAGE
    assert heap["live_bytes"] == 3 * PAGE
    assert mapped["faults"] == 10 * 2 + 3
    done = memtap("faults", "-b", "region", "-f", "json", "--", program)
    (report,) = reports(done.stdout)
    regions = {row["region"]: row["total"] for row in report["rows"]}
    assert regions["anon"] >= 10 * 2 + 3
    assert "?" not in regions
