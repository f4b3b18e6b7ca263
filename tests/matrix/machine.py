"""Kinds of machines: what QEMU starts, and whose files it gets to look at."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# By the first bytes of what a kernel is packed with.
_UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=io.BytesIO(packed)).read(),
    b"\xfd7zXZ": lambda packed: lzma.LZMADecompressor().decompress(packed),
    b"\x28\xb5\x2f\xfd": lambda packed: _piped("zstd", packed),
    b"\x02!L\x18": lambda packed: _piped("lz4", packed),
}


@dataclass(frozen=True)
class Machine:
    """A kind of machine.

    Attributes:
        name: of its architecture, as uname -m has it.
        debian: the same, as Debian names it.
        qemu: the package that has QEMU for it.
        hardware: QEMU's program for it, and its options for board and processor.
        console: how the kernel calls the serial line.
        unpacked: makes the kernel itself of an image: in emulation, its own unpacking would take
            seconds.
    """

    name: str
    debian: str
    qemu: str
    hardware: Callable[[], tuple[str, ...]]
    console: str
    unpacked: Callable[[bytes], bytes]


def _x86_kernel(image: bytes) -> bytes:
    """Where it stands in the image is told by its header (Documentation/arch/x86/boot.rst)."""
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    packed = image[(sectors + 1) * 512 + offset :][:length]
    unpack = next(unpack for magic, unpack in _UNPACK.items() if packed.startswith(magic))
    return unpack(packed)


def _piped(program: str, packed: bytes) -> bytes:
    """What a program unpacks; behind the end there stands the size, which it complains of."""
    return subprocess.run([program, "-dc"], input=packed, capture_output=True).stdout


def _x86_hardware() -> tuple[str, ...]:
    """KVM where the CPU can, else emulation: without AVX, which QEMU 7.2 emulates wrongly.

    And in one thread: with two, 6.12 died in the middle of an instruction of __schedule(), perhaps
    one that the other processor was just patching, as tracing has the kernel do.
    """
    board = ("qemu-system-x86_64", "-M", "q35,sata=off,smbus=off,memory-backend=memory")
    flags = Path("/proc/cpuinfo").read_text().split()
    if os.access("/dev/kvm", os.W_OK) and {"vmx", "svm"} & set(flags):
        return (*board, "-accel", "kvm", "-cpu", "host")
    return (*board, "-accel", "tcg,thread=single", "-cpu", "Nehalem")


def _arm64_hardware() -> tuple[str, ...]:
    """Without pointer authentication, which costs most of the time where it is emulated."""
    return (
        *("qemu-system-aarch64", "-M", "virt,gic-version=3,memory-backend=memory"),
        *("-accel", "tcg,thread=multi", "-cpu", "neoverse-n1"),
    )


X86 = Machine("x86_64", "amd64", "qemu-system-x86", _x86_hardware, "ttyS0", _x86_kernel)
ARM64 = Machine("aarch64", "arm64", "qemu-system-arm", _arm64_hardware, "ttyAMA0", bytes)
