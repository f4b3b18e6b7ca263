"""The first files of a machine: a shell, modules to reach the host's files by, and a job."""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterable
from pathlib import Path

_INIT = Path(__file__).with_name("init.sh")
# What cloud kernels do not have built in. File systems, and zram with a compressor, are for tests.
_MACHINE = ("virtio_pci", "virtio_blk", "virtio_console", "virtiofs", "overlay")
_WANTED = (*_MACHINE, "ext4", "loop", "xfs", "btrfs", "lzo_rle", "zram")

File = tuple[str, int, bytes]


def archive(files: Iterable[File]) -> bytes:
    """A cpio archive (newc) of names, modes and contents."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def initramfs(modules: Path, job: str, busybox: bytes) -> bytes:
    """For a kernel with these modules; `job` is a shell script."""
    folders = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "proc", "sys", "dev", "mods")]
    script, text = stat.S_IFREG | 0o755, stat.S_IFREG | 0o644
    paths = _in_order(modules)
    names = [f"{place:02}-{path.name.removesuffix('.xz')}" for place, path in enumerate(paths)]
    return archive(
        [
            *folders,
            ("bin/busybox", script, busybox),
            ("init", script, _INIT.read_bytes()),
            ("job", script, job.encode()),
            *((f"mods/{n}", text, _module(path)) for n, path in zip(names, paths, strict=True)),
        ]
    )


def _module(path: Path) -> bytes:
    """What busybox's insmod can read."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _in_order(modules: Path) -> list[Path]:
    """Those wanted that are not built in, each after what it needs."""
    needs: dict[str, list[str]] = {}
    named: dict[str, str] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
        named[Path(path).name.partition(".")[0].replace("-", "_")] = path
    wanted = [named[name] for name in _WANTED if name in named]
    order = dict.fromkeys(each for path in wanted for each in [*reversed(needs[path]), path])
    return [modules / path for path in order]
