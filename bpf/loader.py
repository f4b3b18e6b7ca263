"""Compiles, loads and attaches programs, in a process of its own that then goes away.

BCC brings LLVM, some hundred megabytes; so a child does the compiling and hands the file
descriptors of programs, links and maps to the process that reads the events. A program stays
attached for as long as somebody holds its link, and nobody but that process does.

This is the only module that imports bcc. The request and the answer are JSON on a socket.
"""

from __future__ import annotations

import ctypes as ct
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from memtap.bpf import libbpf
from memtap.bpf.errors import MemtapError

# Of uapi/linux/bpf.h.
_PROG_TYPE_KPROBE, _PROG_TYPE_RAW_TRACEPOINT, _PROG_TYPE_TRACING = 2, 17, 26
_TRACE_RAW_TP, _TRACE_FENTRY = 23, 24

HEADERS = Path(__file__).resolve().parent

# A control message carries at most 253 descriptors (SCM_MAX_FD).
FDS_PER_MESSAGE = 250


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


class Loader:
    """One compiled text and what has been made of it."""

    def __init__(self, text: str) -> None:
        self.bcc = _import_bcc()
        self.lib = libbpf.library()
        try:
            self.module = self.bcc.BPF(text=text.encode())
        except Exception as error:
            raise MemtapError(f"BCC could not compile the program ({error})") from error

    def load(self, function: str, kind: str, target: str | None) -> int:
        """Loads one function of the text; the descriptor of the program."""
        types = {"kprobe": _PROG_TYPE_KPROBE, "raw_tp": _PROG_TYPE_RAW_TRACEPOINT}
        code = self.module.dump_func(function.encode())
        log = ct.create_string_buffer(1 << 20)
        options = libbpf.ProgLoadOpts(sz=ct.sizeof(libbpf.ProgLoadOpts))
        if kind in ("tp_btf", "fentry"):
            options.expected_attach_type = _TRACE_RAW_TP if kind == "tp_btf" else _TRACE_FENTRY
            options.attach_btf_id = libbpf.check(
                self.lib.libbpf_find_vmlinux_btf_id(
                    (target or "").encode(), options.expected_attach_type
                ),
                f"finding {kind}:{target}",
            )
        arguments = (types.get(kind, _PROG_TYPE_TRACING), function.encode(), b"GPL", code)
        fd = self.lib.bpf_prog_load(*arguments, len(code) // 8, ct.byref(options))
        if fd < 0:
            number = ct.get_errno()
            options.log_level, options.log_size = 1, len(log)
            options.log_buf = ct.cast(log, ct.c_char_p)
            self.lib.bpf_prog_load(*arguments, len(code) // 8, ct.byref(options))
            sys.stderr.write(log.value.decode(errors="replace"))
            raise OSError(number, f"loading {function}: {os.strerror(number)}")
        return int(fd)

    def attach(self, kind: str, target: str, program: int) -> int:
        """Attaches a loaded program; the descriptor that keeps it attached."""
        if kind == "kprobe":
            name = f"memtap_{target}".encode()
            link = self.bcc.lib.bpf_attach_kprobe(program, 0, name, target.encode(), 0, 0)
            return libbpf.check(link, f"attaching kprobe:{target}")
        return libbpf.check(
            self.lib.bpf_raw_tracepoint_open(None, program), f"attaching {kind}:{target}"
        )

    def map(self, name: str) -> int:
        """The descriptor of a map."""
        return libbpf.check(
            self.bcc.lib.bpf_table_fd(self.module.module, name.encode()), f"map {name}"
        )

    def layouts(self) -> dict[str, dict[str, Any]]:
        """The structs behind all maps `layout_NAME`: their size, and their members' places."""
        self.bcc.lib.bpf_table_name.restype = ct.c_char_p  # BCC 0.26 leaves that out
        count = self.bcc.lib.bpf_num_tables(self.module.module)
        names = [self.bcc.lib.bpf_table_name(self.module.module, i) for i in range(count)]
        return {
            name[len("layout_") :].decode(): _describe(self.module[name].Leaf)
            for name in names
            if name.startswith(b"layout_")
        }


def _describe(struct: Any) -> dict[str, Any]:
    places = {name: getattr(struct, name) for name, *_ in struct._fields_}
    members = [(name, at.offset, at.size) for name, at in places.items()]
    return {"size": ct.sizeof(struct), "members": members}


class Channel:
    """The loader's end of the socket: lines of JSON, and descriptors."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lines = self._socket.makefile("r")

    def receive(self) -> dict[str, Any]:
        """The next request; ends the process if nobody is there to send one."""
        line = self._lines.readline()
        if not line:
            os._exit(0)
        request: dict[str, Any] = json.loads(line)
        return request

    def send(self, answer: dict[str, Any], fds: list[int]) -> None:
        """An answer, and the descriptors it speaks of."""
        self._socket.sendall(json.dumps(answer).encode() + b"\n")
        for start in range(0, len(fds), FDS_PER_MESSAGE):
            socket.send_fds(self._socket, [b"f"], fds[start : start + FDS_PER_MESSAGE])


def compiler(version: str) -> str:
    """BCC's version, and the LLVM that it has brought into this process, for a person to read."""
    maps = Path("/proc/self/maps").read_text(errors="replace").split()
    llvm = {Path(word).name for word in maps if Path(word).name.startswith("libLLVM")}
    return ", ".join([f"BCC {version}", *sorted(llvm)])


def serve(channel: Channel) -> None:
    """Loads what is asked for, waits until somebody can take the events, and attaches."""
    request = channel.receive()
    loader = Loader(request["text"])
    programs = {p["function"]: loader.load(**p) for p in request["programs"]}
    maps = {name: loader.map(name) for name in request["maps"]}
    answer = {
        "programs": list(programs),
        "maps": list(maps),
        "layouts": loader.layouts(),
        "compiler": compiler(loader.bcc.__version__),
    }
    channel.send(answer, [*programs.values(), *maps.values()])
    channel.receive()
    links = [
        loader.attach(p["kind"], p["target"], programs[p["function"]])
        for p in request["programs"]
        if p["target"] is not None
    ]
    channel.send({"links": len(links)}, links)


def main(fd: int) -> None:
    """Serves the one client at the other end of the socket `fd`."""
    channel = Channel(fd)
    try:
        serve(channel)
    except MemtapError as error:
        channel.send({"error": error.what, "hint": error.hint}, [])
    except OSError as error:
        channel.send({"error": error.strerror, "errno": error.errno}, [])
    os._exit(0)  # BCC's own clean-up at exit would only cost time; the kernel closes everything
