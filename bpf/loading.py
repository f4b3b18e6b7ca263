"""Starts the loader and takes over what it attached."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import memtap
from memtap.bpf.errors import MemtapError
from memtap.bpf.filters import Filter
from memtap.bpf.kernel import Kernel
from memtap.bpf.loader import FDS_PER_MESSAGE
from memtap.bpf.plan import Plan, Probe, Way
from memtap.bpf.source import compose

_ON_FORK = Probe("on_fork", "tp_btf", ("sched_process_fork",))
_ON_FREE = Probe("on_free", "tp_btf", ("sched_process_free",))


class LoadError(MemtapError):
    """A program did not compile, load or attach; `log` is what compiler or verifier said."""

    def __init__(self, what: str, hint: str, log: str) -> None:
        super().__init__(what, hint)
        self.log = log


@dataclass(frozen=True)
class Request:
    """What to compile and attach.

    Attributes:
        plan: the C program and the ways to attach it.
        filter: whose events are kept.
        settings: further macros of the program (`NAME value`).
    """

    plan: Plan
    filter: Filter = field(default_factory=Filter)
    settings: tuple[str, ...] = ()

    def text(self, kernel: Kernel, way: Way) -> str:
        """The text handed to the compiler: what --dump-c shows."""
        settings = [f"{name} 1" for name in way.defines]
        settings += [*self.settings, *self.filter.defines(kernel.btf)]
        return compose(self.plan.program, settings, kernel.btf)

    def probes(self, way: Way) -> tuple[Probe, ...]:
        """What is attached: the way's own probes and those that keep the set of processes."""
        keeping = (_ON_FREE,) if self.filter.by_tgid else ()
        joining = (_ON_FORK,) if self.filter.by_tgid and self.filter.follow else ()
        return way.probes + joining + keeping


@dataclass
class Loaded:
    """Programs in the kernel, not attached yet.

    Attributes:
        request, way: what was loaded.
        probes: what attach() attaches to, as `kind:target`.
        programs, maps: descriptors by name.
        layouts: the structs of the records, see loader.py.
        compiler: what compiled them, for a person to read.
    """

    request: Request
    way: Way
    probes: tuple[str, ...]
    programs: dict[str, int]
    maps: dict[str, int]
    layouts: dict[str, dict[str, Any]]
    compiler: str
    _loader: _Loader

    def attach(self) -> list[int]:
        """Attaches everything, and ends the loader.

        Whoever holds the descriptors that come back keeps the programs attached; the kernel
        detaches them when the last holder is gone, however it went.
        """
        answer = self._loader.ask({"attach": True})
        links = self._loader.receive_fds(answer["links"])
        self._loader.end()
        return links


class _Loader:
    """The child process that compiles, and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (end() closes it)
        self._process = subprocess.Popen(
            _command(theirs.fileno()),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        theirs.close()

    def tell(self, request: dict[str, Any]) -> None:
        """Sends a request; the loader works on it while we do other things."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The answer to the last request; LoadError, the loader ended, if it says failure."""
        line = _read_line(self._socket)
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the compiler died"}
        if "error" in answer:
            error = _load_error(answer, self._log())
            self.end()
            raise error
        return answer

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """tell() and answer()."""
        self.tell(request)
        return self.answer()

    def receive_fds(self, count: int) -> list[int]:
        """The descriptors that follow an answer."""
        fds: list[int] = []
        while len(fds) < count:
            _, more, _, _ = socket.recv_fds(
                self._socket, 1, FDS_PER_MESSAGE, socket.MSG_CMSG_CLOEXEC
            )
            if not more:
                raise LoadError("the compiler died", "try again", self._log())
            fds += more
        return fds

    def end(self) -> None:
        """Ends the process, if it is still there; what was handed over stays."""
        self._socket.close()
        self._errors.close()
        self._process.kill()
        self._process.wait()

    def _log(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()


class Loading:
    """A program that a child process is compiling; other work can go on meanwhile."""

    def __init__(self, request: Request, kernel: Kernel, way: Way) -> None:
        self._request, self._way = request, way
        self._targets = [(p, p.target(kernel) or "") for p in request.probes(way)]
        self._loader = _Loader()
        self._loader.tell(self._question(request.text(kernel, way)))

    def _question(self, text: str) -> dict[str, Any]:
        programs: list[dict[str, str | None]] = [
            {"function": probe.function, "kind": probe.kind, "target": target}
            for probe, target in self._targets
        ]
        programs.append({"function": "flush", "kind": "raw_tp", "target": None})
        maps = ["records", "counts", *self._way.maps]
        maps += ["targets"] if self._request.filter.by_tgid else []
        return {"text": text, "programs": programs, "maps": maps}

    def abandon(self) -> None:
        """Gives up: nothing is left of the child or of what it loaded."""
        self._loader.end()

    def wait(self) -> Loaded:
        """What was loaded. Raises LoadError with the compiler's or verifier's words."""
        answer = self._loader.answer()
        programs, maps = answer["programs"], answer["maps"]
        fds = self._loader.receive_fds(len(programs) + len(maps))
        return Loaded(
            request=self._request,
            way=self._way,
            probes=tuple(f"{probe.kind}:{target}" for probe, target in self._targets),
            programs=dict(zip(programs, fds, strict=False)),
            maps=dict(zip(maps, fds[len(programs) :], strict=True)),
            layouts=answer["layouts"],
            compiler=answer["compiler"],
            _loader=self._loader,
        )


def _load_error(answer: dict[str, Any], log: str) -> LoadError:
    hint = answer.get("hint") or "memtap doctor tells what this kernel allows"
    if answer.get("errno") == errno.EPERM:
        hint = "run it as root; if you are root, memtap doctor tells what forbids it"
    return LoadError(answer["error"], hint, log)


class Attempts:
    """Loads the best way that this kernel lets through, trying each that could work.

    The first is being compiled when this returns; wait() is for the end of it.

    Attributes:
        refused: the better ways that were tried, and why each did not work.
    """

    def __init__(self, request: Request, kernel: Kernel) -> None:
        kernel.require_tracing()
        self._request, self._kernel = request, kernel
        self._ways = request.plan.require(kernel)
        self._loading = Loading(request, kernel, self._ways[0])
        self.refused: list[tuple[Way, LoadError]] = []

    def abandon(self) -> None:
        """Gives up."""
        self._loading.abandon()

    def wait(self) -> Loaded:
        """What was loaded; LoadError if no way could be, which then speaks of the best."""
        for way, following in zip_longest(self._ways, self._ways[1:]):
            try:
                return self._loading.wait()
            except LoadError as error:
                self.refused.append((way, error))
            if following:
                self._loading = Loading(self._request, self._kernel, following)
        raise self.refused[0][1]


def _command(channel: int) -> list[str]:
    """How the loader is started: isolated, so that nothing in the current folder is imported."""
    home = str(Path(memtap.__file__).resolve().parent.parent)
    code = (
        f"import sys; sys.path.append({home!r}); "
        f"from memtap.bpf.loader import main; main({channel})"
    )
    return [sys.executable, "-I", "-c", code]


def _read_line(channel: socket.socket) -> bytes:
    """Up to a newline, which is read byte by byte: descriptors travel with what follows."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = channel.recv(65536, socket.MSG_PEEK)
        if not chunk:
            return line
        end = chunk.find(b"\n") + 1 or len(chunk)
        line += channel.recv(end)
    return line
