"""What all tests share: whether this machine can be traced, and what to do if it cannot.

MEMTAP_LIVE decides about the tests marked `live`:
  (unset)   they run where they can, and are skipped, with the reason, where they cannot
  require   they must run: whatever keeps one of them from it is a failure
  skip      they are skipped
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

from memtap.bpf.errors import MemtapError
from memtap.bpf.kernel import Kernel

CHOICES = ("", "require", "skip")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("MEMTAP_LIVE", "") not in CHOICES:
        raise pytest.UsageError(f"MEMTAP_LIVE is one of {CHOICES}")
    # nohup and a shell's `&` are of these tests, not of what they run.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER"):
        os.environ.pop(name, None)  # whom these change something for has tests that set them
    # Else each of a thousand starts of memtap compiles its Python anew, for 0.25 s of a CPU.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = os.environ.get("MEMTAP_LIVE") == "require" and item.get_closest_marker("live")
    if required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"MEMTAP_LIVE=require, but skipped: {report.longrepr}"
    return report


def _obstacle() -> str | None:
    """Why this machine cannot be traced, or None if it can."""
    try:
        Kernel().require_tracing()
    except MemtapError as error:
        return f"{error.what}: {error.hint}"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    live = [item for item in items if item.get_closest_marker("live")]
    choice = os.environ.get("MEMTAP_LIVE", "")
    reason = "MEMTAP_LIVE=skip" if choice == "skip" else _obstacle()
    if not live or reason is None:
        return
    if choice == "require":
        raise pytest.UsageError(f"live tests are required, but {reason}")
    for item in live:
        item.add_marker(pytest.mark.skip(reason=reason))
