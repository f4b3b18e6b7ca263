"""A place that every user can read, and recordings there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.making import FIRST, SECOND, record
from tests.tracers.builders import make_chunk, read


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Nothing that the user has set decides about output."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_COLOR", "COLUMNS", "_MEMTAP_COMPLETE"):
            patch.delenv(name, raising=False)
        patch.setenv("TZ", "EAST-5:30")  # as POSIX writes it: 5:30 h ahead of UTC
        time.tzset()
        yield
    time.tzset()


@pytest.fixture(scope="session")
def public() -> Iterator[Path]:
    """A folder for all users to read; pytest's own are for one alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def recording(public: Path) -> Path:
    """Two intervals, see making.py."""
    return record(public / "two.parquet", FIRST, SECOND)


@pytest.fixture(scope="session")
def long_recording(public: Path) -> Path:
    """So many intervals that their reports do not fit into a pipe."""
    several = [read(tgid=tgid) for tgid in range(1, 9)]
    return record(public / "long.parquet", *[make_chunk(*several, last=False)] * 80)
