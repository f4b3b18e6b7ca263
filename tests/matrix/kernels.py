"""Debian's kernels, fetched as packages and unpacked; apt's own sources are left alone.

A release is asked for by the beginning of its version, because names move with every update.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

import pytest

_DEBIAN, _SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"

# Each kernel, by the beginning of its version, and the suite that has it.
SUITES = {
    "5.10": (_SECURITY, "bullseye-security"),
    "6.1": (_SECURITY, "bookworm-security"),
    "6.12": (_SECURITY, "bookworm-security"),
    "7.2": (_DEBIAN, "sid"),
    "7.3": (_DEBIAN, "trixie-backports"),
}
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_IMAGE = re.compile(r"linux-image-(\d\S*-cloud-amd64)$")

# An own state, lists and cache. sid's lists can be older than they should be in a mirror.
_APT = """
Dir "{home}/";
Dir::State::status "/var/lib/dpkg/status";
Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::parts "-";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
"""


def _run(*command: str | Path, cwd: Path | None = None, apt: Path | None = None) -> str:
    environment = os.environ | ({"APT_CONFIG": str(apt)} if apt else {})
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


class Kernels:
    """Kernels in a folder, each unpacked once for each hash of its packages."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def fetch(self, version: str) -> Path:
        """The newest kernel whose version begins so: a folder with boot or usr in it."""
        release = self._newest(version)
        packages = self._packages(release)
        folder = self._home / f"{release}-{self._hash(packages)}"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._unpack(release, packages, folder)
            (folder / "complete").touch()
        return folder

    @cached_property
    def _config(self) -> Path:
        """The configuration of an apt of our own, its lists up to date."""
        home = self._home / "apt"
        for needed in ("state/lists/partial", "var/lib/apt/lists/partial", "var/cache/apt"):
            (home / needed).mkdir(parents=True, exist_ok=True)
        sources = dict.fromkeys(SUITES.values())
        lines = [f"deb [signed-by={_KEYRING}] {at} {suite} main\n" for at, suite in sources]
        (home / "sources.list").write_text("".join(lines))
        (home / "apt.conf").write_text(_APT.format(home=home))
        self._in_turn("apt-get", "-qq", "update")
        return home / "apt.conf"

    def _apt(self, *command: str, cwd: Path | None = None) -> str:
        """What a command of that apt says."""
        assert self._config
        return self._in_turn(*command, cwd=cwd)

    def _in_turn(self, *command: str, cwd: Path | None = None) -> str:
        """Runs it when no other run is at the lists: apt waits for none."""
        home = self._home / "apt"
        with (home / "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            return _run(*command, cwd=cwd, apt=home / "apt.conf")

    def _newest(self, version: str) -> str:
        """Its release, as uname -r has it. A package can be listed of which the files are gone."""
        names = self._apt("apt-cache", "pkgnames", f"linux-image-{version}.").split()
        releases = [match[1] for match in map(_IMAGE.match, names) if match]
        ordered = sorted(releases, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
        if not ordered:
            pytest.fail(f"no suite of Debian has a kernel {version}", pytrace=False)
        return ordered[-1]

    def _packages(self, release: str) -> list[str]:
        """What a kernel comes in. Newer ones are split, and the image is empty."""
        names = [f"linux-{part}-{release}" for part in ("image", "binary", "modules")]
        known = set(self._apt("apt-cache", "pkgnames", "linux-").split())
        return [name for name in names if name in known]

    def _hash(self, packages: list[str]) -> str:
        """Of the hashes of packages, as apt knows them before they are fetched."""
        lines = self._apt("apt-get", "-qq", "--print-uris", "download", *packages).split()
        hashes = sorted(word for word in lines if word.startswith("SHA256:"))
        assert len(hashes) == len(packages), lines
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]

    def _unpack(self, release: str, packages: list[str], folder: Path) -> None:
        folder.mkdir(parents=True)
        self._apt("apt-get", "-qq", "download", *packages, cwd=folder)
        for package in folder.glob("*.deb"):
            _run("dpkg-deb", "-x", package, folder)
            package.unlink()
        root = folder / "usr" if (folder / "usr/lib/modules").exists() else folder
        _run("depmod", "-b", root, release)


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
