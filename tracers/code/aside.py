"""Reads files that users wrote in child processes: names of code, and unwind rules.

A program, a library or a perf map can have any size, can grow while it is read, and can be where
its owner decides how long a read takes: on a file system of their own, or under a lease. So for
each user one child reads the files of that user's processes, and we wait for it for a bounded time.
Code whose name does not come in time has no name in this interval; a child that does not answer at
all is ended.
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

# A question about code: what is asked, the process, an address or an offset, and the mapping there.
Question = tuple[str, int, int, Code | None]

# How late a child's answer may be before we give the child up, and for how many children of a user.
_GIVEN_UP_S = 30.0
_MOST_STRIKES = 2

# How long we wait for all children together: in an interval; at the end of a run, when no answer
# can come later, while none of them uses a CPU; and at the end at most, as their CPU time is
# bounded.
_WAIT_S, _IDLE_S, _LONGEST_S = 0.5, 2.0, 60.0

# How often we check whether they use a CPU.
_LOOK_S = 0.25

# Of procfs.stat_fields(): time in user and kernel mode, and what follows them.
_USER, _CHILDREN = 11, 13

# There are at most so many children at a time, for the users that were asked about last.
_MOST_CHILDREN = 4

# A pipe takes this much even if nothing reads it.
_BATCH_BYTES = 32 << 10

_READ_BYTES = 1 << 16

# What runs in the child.
_READER = "memtap.tracers.code.reader"


class Aside:
    """Asks the children.

    Attributes:
        notes: whose files were left out, and why; the caller clears them when it has read them.
    """

    def __init__(self) -> None:
        self._children: OrderedDict[int, _Child] = OrderedDict()
        self._strikes: Counter[int] = Counter()
        self.notes: list[str] = []
        weakref.finalize(self, _end_all, self._children)
        self._child((caller() or (os.getuid(),))[0])  # it starts up while tracing begins

    def ask(self, questions: Mapping[Hashable, Question], last: bool = False) -> dict[Any, Any]:
        """The answers that have come to these and to earlier questions, by their keys.

        An answer is None if there is none; if a key is missing, ask again.
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
            child.questions.clear()  # the caller asks again if it still wants an answer
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
        """Takes the answers that come; does not wait for children that were late before."""
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
        """Ends a child; questions that it could not answer are not asked again."""
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
        asked: the keys of questions that were sent and not yet answered, in order.
        output: what it writes to.
        is_up: whether it has begun to work.
        is_dead: whether it ended without being asked to.
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
        """Whether it has questions to answer, and was not late with them before."""
        return bool(self.asked or self.questions) and not self.is_dead and not self._late_since

    @property
    def late_s(self) -> float:
        """For how long it is late."""
        return time.monotonic() - self._late_since if self._late_since else 0.0

    def is_late(self) -> None:
        """Marks it as late: ask() no longer waits for it."""
        self._late_since = self._late_since or time.monotonic()
        self.has_worked()

    def is_waited_for_again(self) -> None:
        """Lets ask() wait for it again: it was late as it has much to do, or little CPU time."""
        self._late_since = None

    def add(self, key: Any, question: Question) -> None:
        """Queues a question, unless it has been sent and not yet answered."""
        if not self._late_since:
            self.questions[key] = question

    def go_on(self, answers: dict[Any, Any]) -> None:
        """Takes its answers, and sends more questions once all are answered."""
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
        """Sends as many questions as fit into the pipe."""
        texts, size = [], 0
        while self.questions and size < _BATCH_BYTES:
            key = next(iter(self.questions))
            what, tgid, address, code = self.questions.pop(key)
            texts.append(json.dumps([what, tgid, address, code and astuple(code)]))
            size += len(texts[-1])
            self.asked.append(key)
        if texts:
            with suppress(BrokenPipeError):  # then the read finds out
                os.write(self._input, f"[{','.join(texts)}]\n".encode())

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # it is blocked in a file system
            self._process.wait(1)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def _answer(children: list[_Child], seconds: float) -> None:
    """Waits until one of them answers, for so many seconds at most."""
    poll = select.poll()
    for child in children:
        poll.register(child.output, select.POLLIN)
    poll.poll(1000 * seconds)


def _end_all(children: dict[int, _Child]) -> None:
    for child in children.values():
        child.end()


# The answer to a question for which the child has no time now.
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
