"""A compiled text: instructions and maps that any later run can give to the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import memtap
from memtap.bpf.btf import KFUNC_CALL
from memtap.bpf.cache import Cache
from memtap.bpf.errors import LoadError

# Of uapi/linux/bpf.h: an instruction that calls, and the mark that it calls a function of the
# kernel; an instruction that loads a number.
_CALL, _PSEUDO_KFUNC_CALL = 0x85, 2
_LOAD_NUMBER = 0xB7

# What standby_number() of memtap/standby.h and own_tgid() of memtap/filter.h are compiled to.
STANDBY_NUMBER, OWN_TGID = 0x5BA4E, 0x5E1F0
_INSTRUCTION_BYTES = 8


@dataclass(frozen=True)
class Code:
    """One function.

    Attributes:
        instructions: eight bytes each (struct bpf_insn).
        uses: byte offsets of the instructions that load a map, and its name.
    """

    instructions: bytes
    uses: list[tuple[int, str]]

    def using(self, maps: dict[str, int], standby: int = 0, own: int = 0) -> bytes:
        """The instructions with descriptors of real maps in them, and calls of kernel functions.

        A call of a helper that cannot exist (KFUNC in memtap/fields.h) becomes one of the kernel
        function. Two numbers are filled in: which standby of its program this is, from 1 on, or 0
        for the program itself; and the process that is left out (`own`).
        """
        code = bytearray(self.instructions)
        numbers = {STANDBY_NUMBER: standby, OWN_TGID: own}
        for at, name in self.uses:
            code[at + 4 : at + 8] = maps[name].to_bytes(4, sys.byteorder)
        for at in range(0, len(code), _INSTRUCTION_BYTES):
            number = int.from_bytes(code[at + 4 : at + 8], sys.byteorder)
            if code[at] == _CALL and code[at + 1] == 0 and number & KFUNC_CALL:
                code[at + 1] = _PSEUDO_KFUNC_CALL << 4
                code[at + 4 : at + 8] = (number ^ KFUNC_CALL).to_bytes(4, sys.byteorder)
            elif code[at] == _LOAD_NUMBER and number in numbers:
                code[at + 4 : at + 8] = numbers[number].to_bytes(4, sys.byteorder)
        return bytes(code)


@dataclass(frozen=True)
class Map:
    """What a map is like; the kinds and flags are those of uapi/linux/bpf.h."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Compiled:
    """All functions and maps of a text.

    Attributes:
        programs: functions by name.
        maps: the maps they use.
        layouts: structs by name: their `size`, and `members` as (name, offset, size), in bytes.
        compiler: what compiled them, for a person to read.
    """

    programs: dict[str, Code]
    maps: list[Map]
    layouts: dict[str, dict[str, Any]]
    compiler: str

    @classmethod
    def from_json(cls, text: str) -> Compiled:
        """What compiler.py answered."""
        answer: dict[str, Any] = json.loads(text)
        programs = {
            name: Code(bytes.fromhex(program["code"]), [(at, used) for at, used in program["uses"]])
            for name, program in answer["programs"].items()
        }
        maps = [Map(**each) for each in answer["maps"]]
        return cls(programs, maps, answer["layouts"], answer["compiler"])


class Compiling:
    """A text that a child is compiling while other work goes on, unless the cache has it.

    `cache` None compiles in any case, and keeps nothing.
    """

    def __init__(self, text: str, cache: Cache | None) -> None:
        self._text, self._cache = text, cache
        self._found = cache.find(text) if cache else None
        self._child = None if self._found else _Child(text)

    @property
    def takes_time(self) -> bool:
        """Whether the compiler works on it: the cache has it not."""
        return self._child is not None

    def abandon(self) -> None:
        """Gives up, and ends the child."""
        if self._child:
            self._child.end()

    def wait(self) -> Compiled:
        """The compiled text. Raises LoadError with the compiler's message."""
        if self._found:
            return Compiled.from_json(self._found)
        assert self._child
        answer = self._child.answer()
        compiled = Compiled.from_json(answer)
        if self._cache:
            self._cache.keep(self._text, answer)
        return compiled


# CPATH and others would make the compiler look for headers elsewhere.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


class _Child:
    """A process that compiles."""

    def __init__(self, text: str) -> None:
        self._errors = _in_memory("errors")
        with _in_memory("program") as file:
            file.write(text.encode())
            file.seek(0)
            self._process = subprocess.Popen(
                compiler_command(),
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_ENVIRONMENT,
            )

    def answer(self) -> str:
        """The answer, when the child has ended. Raises LoadError if it is an error, or nothing."""
        try:
            answer, _ = self._process.communicate()
            if self._process.returncode:
                self._errors.seek(0)
                log = self._errors.read().decode(errors="replace").strip()
                said = json.loads(
                    answer or '{"error": "the compiler died", "hint": "it may lack memory"}'
                )
                raise LoadError(said["error"], said["hint"], log)
            return answer.decode()
        finally:
            self.end()

    def end(self) -> None:
        """Ends it, if it is still there."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()


def _in_memory(name: str) -> BinaryIO:
    """A file outside of all file systems, which may be full or read-only."""
    return os.fdopen(os.memfd_create(name), "w+b")


def compiler_command() -> list[str]:
    """How this process starts the child: isolated, so that nothing in its folder is imported."""
    home = os.fspath(Path(memtap.__file__).resolve().parent.parent)
    begin = f"import sys; sys.path.append({home!r}); from memtap.bpf.compiler import main"
    return [sys.executable, "-I", "-c", f"{begin}; main({os.getpid()})"]
