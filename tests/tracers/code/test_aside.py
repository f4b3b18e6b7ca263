"""What users wrote is read aside: who cannot be read costs names of his own, and little time."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memtap.tracers.code import aside
from memtap.tracers.code.aside import Aside, Question
from memtap.tracers.code.objects import Code
from memtap.tracers.code.sites import Texts
from tests.tracers.code.test_symbols import Program, build, running

JITTED = Code(0x10000, 0x20000, 0, 0, 0, "//anon")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODY = 65534
READY_S = 60


def asked(readers: Aside, key: Any, question: Question) -> Any:
    """The answer, which may come late."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        answers = readers.ask({key: question})
        if key in answers:
            return answers[key]
    raise TimeoutError(key)


def about(program: Program, function: str = "hidden") -> Question:
    return "name", program.tgid, program.addresses[function], program.code


@contextmanager
def of_user(uid: int) -> Iterator[int]:
    """A process of somebody else."""
    with subprocess.Popen(["sleep", "1000"], user=uid, group=uid) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    with running(build(tmp_path / "prog")) as found:
        yield found


def test_names_and_rules_are_told(program: Program) -> None:
    readers = Aside()
    assert asked(readers, 1, about(program)) == ["hidden", 0, "prog"]
    _, tgid, _, code = about(program)
    rule = asked(readers, 2, ("rule", tgid, program.file_offset("hidden") + 1, code))
    assert rule is None or len(rule) == 4
    assert readers.notes == []


def test_all_of_many_questions_are_answered(program: Program) -> None:
    """More than a pipe takes at a time."""
    readers, missing = Aside(), set(range(5000))
    until = time.monotonic() + READY_S
    while missing and time.monotonic() < until:
        answers = readers.ask({number: about(program) for number in missing})
        assert all(answer == ["hidden", 0, "prog"] for answer in answers.values())
        missing -= set(answers)
    assert not missing


def test_who_does_not_answer_is_not_waited_for_and_left_out_at_last(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped child stands for one that a file system does not let go on."""
    monkeypatch.setattr(aside, "_GIVEN_UP_S", 2.0)
    readers = Aside()
    asked(readers, 0, about(program))
    strikes = 0
    while not readers.notes or strikes < aside._MOST_STRIKES:
        for child in readers._children.values():
            os.kill(child._process.pid, signal.SIGSTOP)
        began = time.monotonic()
        for number in range(3):
            readers.ask({("late", number): about(program)})
        assert time.monotonic() - began < READY_S / 2
        time.sleep(2.5)
        readers.ask({})
        strikes = len(readers.notes)
        if strikes < aside._MOST_STRIKES:
            asked(readers, ("again", strikes), about(program))
    assert "could not be read in time" in readers.notes[0]
    assert readers.ask({"more": about(program)}) == {}
    assert not readers._children


@as_root
def test_a_stall_of_one_user_costs_no_name_of_others(program: Program) -> None:
    readers = Aside()
    with of_user(NOBODY) as tgid:
        theirs: Question = ("name", tgid, 0x10123, JITTED)
        assert asked(readers, "theirs", theirs) == ["", 0x123, "[anon]"]
        os.kill(readers._children[NOBODY]._process.pid, signal.SIGSTOP)
        for number in range(5):
            answers = readers.ask({("theirs", number): theirs, number: about(program)})
            answers |= {} if number in answers else {number: asked(readers, number, about(program))}
            assert answers[number] == ["hidden", 0, "prog"]
            assert ("theirs", number) not in answers


@as_root
def test_a_map_of_millions_of_lines_takes_memory_of_the_child_alone() -> None:
    readers = Aside()
    with of_user(NOBODY) as tgid:
        path = Path(f"/tmp/perf-{tgid}.map")
        try:
            path.write_bytes(b"0 1 a\n" * 11_000_000)
            os.chown(path, NOBODY, NOBODY)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            answer = asked(readers, 1, ("name", tgid, 0x10123, JITTED))
            assert answer in (["", 0x123, "[anon]"], None)  # it may take too long for that
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
            if answer:
                pid = readers._children[NOBODY]._process.pid
                status = Path(f"/proc/{pid}/status").read_text()
                assert int(status.partition("VmHWM:")[2].split()[0]) < 400 << 10
        finally:
            path.unlink()


@as_root
def test_a_lease_on_a_map_stops_nobody() -> None:
    """To open it, one would have to wait for its owner to give it up."""
    readers = Aside()
    path = Path(f"/tmp/perf-{os.getpid()}.map")
    path.write_text("10100 20 first\n")
    try:
        question: Question = ("name", os.getpid(), 0x10105, JITTED)
        assert asked(readers, 1, question) == ["first", 5, "[anon]"]
        held = os.open(path, os.O_RDWR)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        began = time.monotonic()
        assert asked(readers, 2, question) == ["", 0x105, "[anon]"]
        assert time.monotonic() - began < READY_S / 3
        os.close(held)
    finally:
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        path.unlink()


def test_children_end_with_who_asks(program: Program) -> None:
    readers = Aside()
    asked(readers, 1, about(program))
    (child,) = readers._children.values()
    process = child._process
    del child, readers
    assert process.wait(READY_S) == -signal.SIGKILL


def test_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memtap.tracers.code.sites._MOST_TEXTS", 3)
    texts = Texts()
    assert [texts.number(text) for text in "abcabcd"] == [1, 2, 3, 1, 2, 3, 0]
    assert (texts.left_out, texts.take()) == (1, {1: "a", 2: "b", 3: "c"})


def test_long_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memtap.tracers.code.sites._MOST_CHARACTERS", 10)
    texts = Texts()
    assert [texts.number(text) for text in ("a" * 6, "b" * 6, "a" * 6)] == [1, 0, 1]
