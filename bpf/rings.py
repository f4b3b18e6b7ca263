"""The rings in which records wait to be read, one for each CPU, also for CPUs that come and go.

A perf event dies with its CPU: a CPU that comes back needs a new one. The kernel reports CPUs that
go and come by uevents.
"""

from __future__ import annotations

import ctypes as ct
import errno
import mmap
import os
import re
import select
import socket
from collections.abc import Callable, Iterable, Iterator

from memtap.bpf import libbpf
from memtap.bpf.errors import MemtapError

# 32 MiB hold what one CPU can produce in half a second without a reader; all CPUs together get no
# more than 128 MiB.
RING_BYTES = 32 << 20
RINGS_BYTES = 128 << 20
RING_LEAST_BYTES = 512 << 10

# A process without CAP_IPC_LOCK may lock no more for each CPU than kernel.perf_event_mlock_kb.
_SMALLEST_BYTES = 64 << 10

# Of uapi/linux/netlink.h: the kernel's own messages are of group 1.
_NETLINK_KOBJECT_UEVENT, _OF_THE_KERNEL = 15, 1
_CPU_CHANGED = re.compile(rb"(online|offline)@/devices/system/cpu/cpu(\d+)\0")
_MESSAGE_BYTES = 8192


class Rings:
    """The rings of a map of type BPF_MAP_TYPE_PERF_EVENT_ARRAY.

    Attributes:
        bytes: the size of each ring; less than was asked for where we may not lock so much.
    """

    def __init__(
        self,
        records: int,
        attributes: libbpf.PerfEventAttr,
        size: int,
        on_record: Callable[[int, int, int], int],
    ) -> None:
        """Opens no ring yet.

        Args:
            records: the map's descriptor.
            attributes: of the perf events.
            size: the bytes of each ring; a power of two.
            on_record: called with a context, the place of a CPU, and a record's address.
        """
        self._lib = libbpf.library()
        self._records, self._attributes, self.bytes = records, attributes, size
        self._callback = libbpf.RecordCallback(on_record)
        self._rings: dict[int, int] = {}
        self._dead: set[int] = set()
        self._poll = select.epoll()
        self._uevents = _listen()

    @property
    def readable(self) -> list[int]:
        """Descriptors that become readable when there is something to take, or a CPU has come."""
        return [self._poll.fileno(), *([self._uevents.fileno()] if self._uevents else [])]

    @property
    def cpus(self) -> frozenset[int]:
        """The CPUs that have, or had, a ring."""
        return frozenset(self._rings)

    def open(self, cpus: Iterable[int]) -> None:
        """Gives each of these CPUs a ring unless it has one. Raises MemtapError."""
        for cpu in cpus:
            if cpu not in self._rings and (ring := self._open(cpu)):
                self._rings[cpu] = ring
                self._poll.register(self._lib.perf_buffer__epoll_fd(ring), select.EPOLLIN)

    def _open(self, cpu: int) -> int:
        """A ring, smaller if need be; 0 if the CPU is offline."""
        one = (ct.c_int * 1)(cpu)
        options = libbpf.PerfBufferRawOpts(
            sz=ct.sizeof(libbpf.PerfBufferRawOpts), cpu_cnt=1, cpus=one, map_keys=one
        )
        while True:
            ring = self._lib.perf_buffer__new_raw(
                self._records,
                self.bytes // mmap.PAGESIZE,
                ct.byref(self._attributes),
                self._callback,
                None,
                ct.byref(options),
            )
            error = 0 if ring else ct.get_errno()
            if ring or error == errno.ENODEV:
                return int(ring or 0)
            if error not in (errno.EPERM, errno.ENOMEM) or self.bytes <= _SMALLEST_BYTES:
                raise MemtapError(
                    f"no memory for the event buffers: {os.strerror(error)}",
                    "raise kernel.perf_event_mlock_kb, or run it with CAP_IPC_LOCK",
                )
            self.bytes //= 2

    def renew(self, cpu: int) -> None:
        """Takes what a CPU's dead ring still holds, and gives it a new one."""
        self._dead.discard(cpu)
        ring = self._rings.pop(cpu, 0)
        if ring:
            self._lib.perf_buffer__consume(ring)
            self._lib.perf_buffer__free(ring)
        self.open([cpu])

    def came_online(self) -> set[int]:
        """The CPUs that came online, or came back, since the last time, and need a new ring."""
        cpus: set[int] = set()
        for message in self._heard():
            if found := _CPU_CHANGED.match(message):
                cpu = int(found[2])
                if found[1] == b"offline":
                    self._dead.add(cpu)
                elif cpu in self._dead or cpu not in self._rings:
                    cpus.add(cpu)
        return cpus

    def _heard(self) -> Iterator[bytes]:
        """The kernel's messages. If some did not fit, a dead ring is noticed when it is used."""
        while self._uevents:
            try:
                message, (sender, _) = self._uevents.recvfrom(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue
            if sender == 0:
                yield message

    def consume(self) -> None:
        """Takes what is in the rings, so that they do not overflow."""
        for ring in self._rings.values():
            self._lib.perf_buffer__consume(ring)

    def close(self) -> None:
        """Gives everything back."""
        for ring in self._rings.values():
            self._lib.perf_buffer__free(ring)
        self._rings.clear()
        self._poll.close()
        if self._uevents:
            self._uevents.close()


def _listen() -> socket.socket | None:
    """A socket for the kernel's uevents; None where that is not allowed."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        uevents = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
        uevents.bind((0, _OF_THE_KERNEL))
    except OSError:
        return None
    return uevents


def ring_bytes(cpus: int) -> int:
    """The size of one CPU's ring: a power of two, so that all fit in RINGS_BYTES."""
    share = max(RING_LEAST_BYTES, min(RING_BYTES, RINGS_BYTES // cpus))
    return int(1 << share.bit_length() - 1)
