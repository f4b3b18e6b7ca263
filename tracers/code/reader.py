"""The child that reads files of traced processes; see aside.py."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

from memtap.tracers.code.aside import LATER
from memtap.tracers.code.objects import Code, open_code
from memtap.tracers.code.symbols import Symbols, nameless
from memtap.tracers.code.unwind import Rules

# Its limits, beyond what it has when it starts: memory; CPU time, for one question and in all.
_MOST_BYTES = 256 << 20
_ONCE_S, _SHARE = 5.0, 0.05

# The traced processes go first.
_NICE = 5

# The characters of all names that it sends.
_MOST_CHARACTERS = 16 << 20

_PDEATHSIG = 1  # of uapi/linux/prctl.h


class _Reader:
    def __init__(self) -> None:
        self._symbols, self._rules = Symbols(), Rules()
        self._began, self._started = time.monotonic(), time.process_time()
        self._sent: set[str] = set()
        self._characters = 0

    def answer(self, what: str, tgid: int, address: int, code: list[Any] | None) -> Any:
        """The name of code, or the rule of its frame, as JSON has it."""
        used, since = time.process_time() - self._started, time.monotonic() - self._began
        if used > _ONCE_S + _SHARE * since:
            return LATER
        place = Code(*code) if code else None
        if place is None or what == "name":
            return self._name(tgid, address, place)
        rule = self._rules.find(tgid, place, address)
        return rule and astuple(rule)

    def _name(self, tgid: int, address: int, place: Code | None) -> Any:
        """A site; if it cannot be read now, it may be asked again, through another process."""
        site = self._symbols.name(tgid, address, place)
        if site.function not in self._sent:
            self._sent.add(site.function)
            self._characters += len(site.function)
        if self._characters > _MOST_CHARACTERS:
            return astuple(nameless(address, place))
        if site.function or place is None or not place.has_file:
            return astuple(site)
        file = open_code(Path("/"), tgid, place)
        if file is None:
            return LATER
        file.close()
        return astuple(site)


def _confine() -> None:
    """Makes this process end with its parent, limits its memory, and ignores Ctrl-C."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    status = Path("/proc/self/status").read_text()
    now = int(status.partition("VmData:")[2].split()[0]) << 10
    most = now + _MOST_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Answers a line of questions with a line for each."""
    _confine()
    reader, out = _Reader(), sys.stdout
    out.write("[]\n")
    out.flush()
    for line in sys.stdin:
        for question in json.loads(line):
            out.write(json.dumps(reader.answer(*question)) + "\n")
        out.flush()
