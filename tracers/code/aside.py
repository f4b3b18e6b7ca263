"""What users wrote is read aside: names of code, and rules of how frames are left.

A program, a library or a perf map can be of any size, grow while it is read, and stand where its
owner decides how long that takes: on a file system of his own, or under a lease. So the files of
each user's processes are read by a child of its own, which is waited for so long and no longer.
What it did not tell in time has no name in this interval; who does not answer at all is left out.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import memtap
from memtap.tracers.code.objects import Code
from memtap.tracers.host.caller import caller
from memtap.tracers.host.procfs import read, stat_fields, user_name, user_of

# A place of code: what is asked of it, the process, an address or an offset, and what is there.
Question = tuple[str, int, int, Code | None]

# What a child that is late may be late by before it is given up, and how often that is borne.
_GIVEN_UP_S = 30.0
_MOST_STRIKES = 2

# How long all children together are waited for: in an interval; at the end, where nothing can be
# told later, while none of them uses a CPU; and there at the most, as what they may use is bounded.
_WAIT_S, _IDLE_S, _LONGEST_S = 0.5, 2.0, 60.0

# So often it is looked whether they use one.
_LOOK_S = 0.25

# Of procfs.stat_fields(): time in user and kernel mode, and what follows them.
_USER, _CHILDREN = 11, 13

# There are so many at a time, of those who were asked about last.
_MOST_CHILDREN = 4

# A pipe takes that much, whether or not anybody reads.
_BATCH_BYTES = 32 << 10

_READ_BYTES = 1 << 16

# What runs in the child.
_READER = "memtap.tracers.code.reader"


class Aside:
    """Asks the children.

    Attributes:
        notes: of whom something was left out, and why; who reads them takes them.
    """

    def __init__(self) -> None:
        self._children: OrderedDict[int, _Child] = OrderedDict()
        self._strikes: Counter[int] = Counter()
        self.notes: list[str] = []
        weakref.finalize(self, _end_all, self._children)
        self._child((caller() or (os.getuid(),))[0])  # while tracing begins, it does as well

    def ask(self, questions: Mapping[Hashable, Question], last: bool = False) -> dict[Any, Any]:
        """What is known by now of these and of earlier questions, by their keys.

        An answer is None if there is none; a key that is missing may be asked again.
        """
        answers: dict[Any, Any] = {}
        for child in self._children.values():
            if last and child.has_worked():
                child.is_waited_for_again()
            child.go_on(answers)
        users = {tgid: user_of(tgid) for tgid in {tgid for _, tgid, *_ in questions.values()}}
        for key, question in questions.items():
            uid = users[question[1]]
            if key not in answers and self._strikes[uid] < _MOST_STRIKES:
                self._child(uid).add(key, question)
        self._wait(answers, last)
        for uid, child in list(self._children.items()):
            child.questions.clear()  # who asks again decides whether that is still of interest
            if child.is_dead or (child.asked and child.late_s > _GIVEN_UP_S):
                self._strike(uid, child, answers)
        return answers

    def _child(self, uid: int) -> _Child:
        if uid not in self._children:
            while len(self._children) >= _MOST_CHILDREN:
                self._children.popitem(last=False)[1].end()
            self._children[uid] = _Child()
        self._children.move_to_end(uid)
        return self._children[uid]

    def _wait(self, answers: dict[Any, Any], last: bool) -> None:
        """Takes what comes; does not wait for those who were late before."""
        for child in self._children.values():
            child.go_on(answers)
        began = worked = time.monotonic()
        while awaited := [child for child in self._children.values() if child.is_awaited]:
            now = time.monotonic()
            if last and any(child.has_worked() for child in awaited):
                worked = now
            until = min(worked + _IDLE_S, began + _LONGEST_S) if last else began + _WAIT_S
            left = until - now
            if left <= 0:
                break
            _answer(awaited, min(left, _LOOK_S))
            for child in awaited:
                child.go_on(answers)
        for child in awaited:
            child.is_late()

    def _strike(self, uid: int, child: _Child, answers: dict[Any, Any]) -> None:
        """Ends a child; what it could not answer is not asked again."""
        answers |= dict.fromkeys(child.asked[:1])
        child.end()
        del self._children[uid]
        self._strikes[uid] += 1
        files = f"files of {user_name(uid) if uid >= 0 else 'processes that ended'}"
        what = "took too much memory" if child.is_dead else "could not be read in time"
        self.notes.append(f"{files} {what}: code of theirs is left without names")


class _Child:
    """The process that reads what one user's processes have mapped.

    Attributes:
        questions: what is to be asked, by key.
        asked: the keys of what was asked and is not answered yet, in order.
        output: what it writes to.
        is_up: whether it has begun to work.
        is_dead: whether it ended without being told to.
    """

    def __init__(self) -> None:
        self.questions: dict[Any, Question] = {}
        self.asked: list[Any] = []
        self.is_up = self.is_dead = False
        self._process = subprocess.Popen(
            command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdin and self._process.stdout
        self._input, self.output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.output, False)
        self._rest = b""
        self._late_since: float | None = None
        self._ticks = 0

    def has_worked(self) -> bool:
        """Whether it has used a CPU since this was asked last."""
        before, self._ticks = self._ticks, _ticks_of(self._process.pid)
        return self._ticks > before

    @property
    def is_awaited(self) -> bool:
        """Whether it has something to answer, and was not late with that before."""
        return bool(self.asked or self.questions) and not self.is_dead and not self._late_since

    @property
    def late_s(self) -> float:
        """For how long it is late."""
        return time.monotonic() - self._late_since if self._late_since else 0.0

    def is_late(self) -> None:
        """Nobody waits for it any longer."""
        self._late_since = self._late_since or time.monotonic()
        self.has_worked()

    def is_waited_for_again(self) -> None:
        """It was late because it has so much to do, or so little of a CPU."""
        self._late_since = None

    def add(self, key: Any, question: Question) -> None:
        """Has something asked, if nobody waits for the answer already."""
        if not self._late_since:
            self.questions[key] = question

    def go_on(self, answers: dict[Any, Any]) -> None:
        """Takes what it has answered, and asks it more if that was all."""
        try:
            while said := os.read(self.output, _READ_BYTES):
                self._take(said, answers)
            self.is_dead = True
        except BlockingIOError:
            if not self.asked and self.is_up:
                self._late_since = None
                self._send()

    def _take(self, said: bytes, answers: dict[Any, Any]) -> None:
        *lines, self._rest = (self._rest + said).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if not self.is_up:
                self.is_up = True
            elif answer != LATER:
                answers[self.asked.pop(0)] = answer
            else:
                del self.asked[0]

    def _send(self) -> None:
        """Asks as much as fits into the pipe."""
        texts, size = [], 0
        while self.questions and size < _BATCH_BYTES:
            key = next(iter(self.questions))
            what, tgid, address, code = self.questions.pop(key)
            texts.append(json.dumps([what, tgid, address, code and astuple(code)]))
            size += len(texts[-1])
            self.asked.append(key)
        if texts:
            with suppress(BrokenPipeError):  # then reading tells
                os.write(self._input, f"[{','.join(texts)}]\n".encode())

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it is in the hands of a file system
            self._process.wait(1)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def _answer(children: list[_Child], seconds: float) -> None:
    """Waits until one of them answers, for so long."""
    poll = select.poll()
    for child in children:
        poll.register(child.output, select.POLLIN)
    poll.poll(1000 * seconds)


def _end_all(children: dict[int, _Child]) -> None:
    for child in children.values():
        child.end()


# The answer to what it has no time for just now.
LATER = 0


def _ticks_of(tgid: int) -> int:
    """The CPU time of a process, in clock ticks; 0 if it is gone."""
    try:
        fields = stat_fields(read(f"/proc/{tgid}/stat"))
    except OSError:
        return 0
    return sum(map(int, fields[_USER:_CHILDREN]))


def command() -> list[str]:
    """How a child is started: isolated, so that nothing in the current folder is imported."""
    home = os.fspath(Path(memtap.__file__).resolve().parent.parent)
    code = f"import sys; sys.path.append({home!r}); from {_READER} import main; main()"
    return [sys.executable, "-I", "-c", code]
