"""Debian's packages of any architecture, fetched and unpacked; apt's own sources are left alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import pytest

DEBIAN, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"

Suite = tuple[str, str]

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# An own state, lists and cache, in which nothing is installed. sid's lists can be older than they
# should be in a mirror.
_CONF = """
Dir "{home}/";
Dir::State::status "{home}/status";
Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::parts "-";
APT::Architecture "{debian}";
APT::Architectures {{ "{debian}"; }};
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
APT::Sandbox::User "root";
"""
_FOLDERS = ("state/lists/partial", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial")


def run(*command: str | Path, cwd: Path | None = None, apt: Path | None = None) -> str:
    """What a command printed; a test that needs it fails with its words."""
    environment = os.environ | ({"APT_CONFIG": str(apt)} if apt else {})
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


class Apt:
    """Packages of one architecture, as Debian names it, from these suites."""

    def __init__(self, home: Path, debian: str, suites: Iterable[Suite]) -> None:
        self._home, self._debian = home, debian
        self._suites = dict.fromkeys(suites)

    def names(self, beginning: str) -> list[str]:
        """Of all packages that begin so. One can be listed of which the files are gone."""
        return self._run("apt-cache", "pkgnames", beginning).split()

    def hash(self, packages: Sequence[str]) -> str:
        """Of the hashes of packages, as apt knows them before they are fetched."""
        lines = self._run("apt-get", "-qq", "--print-uris", "download", *packages).split()
        hashes = sorted(word for word in lines if word.startswith("SHA256:"))
        assert len(hashes) == len(packages), lines
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]

    def fetch(self, packages: Sequence[str], folder: Path) -> None:
        """Unpacks these packages into a folder."""
        self._run("apt-get", "-qq", "download", *packages, cwd=folder)
        _unpack_all(folder, folder)

    def fetch_all(self, packages: Sequence[str], folder: Path) -> None:
        """Unpacks these packages, and all that they depend on, into a folder."""
        self._run("apt-get", "-qq", "--yes", "--download-only", "install", *packages)
        _unpack_all(self._home / "var/cache/apt/archives", folder)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        """What a command of that apt says."""
        assert self._config
        return self._in_turn(*command, cwd=cwd)

    def _in_turn(self, *command: str, cwd: Path | None = None) -> str:
        """Runs it when no other run is at the lists: apt waits for none."""
        with (self._home / "turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            return run(*command, cwd=cwd, apt=self._home / "apt.conf")

    @cached_property
    def _config(self) -> Path:
        """The configuration of an apt of our own, its lists up to date."""
        home = self._home
        for needed in _FOLDERS:
            (home / needed).mkdir(parents=True, exist_ok=True)
        lines = [f"deb [signed-by={_KEYRING}] {at} {suite} main\n" for at, suite in self._suites]
        (home / "sources.list").write_text("".join(lines))
        (home / "status").touch()
        (home / "apt.conf").write_text(_CONF.format(home=home, debian=self._debian))
        self._in_turn("apt-get", "-qq", "update")
        return home / "apt.conf"


def _unpack_all(packages: Path, folder: Path) -> None:
    for package in packages.glob("*.deb"):
        unpack(package, folder)
        package.unlink()


def unpack(package: Path, folder: Path) -> None:
    """Unpacks the files of a package; links to folders, as /lib is one, stay what they are."""
    tar = ["tar", "-x", "--keep-directory-symlink", "-C", str(folder)]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
        subprocess.run(tar, stdin=files.stdout, check=True)
    if files.returncode:
        pytest.fail(f"{package} cannot be unpacked", pytrace=False)
