"""Names, users and cgroups of processes, also of those that are gone.

Living processes are read from /proc when they are asked for. Those that are gone by then are known
from netlink: the proc connector reports forks and execs, taskstats gives the exit record of every
task. This is the only module that imports pyroute2; it opens and registers the sockets. There can
be many messages: netlink.py reads them, and they become text only when it is asked for.
"""

from __future__ import annotations

import os
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memtap.bpf.errors import MemtapError
from memtap.tracers.host.counters import Counters
from memtap.tracers.host.hostile import printable
from memtap.tracers.host.patience import patiently
from memtap.tracers.host.procfs import stat_fields, user_name
from memtap.tracers.live.netlink import Listener, Wanted, column
from memtap.tracers.live.noted import ARGUMENT_BYTES, Noted, arguments_text
from memtap.tracers.live.targets import Targets
from memtap.tracers.model.process import UNKNOWN_PROCESS, Process

if TYPE_CHECKING:
    from memtap.bpf.btf import Btf
    from memtap.tracers.live.netlink import Messages

# Of uapi/linux/cn_proc.h.
_FORK, _EXEC, _UID, _COMM = 0x1, 0x2, 0x4, 0x200
# A struct proc_event stands behind struct nlmsghdr and struct cn_msg. Its data begin with a tid and
# a tgid: those of a parent, then of its child; or of the task itself.
_WHAT, _TID, _TGID, _CHILD_TID, _CHILD = 36, 52, 56, 60, 64

# Attributes of uapi/linux/taskstats.h. It stands behind struct nlmsghdr and genlmsghdr, a number
# and perhaps padding.
_NL_HEADERS, _NLA, _STATS_BY = 20, struct.Struct("=HH"), 64
_TYPE_STATS, _TYPE_AGGR_PID = 3, 4

# How many ended processes are remembered during an interval, and after it.
_REMEMBERED, _LASTING = 1 << 16, 1 << 14

_OVERFLOW = "process events came too fast to be read: some processes may lack their names"
_COUNTED = ("ac_minflt", "ac_majflt", "read_bytes", "write_bytes", "cpu_run_virtual_total")
_LAST_WORDS = ("ac_pid", "ac_tgid", "ac_uid", "ac_comm")


def read_process(pid: int, root: Path = Path("/")) -> Process | None:
    """A living process, from /proc/PID/status and /proc/PID/cgroup; None if it is gone.

    A process that is exiting has left its cgroup already, so that is "?".
    """
    try:
        status = (root / f"proc/{pid}/status").read_bytes()
        cgroup = (root / f"proc/{pid}/cgroup").read_bytes()
    except OSError:
        return None
    fields = dict(line.partition(b":\t")[::2] for line in status.splitlines())
    uid, name = int(fields[b"Uid"].split()[0]), printable(_unescape_status(fields[b"Name"]))
    path = "?" if fields[b"State"].startswith((b"Z", b"X")) else pick_cgroup(cgroup)
    return Process(name, uid, user_name(uid), path, read_arguments(root / f"proc/{pid}", name))


def read_arguments(process: Path, name: str) -> str:
    """The command line of the process with this folder; its name in brackets if it has none."""

    def read() -> bytes:
        with (process / "cmdline").open("rb") as file:
            return file.read(ARGUMENT_BYTES)

    try:
        return arguments_text(patiently(int(process.name), read)) or f"[{name}]"
    except OSError:
        return Process.args


def _is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")  # noqa: PTH110 (it is asked of thousands)


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
    """The cgroup that accounts memory, from /proc/PID/cgroup: v1's memory controller, or v2's."""
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
            parents[int(entry)] = int(stat_fields(stat)[1])
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


class _Dead(NamedTuple):
    """A process that ended.

    Attributes:
        known: what was known of it when it was alive.
        comm, uid: its name and user, as its exit record had them.
    """

    known: Process | None
    comm: bytes
    uid: int

    def process(self) -> Process:
        known = self.known or UNKNOWN_PROCESS
        return Process(_name(self.comm), self.uid, user_name(self.uid), known.cgroup, known.args)


def _name(comm: bytes) -> str:
    return printable(comm.partition(b"\0")[0])


def _listen_to_births(with_threads: bool) -> Listener:
    """The proc connector, which reports much more than is wanted."""
    from pyroute2.netlink.connector.cn_proc import ProcEventSocket

    connector = ProcEventSocket()
    connector.bind()
    connector.control(listen=True)  # waits for an answer, which the filter would drop
    listener = Listener(connector, _CHILD + 4)
    listener.want(_wanted(with_threads))
    return listener


def _wanted(with_threads: bool) -> list[Wanted]:
    """Forks, and the events of main threads: other threads do not change a process."""
    births = Wanted(_WHAT, _FORK, _CHILD_TID, _CHILD_TID if with_threads else _CHILD)
    return [births, *(Wanted(_WHAT, what, _TID, _TGID) for what in (_EXEC, _UID, _COMM))]


def _listen_to_exit_records(cpus: str, size: int) -> Listener:
    from pyroute2.netlink.taskstats import TaskStats

    taskstats = TaskStats()
    taskstats.bind()
    taskstats.register_mask(cpus)
    return Listener(taskstats, _STATS_BY + size)


class Processes:
    """Keeps what is known of processes that a report may name.

    `more` are counters of struct taskstats that are read from targets' exit records.

    Attributes:
        notes: what cannot be known on this host.
        targets: the processes whose own counters are wanted.
        children: those of this process that are alive.
        births: how many forks and execs have been reported so far.
        noted: what our BPF programs note of processes, once a session has begun.
    """

    def __init__(self, btf: Btf, possible_cpus: str, more: tuple[str, ...] = ()) -> None:
        self.notes: list[str] = []
        self.targets = Targets()
        self.noted: Noted | None = None
        self.births = self._births_settled = 0
        self.children: set[int] = set()
        self._dead_threads: OrderedDict[int, bytes] = OrderedDict()
        self._living: dict[int, Process] = {}
        self._dead: OrderedDict[int, _Dead] = OrderedDict()
        self._parents: dict[int, int] = {}
        self._births_of: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._threads: dict[int, int] = {}
        self._counted = (*_COUNTED, *more)
        wanted = (*_LAST_WORDS, *self._counted)
        self._fields = {name: btf.member("taskstats", name) for name in wanted}
        self._births = self._try(
            lambda: _listen_to_births(with_threads=not self._fields["ac_tgid"]),
            "proc connector",
            "short-lived processes",
        )
        size = max(place.offset + place.size for place in self._fields.values() if place)
        self._exits = self._try(
            lambda: _listen_to_exit_records(possible_cpus, size),
            "taskstats",
            "processes that ended",
        )

    def _try(self, listen: Callable[[], Listener], name: str, unknown: str) -> Listener | None:
        try:
            return listen()
        except Exception as error:  # of pyroute2, asyncio or the system: there are too many kinds
            reason = f"{type(error).__name__}: {error}"
            self.notes.append(f"no {name} ({reason}): {unknown} may lack their names")
            return None

    @property
    def readable(self) -> list[int]:
        """Descriptors that become readable when consume() has something to do."""
        return [listener.fileno() for listener in (self._births, self._exits) if listener]

    def consume(self) -> None:
        """Reads the messages that have come.

        Exit records are received first, but processed last: so the fork of every task that has one
        is known by then.
        """
        exits = [part.copy() for part in self._exits.messages()] if self._exits else []
        for part in self._births.messages() if self._births else ():
            self._events(part)
        for part in exits:
            self._exit_records(part)
        for listener in (self._births, self._exits):
            if listener and listener.overflowed and _OVERFLOW not in self.notes:
                self.notes.append(_OVERFLOW)

    def counted(self) -> Counters:
        """The kernel's own counters of all targets, since they became targets."""
        looked = self.targets.look()
        self.consume()
        return self.targets.totals(looked)

    def known(self, tgid: int) -> Process:
        """The process of this number, dead or alive.

        Its cgroup is the one that it is in now, or was in when it ended.
        """
        known, noted = self._known(tgid), self.noted.cgroup(tgid) if self.noted else None
        cgroup, args = noted or known.cgroup, self._arguments(tgid, known)
        if (cgroup, args) == (known.cgroup, known.args):
            return known
        return Process(known.comm, known.uid, known.user, cgroup, args)

    def _known(self, tgid: int) -> Process:
        dead = self._dead.get(tgid)
        known = self._living.get(tgid) or (None if dead and _is_gone(tgid) else read_process(tgid))
        if known and known.cgroup != "?":  # neither gone nor about to be
            self._living[tgid] = known
            return known
        return dead.process() if dead else known or UNKNOWN_PROCESS

    def thread(self, tgid: int, tid: int) -> str:
        """The name of a thread, dead or alive."""
        try:
            comm = Path(f"/proc/{tgid}/task/{tid}/comm").read_bytes()
        except OSError:
            dead = self._dead_threads.get(tid)
            return Process.comm if dead is None else _name(dead)
        return printable(comm.removesuffix(b"\n"))

    def _arguments(self, tgid: int, known: Process) -> str:
        """Its arguments; if it was never seen alive, those that were noted, or its parent's."""
        args = None
        if known.args == Process.args and self.noted:
            args = self.noted.arguments(tgid)
            if args is None and (parent := self._parents.get(tgid)):
                args = self._arguments(parent, self._known(parent))
        return known.args if args is None else args or f"[{known.comm}]"

    def forget_unwatched(self) -> None:
        """Forgets living processes, if no message would report that they changed."""
        if self._births is None or self._births.overflowed:
            self._living.clear()

    def settle(self) -> None:
        """Ends an interval: only the latest ends, and the births in it, may still be asked for."""
        self._keep(_LASTING)
        self._keep_births_since(self._births_settled)
        self._births_settled = self.births

    def _keep(self, most: int) -> None:
        """Keeps only this many of the processes that ended last."""
        while len(self._dead) > most:
            self._parents.pop(self._dead.popitem(last=False)[0], None)
        while len(self._dead_threads) > most:
            self._dead_threads.popitem(last=False)

    def _keep_births_since(self, birth: int) -> None:
        """Forgets process numbers that were given before this birth, and not again since."""
        while self._births_of and next(iter(self._births_of.values()))[1] <= birth:
            self._births_of.popitem(last=False)

    def close(self) -> None:
        """Stops listening."""
        for listener in (self._births, self._exits):
            if listener:
                listener.close()

    def _events(self, messages: Messages) -> None:
        """Handles messages that are each a struct proc_event of the proc connector."""
        places = (_WHAT, _TID, _TGID, _CHILD_TID, _CHILD)
        columns = (column(messages, place, "u4") for place in places)
        for what, tid, tgid, child_tid, child in zip(*columns, strict=True):
            if what != _FORK and tid == tgid:
                self._living.pop(tgid, None)
            elif what == _FORK and child_tid == child:
                self._born(tgid, child)
            elif what == _FORK:
                self._threads[child_tid] = child

    def births_of(self, tgid: int) -> tuple[int, int]:
        """The last two births of this process number, counted among all births; 0 for none."""
        return self._births_of.get(tgid, (0, 0))

    def _born(self, parent: int, child: int) -> None:
        self._living.pop(child, None)
        self._dead.pop(child, None)
        self._parents[child] = parent
        self.births += 1
        _, before = self._births_of.pop(child, (0, 0))
        self._births_of[child] = before, self.births
        if len(self._births_of) > _REMEMBERED:
            self._births_of.popitem(last=False)
        if parent == os.getpid():
            self.children.add(child)
        else:
            self.children.discard(child)  # the number was that of one of our children
        self.targets.forked(parent, child)

    def _exit_records(self, messages: Messages) -> None:
        """Handles messages, each with the struct taskstats of a task that ended, or an error."""
        messages = messages[messages[:, _NL_HEADERS + 2] == _TYPE_AGGR_PID]
        if len(messages) == 0:
            return
        tids, tgids, uids, names = (self._column(messages, name) for name in _LAST_WORDS)
        if not self._fields["ac_tgid"]:  # before 0e0af57e0e91 only forks report the tgid
            tgids = [self._threads.pop(tid, tid) for tid in tids]
        for place, (tid, tgid, uid, comm) in enumerate(zip(tids, tgids, uids, names, strict=True)):
            if tgid in self.targets:
                last = messages[place : place + 1]
                self.targets.died(tgid, tid, {n: self._column(last, n)[0] for n in self._counted})
            self._dead_threads.pop(tid, None)
            self._dead_threads[tid] = comm
            if tid == tgid:
                self._bury(tgid, comm, uid)
        self._keep(_REMEMBERED)

    def _bury(self, tgid: int, comm: bytes, uid: int) -> None:
        before = self._dead.pop(tgid, None)
        known = self._living.pop(tgid, None) or (before and before.known)
        self._dead[tgid] = _Dead(known, comm, uid)

    def _column(self, messages: Messages, name: str) -> list[Any]:
        """A member of struct taskstats in each message; 0 where this kernel has no such member."""
        place = self._fields[name]
        if place is None:
            return [0] * len(messages)
        kind = f"S{place.size}" if name == "ac_comm" else f"u{place.size}"
        return column(messages, _stats_at(messages[0].tobytes()) + place.offset, kind)


def _stats_at(message: bytes) -> int:
    """Where struct taskstats stands in messages of this kernel, in TASKSTATS_TYPE_AGGR_PID."""
    at, kind = _NL_HEADERS + _NLA.size, 0
    while kind != _TYPE_STATS:
        size, kind = _NLA.unpack_from(message, at)
        at += _NLA.size if kind == _TYPE_STATS else size + 3 & ~3
    return at
