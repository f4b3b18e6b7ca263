"""Who: names, users and cgroups of processes, also of those that are gone.

The living are read from /proc when somebody asks. What is gone by then was heard of by netlink:
the proc connector tells of births, new programs and deaths, taskstats gives the last words of
every task. This is the only module that imports pyroute2; it opens and registers the sockets,
and the messages, which can be many, are read here without building an object for each.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memtap.bpf.errors import MemtapError
from memtap.tracers.host import Counters
from memtap.tracers.hostile import printable
from memtap.tracers.noted import ARGUMENT_BYTES, Noted, arguments_text
from memtap.tracers.targets import Targets

if TYPE_CHECKING:
    from memtap.bpf.btf import Btf

# Of uapi/linux/cn_proc.h.
_FORK, _EXEC, _UID, _COMM = 0x1, 0x2, 0x4, 0x200
# A struct proc_event stands behind struct nlmsghdr and struct cn_msg.
_WHAT, _DATA = 36, 52
_FORKED = struct.Struct("=IIII")  # parent's tid and tgid, child's tid and tgid

# Attributes of uapi/linux/taskstats.h.
_NL_HEADERS, _NLA = 20, struct.Struct("=HH")
_TYPE_STATS, _TYPE_AGGR_PID = 3, 4

_RECEIVE_BYTES = 16 << 20
_REMEMBERED = 1 << 16
_SO_RCVBUFFORCE = 33

_OVERFLOW = "process events came too fast to be read: some processes may lack their names"
_COUNTED = ("ac_minflt", "ac_majflt", "read_bytes", "write_bytes", "cpu_run_virtual_total")
_LAST_WORDS = ("ac_comm", "ac_uid", "ac_pid", "ac_tgid")


@dataclass(frozen=True)
class Who:
    """A process. `uid` is -1, and the texts are "?", where nobody can know any more.

    Attributes:
        comm: its name, at most 15 bytes.
        uid, user: the number and name of its real user.
        cgroup: the path of its cgroup, in the hierarchy that memory is accounted by.
        args: its program and arguments; the name in brackets where it has none, as ps(1) does.
    """

    comm: str = "?"
    uid: int = -1
    user: str = "?"
    cgroup: str = "?"
    args: str = "?"


@cache
def user_name(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def read_who(pid: int, root: Path = Path("/")) -> Who | None:
    """A living process, from /proc/PID/status and /proc/PID/cgroup; None if it is gone.

    One that ends has left its cgroup already, so that is "?".
    """
    try:
        status = (root / f"proc/{pid}/status").read_bytes()
        cgroup = (root / f"proc/{pid}/cgroup").read_bytes()
    except OSError:
        return None
    fields = dict(line.partition(b":\t")[::2] for line in status.splitlines())
    uid, name = int(fields[b"Uid"].split()[0]), printable(_unescape_status(fields[b"Name"]))
    path = "?" if fields[b"State"].startswith((b"Z", b"X")) else pick_cgroup(cgroup)
    return Who(name, uid, user_name(uid), path, _read_arguments(root / f"proc/{pid}", name))


def _read_arguments(process: Path, name: str) -> str:
    try:
        with (process / "cmdline").open("rb") as file:
            return arguments_text(file.read(ARGUMENT_BYTES)) or f"[{name}]"
    except OSError:
        return Who.args


def process_of(pid: int) -> int:
    """The process that a process or thread number belongs to; MemtapError if there is none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError as error:
        raise MemtapError(
            f"there is no process {pid}", "ps -e lists those that there are"
        ) from error
    return int(status.partition("\nTgid:")[2].split()[0])


def _unescape_status(name: bytes) -> bytes:
    r"""/proc/PID/status writes a new line in a name as \n, and a backslash as two."""
    return re.sub(rb"\\([n\\])", lambda match: b"\n" if match[1] == b"n" else b"\\", name)


def pick_cgroup(text: bytes) -> str:
    """The cgroup of /proc/PID/cgroup that matters for memory: v1's memory hierarchy, else v2's."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(b":", 2)
        for controller in controllers.split(b","):
            paths[controller] = path
    return printable(paths.get(b"memory", paths.get(b"", b"/")))


def read_parents(root: Path = Path("/")) -> dict[int, int]:
    """The parent of every process, from /proc/PID/stat."""
    parents = {}
    for entry in os.listdir(root / "proc"):
        if entry.isdigit():
            try:
                stat = (root / "proc" / entry / "stat").read_bytes()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rpartition(b")")[2].split()[1])
    return parents


def descendants(pid: int, parents: dict[int, int]) -> set[int]:
    """The children of a process, their children, and so on."""
    found: set[int] = set()
    generation = {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        generation -= found
        found |= generation
    return found


class _Listener:
    """A netlink socket that pyroute2 made and that we read."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self.socket = socket.socket(fileno=os.dup(owner.fileno()))
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        self.overflowed = False

    def messages(self) -> Iterator[bytes]:
        """What has arrived; notes it if the kernel had to drop some."""
        while True:
            try:
                yield self.socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more came than the socket holds
                self.overflowed = True

    def close(self) -> None:
        """Stops listening."""
        self.socket.close()
        self._owner.close()


def _listen_to_births() -> _Listener:
    from pyroute2.netlink.connector.cn_proc import ProcEventSocket

    connector = ProcEventSocket()
    connector.bind()
    connector.control(listen=True)
    return _Listener(connector)


def _listen_to_last_words(cpus: str) -> _Listener:
    from pyroute2.netlink.taskstats import TaskStats

    taskstats = TaskStats()
    taskstats.bind()
    taskstats.register_mask(cpus)
    return _Listener(taskstats)


class Processes:
    """Keeps what can be known of processes that a report may name.

    `more` are counters of struct taskstats that only last words tell: those of targets that ended.

    Attributes:
        notes: what cannot be known on this host.
        targets: the processes whose own counters are wanted.
        children: those of this process, while they live.
        noted: what the kernel notes of processes, once a session has begun.
    """

    def __init__(self, btf: Btf, possible_cpus: str, more: tuple[str, ...] = ()) -> None:
        self.notes: list[str] = []
        self.targets = Targets()
        self.noted: Noted | None = None
        self.children: set[int] = set()
        self._dead_threads: OrderedDict[int, str] = OrderedDict()
        self._living: dict[int, Who] = {}
        self._dead: OrderedDict[int, Who] = OrderedDict()
        self._parents: dict[int, int] = {}
        self._threads: dict[int, int] = {}
        self._counted = (*_COUNTED, *more)
        wanted = (*_LAST_WORDS, *self._counted)
        self._fields = {name: btf.member("taskstats", name) for name in wanted}
        self._births = self._try(_listen_to_births, "proc connector", "short-lived processes")
        self._words = self._try(
            lambda: _listen_to_last_words(possible_cpus), "taskstats", "processes that ended"
        )

    def _try(self, listen: Callable[[], _Listener], name: str, unknown: str) -> _Listener | None:
        try:
            return listen()
        except Exception as error:  # pyroute2 raises its own, OSError, or what asyncio raises
            reason = f"{type(error).__name__}: {error}"
            self.notes.append(f"no {name} ({reason}): {unknown} may lack their names")
            return None

    @property
    def readable(self) -> list[int]:
        """Descriptors that become readable when consume() has something to do."""
        return [listener.socket.fileno() for listener in (self._births, self._words) if listener]

    def consume(self) -> None:
        """Takes in what has happened.

        Last words are received first, but looked at last: so the birth of every task that spoke
        them is known by then.
        """
        words = list(self._words.messages()) if self._words else []
        for message in self._births.messages() if self._births else ():
            self._event(message)
        for message in words:
            self._last_words(message)
        for listener in (self._births, self._words):
            if listener and listener.overflowed and _OVERFLOW not in self.notes:
                self.notes.append(_OVERFLOW)

    def counted(self) -> Counters:
        """The kernel's own counters of all targets, since they became targets."""
        looked = self.targets.look()
        self.consume()
        return self.targets.totals(looked)

    def who(self, tgid: int) -> Who:
        """The process of this number, dead or alive.

        Its cgroup is the one that it is in now, or was in when it ended.
        """
        known = self._living.get(tgid) or read_who(tgid)
        noted = self.noted.cgroup(tgid) if self.noted else None
        if known and known.cgroup != "?":  # neither gone nor about to be
            self._living[tgid] = known
        else:
            known = self._dead.get(tgid) or known or Who()
        return replace(known, cgroup=noted or known.cgroup, args=self._arguments(tgid, known))

    def thread(self, tgid: int, tid: int) -> str:
        """The name of a thread, dead or alive."""
        try:
            comm = Path(f"/proc/{tgid}/task/{tid}/comm").read_bytes()
        except OSError:
            return self._dead_threads.get(tid, Who.comm)
        return printable(comm.removesuffix(b"\n"))

    def _arguments(self, tgid: int, known: Who) -> str:
        """Of whom nobody has seen alive: what was noted, or what its parent had."""
        args = None
        if known.args == Who.args and self.noted:
            args = self.noted.arguments(tgid)
            if args is None and (parent := self._parents.get(tgid)):
                args = self.who(parent).args
        return known.args if args is None else args or f"[{known.comm}]"

    def forget_unwatched(self) -> None:
        """Forgets the living, where nothing would tell us that they changed."""
        if self._births is None or self._births.overflowed:
            self._living.clear()

    def close(self) -> None:
        """Stops listening."""
        for listener in (self._births, self._words):
            if listener:
                listener.close()

    def _event(self, message: bytes) -> None:
        """A struct proc_event of the proc connector."""
        what = int.from_bytes(message[_WHAT : _WHAT + 4], "little")
        tid, tgid, child_tid, child = _FORKED.unpack_from(message.ljust(_DATA + 16, b"\0"), _DATA)
        if what == _FORK and child_tid == child:
            self._born(tgid, child)
        elif what == _FORK and not self._fields["ac_tgid"]:
            self._threads[child_tid] = child
        elif what in (_EXEC, _UID, _COMM) and tid == tgid:
            self._living.pop(tgid, None)

    def _born(self, parent: int, child: int) -> None:
        self._living.pop(child, None)
        self._dead.pop(child, None)
        self._parents[child] = parent
        if parent == os.getpid():
            self.children.add(child)
        else:
            self.children.discard(child)  # the number was one of theirs
        self.targets.forked(parent, child)

    def _last_words(self, message: bytes) -> None:
        """The struct taskstats of a task that ended."""
        stats = _find_stats(message)
        if stats is None:
            return
        tid = self._number(stats, "ac_pid")
        tgid = self._process_of(tid, stats)
        if tgid in self.targets:
            counted: Counters = {name: self._number(stats, name) for name in self._counted}
            self.targets.died(tgid, tid, counted)
        self._dead_threads.pop(tid, None)
        self._dead_threads[tid] = self._comm(stats)
        if len(self._dead_threads) > _REMEMBERED:
            self._dead_threads.popitem(last=False)
        if tid == tgid:
            self._bury(tgid, stats)

    def _process_of(self, tid: int, stats: bytes) -> int:
        """The process of a task; its birth told it, before last words did (0e0af57e0e91)."""
        if self._fields["ac_tgid"]:
            return self._number(stats, "ac_tgid")
        return self._threads.pop(tid, tid)

    def _bury(self, tgid: int, stats: bytes) -> None:
        uid = self._number(stats, "ac_uid")
        known = self._living.pop(tgid, None) or self._dead.pop(tgid, Who())
        self._dead[tgid] = replace(known, comm=self._comm(stats), uid=uid, user=user_name(uid))
        if len(self._dead) > _REMEMBERED:
            self._parents.pop(self._dead.popitem(last=False)[0], None)

    def _comm(self, stats: bytes) -> str:
        return printable(self._bytes(stats, "ac_comm").partition(b"\0")[0])

    def _bytes(self, stats: bytes, name: str) -> bytes:
        place = self._fields[name]
        return stats[place.offset : place.offset + place.size] if place else b""

    def _number(self, stats: bytes, name: str) -> int:
        return int.from_bytes(self._bytes(stats, name), "little")


def _find_stats(message: bytes) -> bytes | None:
    """The struct taskstats in TASKSTATS_TYPE_AGGR_PID of a message, or None if it has none."""
    size, kind = _NLA.unpack_from(message, _NL_HEADERS)
    if kind != _TYPE_AGGR_PID:
        return None
    at, end = _NL_HEADERS + _NLA.size, _NL_HEADERS + size
    while at < end:
        size, kind = _NLA.unpack_from(message, at)
        if kind == _TYPE_STATS:
            return message[at + _NLA.size : at + size]
        at += size + 3 & ~3
    return None
