"""Debian's kernels, fetched as packages and unpacked.

A release is asked for by the beginning of its version, because names move with every update.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.matrix.apt import DEBIAN, SECURITY, Apt, run
from tests.matrix.machine import X86, Machine

# Each kernel, by the beginning of its version, and the suite that has it.
SUITES = {
    "5.10": (SECURITY, "bullseye-security"),
    "6.1": (SECURITY, "bookworm-security"),
    "6.12": (SECURITY, "bookworm-security"),
    "7.2": (DEBIAN, "sid"),
    "7.3": (DEBIAN, "trixie-backports"),
}


class Kernels:
    """Kernels in a folder, each unpacked once for each hash of its packages."""

    def __init__(self, home: Path, machine: Machine = X86) -> None:
        self._home, self._machine = home, machine
        self._apt = Apt(home / f"apt-{machine.debian}", machine.debian, SUITES.values())

    def fetch(self, version: str) -> Path:
        """The newest kernel whose version begins so: a folder with boot or usr in it."""
        release = self._newest(version)
        packages = self._packages(release)
        folder = self._home / f"{release}-{self._apt.hash(packages)}"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._unpack(release, packages, folder)
            (folder / "complete").touch()
        return folder

    def _newest(self, version: str) -> str:
        """Its release, as uname -r has it."""
        image = re.compile(rf"linux-image-(\d\S*-cloud-{self._machine.debian})$")
        names = self._apt.names(f"linux-image-{version}.")
        releases = [match[1] for match in map(image.match, names) if match]
        ordered = sorted(releases, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
        if not ordered:
            pytest.fail(f"no suite of Debian has a kernel {version}", pytrace=False)
        return ordered[-1]

    def _packages(self, release: str) -> list[str]:
        """What a kernel comes in. Newer ones are split, and the image is empty."""
        names = [f"linux-{part}-{release}" for part in ("image", "binary", "modules")]
        known = set(self._apt.names("linux-"))
        return [name for name in names if name in known]

    def _unpack(self, release: str, packages: list[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self._apt.fetch(packages, folder)
        root = folder / "usr" if (folder / "usr/lib/modules").exists() else folder
        run("depmod", "-b", root, release)


def image_of(folder: Path) -> Path:
    """The compressed kernel in a folder that fetch() gave."""
    found = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
    return found[0]


def modules_of(folder: Path) -> Path:
    """Its modules."""
    return next(path.parent for path in folder.glob("**/modules.dep"))


def release_of(folder: Path) -> str:
    """Its release, as uname -r has it."""
    return modules_of(folder).name
