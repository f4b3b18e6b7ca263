"""Recordings that are wrong: two lines, little memory, little time, and never a traceback.

`MEMTAP_FUZZ` is how many are tried; CONTRIBUTING.md tells how to try thousands. `MEMTAP_FUZZ_FROM`
is a folder with recordings, named by their tracers, to make them of.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.calling import HOME
from tests.fuzz.making import TRACERS, recording
from tests.fuzz.mutations import mutate

CASES = int(os.environ.get("MEMTAP_FUZZ", "60"))
MOST_MIB, MOST_S = 512, 60

# The reports of each tracer's recordings.
VIEWS = {
    "pagecache": (
        *("cachestat", "cachestat -f json", "cachestat -v --wide", "cachetop -b process,file"),
        *("cachetop -b file -f json", "cachetop -b cgroup -v --wide", "cachetop -b user -f csv"),
    ),
    "faults": (
        *("faults -b region,cause --explain --hist", "faults -b site", "faults -b thread,file"),
        *("faults --stacks", "faults --flame /dev/null", "faults --folded /dev/null"),
        *("faults -f json -b process,cgroup", "faults -v --wide"),
    ),
    "malloc": (
        *("malloc -b process,path", "malloc -b site", "malloc --timeline", "malloc -f json"),
        "malloc --wide -v",
    ),
    "slab": (
        *("slab -b site", "slab -b process,cache", "slab --leaks", "slab -f json"),
        "slab --wide -v",
    ),
    "pages": ("pages", "pages -f json", "pages -b process", "pages --wide -v"),
    "reclaim": ("reclaim", "reclaim -f json", "reclaim -b process,node --wide -v"),
    "shm": ("shm", "shm -f json -b process,segment", "shm -b cgroup,kind --wide -v"),
    "oom": ("oom", "oom --explain", "oom -f json -v"),
}


class Server:
    """See server.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.server"],
            cwd=HOME,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def memtap(self, *arguments: object) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps([*map(str, arguments)]), file=self.process.stdin, flush=True)
        done: dict[str, Any] = json.loads(self.process.stdout.readline())
        return done


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    with found.process:
        yield found


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recording of each tracer."""
    if given := os.environ.get("MEMTAP_FUZZ_FROM"):
        return {tracer: Path(given) / f"{tracer}.parquet" for tracer in TRACERS}
    folder = tmp_path_factory.mktemp("sound")
    return {tracer: recording(tracer, folder / f"{tracer}.parquet") for tracer in TRACERS}


@pytest.mark.parametrize("tracer", TRACERS)
def test_what_is_not_changed_is_replayed(
    tracer: str, server: Server, sound: dict[str, Path]
) -> None:
    for view in VIEWS[tracer]:
        done = server.memtap(*view.split(), "--from", sound[tracer])
        assert (done["status"], done["err"]) == (0, ""), view
        assert len(done["out"].splitlines()) > 0, view


@settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(tracer=st.sampled_from(TRACERS), seed=st.integers(0, 2**32), other=st.integers(0, 30))
def test_whatever_is_wrong_is_said_in_two_lines(
    tracer: str, seed: int, other: int, tmp_path: Path, server: Server, sound: dict[str, Path]
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "r.parquet"
    path.write_bytes(sound[tracer].read_bytes())
    what = mutate(path, chance)
    views = VIEWS[tracer] if other else VIEWS[chance.choice(TRACERS)]
    view = chance.choice(views)
    done = server.memtap(*view.split(), "--from", path)
    told = (what, view, done)
    assert done["status"] in (0, 1), told
    assert "Traceback" not in done["err"], told
    assert done["mib"] <= MOST_MIB, told
    assert done["seconds"] <= MOST_S, told
    assert not set("\x1b\x07\x08\0") & set(done["out"] + done["err"]), told
    failures = [line for line in done["err"].splitlines() if not line.startswith("memtap: note: ")]
    assert len(failures) == 2 * done["status"], told
