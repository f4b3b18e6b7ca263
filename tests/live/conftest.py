"""Live tests trace this kernel, on workloads whose answer is known."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from memtap.tracers.host.caller import caller
from tests.live.tracing import WORKLOADS, Trace, run_under_cachetop


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.live)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder of the test's own; programs are run by whoever called sudo, and may write there."""
    if numbers := caller():
        tmp_path.parent.chmod(0o711)
        os.chown(tmp_path, *numbers)
    return tmp_path


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of our own, in memory."""
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.check_call(["mount", "-t", "tmpfs", "none", mount])
    yield mount
    subprocess.check_call(["umount", mount])


@pytest.fixture(scope="session")
def disk() -> Iterator[Path]:
    """A folder on a file system that has a page cache of its own, which tmpfs has not."""
    folder = Path(tempfile.mkdtemp(prefix="memtap-", dir="/var/tmp"))
    kind = subprocess.check_output(["stat", "-f", "-c", "%T", folder], text=True).strip()
    assert kind not in ("tmpfs", "ramfs"), f"{folder} must be on a disk"
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a program of tests/workloads, once; gives its path."""
    folder = tmp_path_factory.mktemp("workloads")
    for each in (folder, folder.parent):
        each.chmod(0o755)

    def build(name: str) -> Path:
        program = folder / name
        if not program.exists():
            source = WORKLOADS / f"{name}.c"
            warnings = ["-Wall", "-Wextra", "-Werror"]
            subprocess.check_call(["cc", "-O1", "-pthread", *warnings, "-o", program, source])
        return program

    return build


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., Trace]:
    """Runs a program under memtap."""
    return partial(run_under_cachetop, tmp_path)


@pytest.fixture
def swap() -> Iterator[None]:
    """A swap device in compressed memory."""
    number = Path("/sys/class/zram-control/hot_add").read_text().strip()
    device = Path(f"/dev/zram{number}")
    try:
        Path(f"/sys/block/{device.name}/disksize").write_text("256M")
        subprocess.check_call(["mkswap", device], stdout=subprocess.DEVNULL)
        subprocess.check_call(["swapon", device])
        yield
        subprocess.check_call(["swapoff", device])
    finally:
        Path("/sys/class/zram-control/hot_remove").write_text(number)
