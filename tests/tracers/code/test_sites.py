"""Names that come late: what has a number keeps it, and gets the name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memtap.bpf.sideband import Mapped
from memtap.tracers.code.mappings import Place, Region
from memtap.tracers.code.sites import Sites
from tests.tracers.code.test_symbols import Program, build, running

NUMBER = 7


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with running(build(tmp_path / "prog")) as found:
        yield found


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    """Those of which the first to be asked for are not answered in time."""
    made = Sites()
    answer, calls = made.aside.ask, [0]

    def ask(questions: Mapping[Any, Any], last: bool = False) -> dict[Any, Any]:
        calls[0] += 1
        return answer(questions, last) if calls[0] > 1 else {}

    monkeypatch.setattr(made.aside, "ask", ask)
    yield made


def place_of(program: Program) -> dict[int, Place]:
    code = program.code
    mapped = Mapped(
        0, program.tgid, code.start, code.end, code.offset, code.dev, code.ino, 5, 2, code.path
    )
    return {NUMBER: Place(mapped, Region.TEXT, code.path)}


def number(sites: Sites, program: Program, function: str, last: bool = False) -> int:
    """Of the site of one instruction."""
    tgids, ips = np.array([program.tgid], np.uint32), np.array([program.addresses[function]])
    offsets = np.array([program.file_offset(function)], np.uint64)
    numbers = np.array([NUMBER], np.uint32)
    places = place_of(program)
    return int(sites.of(tgids, ips.astype(np.uint64), numbers, offsets, places, last)[0])


def test_a_name_that_comes_late_is_that_of_the_number_given_before(
    sites: Sites, program: Program
) -> None:
    first = number(sites, program, "seen")
    assert "seen" not in sites.sites.take()[first]
    assert number(sites, program, "seen", last=True) == first
    assert sites.sites.take()[first].startswith("seen")


def test_the_last_look_asks_for_all_names_that_were_late(sites: Sites, program: Program) -> None:
    first = number(sites, program, "seen")
    sites.sites.take()
    nothing = np.empty(0, np.uint32), np.empty(0, np.uint64)
    sites.of(*nothing, *nothing, place_of(program), last=True)
    assert sites.sites.take()[first].startswith("seen")


def test_stacks_get_the_names_that_come_late(sites: Sites, program: Program) -> None:
    ips = [program.addresses[name] for name in ("seen", "hidden")]
    offsets = np.array([program.file_offset(name) for name in ("seen", "hidden")], np.uint64)
    taken = [(program.tgid, ips, np.full(2, NUMBER, np.uint32), offsets)]
    (first,) = sites.stacks_of(taken, place_of(program))
    assert "seen" not in sites.stacks.take()[first]
    sites.stacks_of([], place_of(program), last=True)
    assert "seen" in sites.stacks.take()[first]
