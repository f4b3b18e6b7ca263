"""File systems of their own for tests, in images on the disk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IMAGE_BYTES = 600 << 20
PLENTY = 20 << 30  # the image is sparse, so it takes no room on the disk

# How each is made, by what tests call it.
MAKE = {
    "ext4": ["mkfs.ext4", "-q"],
    "ext4-1k": ["mkfs.ext4", "-q", "-b", "1024"],
    "ext4-inline": ["mkfs.ext4", "-q", "-O", "inline_data"],  # small files in their inodes
    "ext2": ["mkfs.ext2", "-q"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "xfs-16k": ["mkfs.xfs", "-q", "-b", "size=16384"],  # blocks larger than pages
}


def make_image(kind: str, image: Path, size: int) -> None:
    """A file in which there is a file system."""
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.check_call([*MAKE[kind], image])


@contextmanager
def file_system(
    kind: str, folder: Path, size: int = IMAGE_BYTES, options: str = ""
) -> Iterator[Path]:
    """A new file system, mounted with options; skips the test where it cannot be made."""
    name = kind.partition("-")[0]
    if name not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {name}")
    if not shutil.which(MAKE[kind][0]):
        pytest.skip(f"{MAKE[kind][0]} is not installed")
    point = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=folder))
    image = point.with_suffix(".img")
    make_image(kind, image, size)
    with _mounted(image, point, options):
        yield point


@contextmanager
def _mounted(image: Path, point: Path, options: str = "") -> Iterator[None]:
    how = ",".join(filter(None, ("loop", options)))
    subprocess.check_call(["mount", "-o", how, image, point])
    try:
        yield
    finally:
        subprocess.check_call(["umount", "--lazy", point])
        image.unlink()


@contextmanager
def squashfs(files: dict[str, bytes], folder: Path) -> Iterator[Path]:
    """A squashfs of these files, mounted; skips the test where there is none."""
    if "squashfs" not in Path("/proc/filesystems").read_text() or not shutil.which("mksquashfs"):
        pytest.skip("no squashfs")
    source, point = (Path(tempfile.mkdtemp(prefix="squashfs-", dir=folder)) for _ in range(2))
    image = point.with_suffix(".img")
    for name, content in files.items():
        (source / name).write_bytes(content)
    subprocess.check_call(["mksquashfs", source, image, "-quiet"], stdout=subprocess.DEVNULL)
    with _mounted(image, point):
        yield point
    shutil.rmtree(source)
