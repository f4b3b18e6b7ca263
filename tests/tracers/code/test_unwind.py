"""Rules for frames against readelf, and ways up stacks made by hand."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.tracers.code.objects import Code
from memtap.tracers.code.unwind import Frames, Rule, Rules

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6").resolve()
_LINE = re.compile(r"([0-9a-f]{16}) r(sp|bp)\+(\d+) .*c-8\s*$")


def code_of(path: Path) -> Code:
    status = path.stat()
    return Code(0, 2**64 - 1, 0, status.st_dev, 0, str(path))


def lines_of(path: Path) -> list[tuple[int, str, int]]:
    """Address, register and offset of each line that readelf prints."""
    command = ["readelf", "--debug-dump=frames-interp", path]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    found = map(_LINE.match, text.splitlines())
    return [
        (int(line[1], 16), line[2], int(line[3])) for line in found if line and int(line[1], 16)
    ]


def offset_of(path: Path, address: int) -> int:
    """Where in its file code stands, by the program headers that readelf prints."""
    text = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True).stdout
    for found in re.findall(r"LOAD +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+)", text):
        offset, start, size = (int(number, 16) for number in found)
        if start <= address < start + size:
            return address - start + offset
    raise LookupError(address)


def test_rules_of_libc_are_those_that_readelf_prints() -> None:
    lines = lines_of(LIBC)
    assert len(lines) > 10_000
    rules, code = Rules(), code_of(LIBC)
    shift = offset_of(LIBC, lines[0][0]) - lines[0][0]  # all of the code is one segment
    for address, register, size in lines[::97]:
        rule = rules.find(1, code, address + shift)
        assert rule, hex(address)
        assert (rule.from_bp, rule.size) == (register == "bp", size), hex(address)


def test_where_nothing_is_known_there_is_no_rule(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no program")
    assert Rules().find(1, code_of(tmp_path / "text"), 0) is None
    assert Rules().find(1, code_of(LIBC), 0) is None
    assert Rules().find(1, replace(code_of(LIBC), path=str(tmp_path / "nothing")), 0) is None


@given(st.data())
def test_damage_costs_the_rule_alone(data: st.DataObject) -> None:
    raw = bytearray(Path("/bin/true").read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = Path("/tmp") / f"memtap-damaged-{id(raw)}"
    try:
        path.write_bytes(raw)
        rules = Rules()
        for offset in range(0x1000, len(raw), 0x1111):
            rules.find(1, code_of(path), offset)
    finally:
        path.unlink()


BASE = 0x7FFD_0000_1000


def stack(*words: int, link: int = 0) -> Frames:
    """Two calls with the same stack, whose stack and base pointers are its beginning."""
    column = np.array([BASE, BASE], np.uint64)
    rows = np.array([words, words], np.uint64)
    links = np.array([link, link], np.uint64)
    return Frames(np.zeros(2, np.uint64), column, column, column, rows, links)


@pytest.mark.parametrize(
    ("rule", "ip", "sp", "bp"),
    [
        (Rule(False, 8, None), 11, BASE + 8, BASE),
        (Rule(False, 24, -16), 13, BASE + 24, 12),
        (Rule(True, 16, -16), 12, BASE + 16, 11),
        (Rule(False, 4096, None), 0, BASE + 4096, BASE),  # beyond what was taken
        (Rule(False, 0, None), 0, BASE, BASE),  # not above
        (Rule(False, 12, None), 0, BASE + 12, BASE),  # not where a word can be
        (None, 0, BASE, BASE),
    ],
)
def test_a_rule_leads_to_the_caller(rule: Rule | None, ip: int, sp: int, bp: int) -> None:
    up = stack(11, 12, 13, 14).up([rule], np.zeros(2, np.intp))
    assert [up.ip.tolist(), up.sp.tolist(), up.bp.tolist()] == [[ip] * 2, [sp] * 2, [bp] * 2]


def test_a_function_without_a_frame_returns_to_where_a_register_says() -> None:
    rules: list[Rule | None] = [Rule(False, 0, None, None)]
    up = stack(11, 12, link=0x4000).up(rules, np.zeros(2, np.intp))
    assert (up.ip.tolist(), up.sp.tolist()) == ([0x4000] * 2, [BASE] * 2)
    again = up.up(rules, np.zeros(2, np.intp))  # its caller has set that register anew
    assert again.ip.tolist() == [0, 0]


def test_what_signs_a_return_address_is_left_out() -> None:
    up = stack(0x2A << 56 | 11, 12).up([Rule(False, 16, None, -16)], np.zeros(2, np.intp))
    assert up.ip.tolist() == [11, 11]


def test_each_call_has_its_own_rule() -> None:
    up = stack(11, 12, 13, 14).up([Rule(False, 8, None), Rule(False, 32, None)], np.array([1, 0]))
    assert up.ip.tolist() == [14, 11]
    assert up.take(np.array([1])).ip.tolist() == [11]
