"""A machine with another kernel: QEMU, the host's own files to look at, and a command in it."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.matrix.answering import answering
from tests.matrix.initramfs import initramfs
from tests.matrix.kernels import image_of, modules_of
from tests.matrix.machine import X86, Machine

_VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
_MEMORY = "3G"
_DISK_BYTES = 3 << 30

# No test takes as long as a machine may say nothing, and booting takes seconds.
_BOOT_S, _SILENT_S = 120.0, 360.0

# Huge pages where they are asked for, or nobody could say how many faults there are to be. The
# emulated TSC never lies; but a kernel that is kept waiting doubts it, and changes its clocks.
_PARAMETERS = (
    "panic=-1 mitigations=off no_timer_check tsc=reliable audit=0 delayacct "
    "transparent_hugepage=madvise"
)

# What begins so ends with us, whatever ends us.
_MORTAL = ("setpriv", "--pdeathsig", "KILL")


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        status: of the command; None if the machine was lost: it did not start, died, said nothing
            for minutes, or took too long.
        output: what the command said.
        console: what the kernel said.
    """

    status: int | None
    output: str
    console: str


@dataclass(frozen=True)
class Host:
    """Whose files a machine looks at.

    Attributes:
        machine: which can run them.
        root: the folder where they are.
        added: folders of this host that stand at the same place there.
    """

    machine: Machine = X86
    root: Path = Path("/")
    added: tuple[Path, ...] = ()

    @property
    def busybox(self) -> bytes:
        """Linked statically, for the first files."""
        return (self.root / "bin/busybox").read_bytes()


HOST = Host()


def run(
    kernel: Path, command: list[str], environment: dict[str, str], out: Path, host: Host = HOST
) -> Outcome:
    """Runs a command as root in a machine; files that it leaves in /run/out are put into `out`."""
    machine = host.machine
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        (work / "vmlinux").write_bytes(machine.unpacked(image_of(kernel).read_bytes()))
        first = initramfs(modules_of(kernel), _job(command, environment), host.busybox)
        (work / "initrd").write_bytes(first)
        _make_disk(work / "disk")
        stack.enter_context(_shared(work, host))
        stack.enter_context(answering(work / "compiler", machine))
        status = _boot(work, machine)
        files = work / "files"
        if status is not None and files.stat().st_size:
            subprocess.run(["tar", "-x", "-f", files, "-C", out, "--no-same-owner"], check=True)
        texts = (
            (work / name).read_text(errors="replace") if (work / name).exists() else ""
            for name in ("out", "console")
        )
        return Outcome(status, *texts)


def longest_s() -> float:
    """How long a machine may take."""
    return float(os.environ.get("MEMTAP_MATRIX_S", "900"))


def _job(command: list[str], environment: dict[str, str]) -> str:
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join([*lines, f"cd {shlex.quote(str(Path.cwd()))}", shlex.join(command), ""])


def _make_disk(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_DISK_BYTES)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", path], check=True)


@contextmanager
def _shared(work: Path, host: Host) -> Iterator[None]:
    """The files, bound to a folder where nobody can write, for the machine to look at."""
    root, socket = work / "root", work / "socket"
    root.mkdir()
    share = (
        f"{_binds(host, root)} && exec {_VIRTIOFSD} "
        f"--socket-path={socket} -o source={root} -o sandbox=chroot "
        "-o cache=always -o no_posix_lock -o no_flock -o no_xattr"
    )
    command = [*_MORTAL, "unshare", "--mount", "--propagation", "private", "sh", "-c", share]
    with (work / "virtiofsd").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while not socket.exists():
            if process.poll() is not None:
                pytest.fail((work / "virtiofsd").read_text(), pytrace=False)
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


def _binds(host: Host, root: Path) -> str:
    """Shell commands that put together what the machine sees."""
    places = {host.root: root} | {path: Path(f"{root}{path}") for path in host.added}
    return " && ".join(
        f"mount --bind {at} {to} && mount -o remount,bind,ro {to}" for at, to in places.items()
    )


class _Patience:
    """How long a machine is waited for, by the file of what it says."""

    def __init__(self, said: Path) -> None:
        self._said, self._size = said, 0
        self._began = self._heard = time.monotonic()

    def ends(self) -> bool:
        """Whether it is lost."""
        now = time.monotonic()
        size = self._said.stat().st_size if self._said.exists() else 0
        if size > self._size:
            self._size, self._heard = size, now
        silence = _SILENT_S if size else _BOOT_S
        return now - self._heard > silence or now - self._began > longest_s()


def _boot(work: Path, machine: Machine) -> int | None:
    """The status of the job; None if the machine was lost."""
    patience = _Patience(work / "out")
    with subprocess.Popen(_qemu(work, machine), stdin=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if patience.ends():
                    return None
        finally:
            process.kill()
    lines = (work / "out").read_text(errors="replace").splitlines()
    last = lines[-1].split() if lines else []
    return int(last[1]) if last[:1] == ["status"] else None


def _qemu(work: Path, machine: Machine) -> list[str]:
    return [
        *_MORTAL,
        *machine.hardware(),
        *("-smp", "2", "-m", _MEMORY),
        *("-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(work / "vmlinux"), "-initrd", str(work / "initrd")),
        *("-append", f"console={machine.console} {_PARAMETERS}"),
        *("-serial", f"file:{work / 'console'}"),
        *("-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={work / 'disk'}"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-chardev", f"socket,id=host,path={work / 'socket'}"),
        *("-device", "vhost-user-fs-pci,chardev=host,tag=host,queue-size=1024"),
        *("-device", "virtio-serial-pci,max_ports=4"),
        *_port("socket", work / "compiler"),
        *_port("file", work / "files"),
        *_port("file", work / "out"),
    ]


def _port(kind: str, path: Path) -> list[str]:
    """A port of that file's name: what the machine writes there, goes to it."""
    name = path.name
    chardev = f"{kind},id={name},path={path}"
    return ["-chardev", chardev, "-device", f"virtserialport,chardev={name},name={name}"]
