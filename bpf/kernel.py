"""What the running kernel has, and what it lets us do. It is asked for features, never versions.

Every path starts at `root`, so a test can lay out another kernel's /proc and /sys.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memtap.bpf import trampoline
from memtap.bpf.btf import Btf, vmlinux
from memtap.bpf.errors import MemtapError

# Bits of uapi/linux/capability.h.
CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 19, 21, 38, 39


@dataclass(frozen=True)
class Kernel:
    """The running kernel, as seen under `root`."""

    root: Path = Path("/")

    def _read(self, path: str) -> str:
        """The text of a file below the root, "" if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return ""

    @property
    def release(self) -> str:
        """The release, as `uname -r` prints it."""
        return platform.release()

    @property
    def boot_id(self) -> str:
        """/proc/sys/kernel/random/boot_id: names this boot of this machine."""
        return self._read("proc/sys/kernel/random/boot_id")

    @property
    def lockdown(self) -> str:
        """none, integrity or confidentiality (/sys/kernel/security/lockdown); "" if unknown."""
        chosen = self._read("sys/kernel/security/lockdown").partition("[")[2]
        return chosen.partition("]")[0]

    @property
    def has_btf(self) -> bool:
        """Does the kernel describe its own types (/sys/kernel/btf/vmlinux)?"""
        return (self.root / "sys/kernel/btf/vmlinux").exists()

    @property
    def has_kprobes(self) -> bool:
        """Is there a perf unit for kprobes, that is, CONFIG_KPROBE_EVENTS?"""
        return (self.root / "sys/bus/event_source/devices/kprobe").exists()

    @property
    def has_uprobes(self) -> bool:
        """Is there a perf unit for uprobes, that is, CONFIG_UPROBE_EVENTS?"""
        return (self.root / "sys/bus/event_source/devices/uprobe").exists()

    @cached_property
    def has_trampolines(self) -> bool:
        """Can programs be attached to functions (fentry, fexit)? True if we may not try."""
        return not self.may_trace or (self.has_btf and trampoline.works(self.btf))

    @cached_property
    def is_preemptible(self) -> bool:
        """Can a task be preempted in the kernel? `uname -v` shows how it was built."""
        return "PREEMPT" in platform.version()

    def preempts(self, kind: str) -> bool:
        """Can a task be preempted while a program of that kind runs (Probe.kind)?

        Tracepoints forbade preemption until a46023d5616e, which brought this variable back. An
        earlier variable of this name had readers of one flavor.
        """
        if kind in ("fentry", "fexit"):
            return self.is_preemptible
        readers = self.btf.member("srcu_data", "srcu_reader_flavor")
        allows = readers is not None and self.btf.has_variable("tracepoint_srcu_srcu_data")
        return kind in ("tp_btf", "raw_tp") and self.is_preemptible and allows

    @property
    def has_casts(self) -> bool:
        """Can programs have an address taken for a struct (a35b9af4ec2c)? Only the JIT can."""
        jit = self._read("proc/sys/net/core/bpf_jit_enable").strip()
        return jit != "0" and self.btf.has_function("bpf_rdonly_cast")

    @property
    def has_swap(self) -> bool:
        """Is there any swap space (/proc/swaps has a line besides its heading)?"""
        return len(self._read("proc/swaps").splitlines()) > 1

    @property
    def iterates_tasks(self) -> bool:
        """Can a BPF iterator be asked for one task alone (since f0d74c4da1f0)?"""
        return self.btf.member("bpf_iter_link_info", "task.tid") is not None

    @property
    def tracefs(self) -> Path | None:
        """Where tracefs is mounted and readable, or None."""
        for path in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
            if os.access(self.root / path / "events", os.R_OK):
                return self.root / path
        return None

    @property
    def capabilities(self) -> int:
        """The effective capabilities of this process, a bit each (CapEff in status)."""
        for line in self._read("proc/self/status").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
        return 0

    @property
    def may_trace(self) -> bool:
        """May this process load tracing programs: CAP_SYS_ADMIN, or CAP_BPF with CAP_PERFMON?"""
        may_bpf = self.holds(CAP_BPF) and self.holds(CAP_PERFMON)
        return self.holds(CAP_SYS_ADMIN) or may_bpf

    def holds(self, capability: int) -> bool:
        """Does this process have a capability, by its number?"""
        return bool(self.capabilities >> capability & 1)

    @property
    def numbers_agree(self) -> bool:
        """Does the kernel number processes as we see them: is our PID namespace the first one?

        The inode of the first one is PID_NS_INIT_INO of uapi/linux/nsfs.h.
        """
        try:
            return (self.root / "proc/self/ns/pid").readlink() == Path("pid:[4026531836]")
        except OSError:
            return True

    @property
    def online_cpus(self) -> list[int]:
        """The CPUs that are on, from /sys/devices/system/cpu/online (`0-3,8`)."""
        return parse_cpus(self._read("sys/devices/system/cpu/online"))

    @property
    def possible_cpus(self) -> str:
        """The CPUs that can ever be on, as the kernel writes a list of them (`0-3`)."""
        return self._read("sys/devices/system/cpu/possible")

    @cached_property
    def btf(self) -> Btf:
        """The kernel's types; MemtapError where it has none."""
        return vmlinux()

    @cached_property
    def functions(self) -> frozenset[str]:
        """The names of the kernel's own functions in /proc/kallsyms."""
        lines = self._read("proc/kallsyms").splitlines()
        return frozenset(line.split()[2] for line in lines if line.split()[1] in "tT")

    def require_proc(self) -> None:
        """Raises MemtapError, with what to do, where /proc does not have this process."""
        if not (self.root / "proc/self/status").exists():
            raise MemtapError("/proc is not mounted", "mount -t proc proc /proc")

    def require_tracing(self) -> None:
        """Raises MemtapError, with what to do, unless BPF programs can be loaded at all."""
        self.require_proc()
        if not self.may_trace:
            raise MemtapError("tracing needs root, or CAP_BPF and CAP_PERFMON", "run it with sudo")
        if self.lockdown == "confidentiality":
            raise MemtapError(
                "kernel lockdown is in confidentiality mode, which forbids BPF tracing",
                "boot with lockdown=integrity or without it",
            )
        if not self.numbers_agree:
            raise MemtapError(
                "processes have other numbers here than in the kernel (a PID namespace)",
                "run it in the host's PID namespace, as with docker run --pid=host",
            )
        if not self.has_btf:
            raise MemtapError(
                "this kernel has no BTF (/sys/kernel/btf/vmlinux)",
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            )


def parse_cpus(text: str) -> list[int]:
    """The numbers of a CPU list as the kernel writes it: `0-3,8` is 0, 1, 2, 3, 8."""
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus
