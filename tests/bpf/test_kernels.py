"""The variants that plans choose on kernels whose features were recorded (tests/features.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memtap.tracers.doctor import LOOKS, REPORTS
from tests.features import Features, chosen

ALL = REPORTS | LOOKS
KERNELS = sorted((Path(__file__).resolve().parent.parent / "data/kernels").glob("*.json"))


@pytest.fixture(params=KERNELS, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(request.param).read_text())
    return found


def test_each_report_runs(recorded: dict[str, Any]) -> None:
    assert [row["report"] for row in recorded["reports"]] == list(ALL)
    assert all(row["way"] for row in recorded["reports"])


def test_the_variant_that_is_chosen_is_the_one_that_worked(recorded: dict[str, Any]) -> None:
    kernel = Features(recorded["features"].__getitem__).kernel
    for row in recorded["reports"]:
        variant, probes = chosen(ALL[row["report"]], kernel)
        assert (row["report"], variant, probes) == (row["report"], row["way"], row["probes"])


def test_there_are_kernels_of_each_kind() -> None:
    variants = {row["way"] for path in KERNELS for row in json.loads(path.read_text())["reports"]}
    assert {"filemap", "functions", "exceptions", "function"} <= variants
    assert {"counters", "by-size", "all-by-size", "vmscan", "victim"} <= variants
