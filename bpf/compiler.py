"""Compiles one text with BCC, in a process of its own that then ends.

BCC brings LLVM, some hundred megabytes; so a child compiles, and the process that reads the
events never has them. The text comes on stdin; the answer, the JSON of compiled.py or an error,
goes to stdout. This is the only module that imports bcc.
"""

from __future__ import annotations

import ctypes as ct
import json
import os
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

from memtap.bpf.errors import MemtapError

HEADERS = Path(__file__).resolve().parent

# Of uapi/linux/bpf.h: an instruction that loads 64 bits, and the mark that these are a map.
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1
_INSTRUCTION_BYTES = 8

# How often the child looks whether its parent is still there.
_LOOK_S = 0.1

# Maps whose names begin so only describe a struct.
_LAYOUT = "layout_"


def _import_bcc() -> Any:
    """The bcc package with its BPF class, or MemtapError that says what to install."""
    os.environ["BCC_KERNEL_SOURCE"] = str(HEADERS)
    try:
        import bcc
    except ModuleNotFoundError as error:
        raise MemtapError(
            "BCC's Python binding is not installed",
            "apt install python3-bpfcc, and use a virtual environment with system site packages",
        ) from error
    except (OSError, ImportError, AttributeError) as error:
        raise MemtapError(
            f"BCC's library does not load ({error})",
            "apt install --reinstall libbpfcc python3-bpfcc",
        ) from error
    if not hasattr(bcc, "BPF"):
        raise MemtapError(
            "the bcc that Python found is another project of that name",
            "pip uninstall bcc; apt install python3-bpfcc",
        )
    return bcc


class Module:
    """A compiled text, as BCC holds it."""

    def __init__(self, text: str) -> None:
        self._bcc = _import_bcc()
        try:
            self._module = self._bcc.BPF(text=text.encode())
        except Exception as error:
            what = f"BCC could not compile the program ({error})"
            raise MemtapError(what, "memtap doctor tells whether the compiler works") from error
        self._lib = self._bcc.lib
        # BCC 0.26 leaves these out.
        self._lib.bpf_table_name.restype = ct.c_char_p
        self._lib.bpf_table_max_entries_id.restype = ct.c_uint64

    def compiled(self) -> dict[str, Any]:
        """What Compiled.from_json() reads."""
        tables = self._tables()
        names = {self._lib.bpf_table_fd_id(self._module.module, i): n for n, i in tables.items()}
        return {
            "programs": {name: self._program(name, names) for name in self._functions()},
            "maps": [self._map(n, i) for n, i in tables.items() if not n.startswith(_LAYOUT)],
            "layouts": {
                name.removeprefix(_LAYOUT): _describe(self._module[name.encode()].Leaf)
                for name in tables
                if name.startswith(_LAYOUT)
            },
            "compiler": _compiler(self._bcc.__version__),
        }

    def _functions(self) -> list[str]:
        count = self._lib.bpf_num_functions(self._module.module)
        return [self._lib.bpf_function_name(self._module.module, i).decode() for i in range(count)]

    def _tables(self) -> dict[str, int]:
        count = self._lib.bpf_num_tables(self._module.module)
        numbers = range(count)
        return {self._lib.bpf_table_name(self._module.module, i).decode(): i for i in numbers}

    def _program(self, function: str, maps: dict[int, str]) -> dict[str, Any]:
        """The instructions of a function, and which of them load which map."""
        code = bytearray(self._module.dump_func(function.encode()))
        uses = []
        for at in range(0, len(code), _INSTRUCTION_BYTES):
            if code[at] == _LD_IMM64 and code[at + 1] >> 4 == _PSEUDO_MAP_FD:
                descriptor = slice(at + 4, at + 8)
                uses.append((at, maps[int.from_bytes(code[descriptor], sys.byteorder)]))
                code[descriptor] = bytes(4)
        return {"code": code.hex(), "uses": uses}

    def _map(self, name: str, number: int) -> dict[str, Any]:
        module = self._module.module
        return {
            "name": name,
            "kind": self._lib.bpf_table_type_id(module, number),
            "key_bytes": self._lib.bpf_table_key_size_id(module, number),
            "value_bytes": self._lib.bpf_table_leaf_size_id(module, number),
            "entries": self._lib.bpf_table_max_entries_id(module, number),
            "flags": self._lib.bpf_table_flags_id(module, number),
        }


def _describe(struct: Any) -> dict[str, Any]:
    places = {name: getattr(struct, name) for name, *_ in struct._fields_}
    members = [(name, at.offset, at.size) for name, at in places.items()]
    return {"size": ct.sizeof(struct), "members": members}


def _compiler(version: str) -> str:
    """BCC's version, and the LLVM that it has brought into this process, for a person to read."""
    maps = Path("/proc/self/maps").read_text(errors="replace").split()
    llvm = {Path(word).name for word in maps if Path(word).name.startswith("libLLVM")}
    return ", ".join([f"BCC {version}", *sorted(llvm)])


def _end_with(parent: int) -> None:
    """Ends this process when its parent was killed, so that no process waits for the answer.

    The parent may have been killed before this process looked for the first time.
    """
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def main(parent: int) -> None:
    """Compiles stdin for a process, and answers on stdout; status 1 if the answer is an error."""
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    status = os.EX_OK
    text = sys.stdin.read()
    try:
        answer = Module(text).compiled()
    except MemtapError as error:
        status, answer = 1, {"error": error.what, "hint": error.hint}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(status)  # BCC's own clean-up at exit would only cost time; the kernel closes all
