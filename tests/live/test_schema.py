"""The JSON of what is traced here is as `memtap schema` says."""

from __future__ import annotations

import json
import subprocess

import pytest

from memtap.tracers import NAMES
from tests.cli.test_schema import validator
from tests.live.tracing import MEMTAP


@pytest.mark.parametrize("name", NAMES)
def test_a_live_report_is_as_the_schema_says(name: str) -> None:
    command = [*MEMTAP, name, "-f", "json", "--self", "0.5", "2"]
    check = validator(name)
    found = subprocess.check_output(command, text=True).splitlines()
    assert len(found) == 2
    for each in found:
        check.validate(json.loads(each))


def test_what_doctor_says_is_as_the_schema_says() -> None:
    done = subprocess.run([*MEMTAP, "doctor", "-f", "json"], stdout=subprocess.PIPE, check=False)
    validator("doctor").validate(json.loads(done.stdout))
