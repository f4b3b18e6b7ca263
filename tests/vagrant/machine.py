"""A Vagrant machine on any Linux: its box is built here, and its hypervisor lives in namespaces."""

from __future__ import annotations

import configparser
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1]
RECIPE = [HERE / "build_box.sh", HERE / "box.rb"]
LONGEST_S = 1200  # of one step; in emulation, on a busy machine

Steps = dict[str, float]

# All that Vagrant writes is in the memory of the namespaces, see libvirt.sh.
ENVIRONMENT = {
    "VAGRANT_HOME": "/run/vagrant/home",
    "VAGRANT_DOTFILE_PATH": "/run/vagrant/machine",
    "VAGRANT_CWD": str(HOME / "vagrant"),
    "VAGRANT_DEFAULT_PROVIDER": "libvirt",
    "VAGRANT_CHECKPOINT_DISABLE": "1",
    "MEMTAP_BOX": "memtap-test",
    "PYTHON": sys.executable,
}


@contextmanager
def timed(steps: Steps, name: str) -> Iterator[None]:
    """Notes how long a step takes, also if it fails."""
    start = time.monotonic()
    try:
        yield
    finally:
        steps[name] = time.monotonic() - start


def run(*command: str | Path) -> str:
    """What a command prints; its failure is the test's, with all that it said."""
    environment = os.environ | ENVIRONMENT
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST_S, env=environment
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


@dataclass
class Machine:
    """Vagrant's machine in the namespaces of a process.

    Attributes:
        namespaces: that process.
        steps: seconds that each step took.
    """

    namespaces: int
    steps: Steps

    def vagrant(self, *arguments: str | Path, step: str | None = None) -> str:
        """What a command of Vagrant prints."""
        inside = "nsenter", "--target", str(self.namespaces), "--net", "--mount", "--pid", "--"
        with timed(self.steps, step or f"vagrant {arguments[0]}"):
            return run(*inside, "vagrant", *arguments)

    def ssh(self, command: str) -> str:
        """What a command prints in the machine."""
        # A terminal would mix stderr into it.
        return self.vagrant("ssh", "--no-tty", "-c", command, step=f"ssh: {command}")


@contextmanager
def brought_up(steps: Steps, log: Path) -> Iterator[Machine]:
    """Builds the box, brings the machine up, and leaves nothing but the box in the cache."""
    _require_root_on_x86()
    with timed(steps, "install what it takes"):
        run(HERE / "install.sh")
    with timed(steps, "build the box"):
        box = _box()
    with _libvirt(log) as namespaces:
        machine = Machine(namespaces, steps)
        machine.vagrant("box", "add", "--name", ENVIRONMENT["MEMTAP_BOX"], box, step="add the box")
        try:
            machine.vagrant("up")
            yield machine
        finally:
            machine.vagrant("destroy", "-f")


def _require_root_on_x86() -> None:
    if os.geteuid() != 0:
        pytest.fail("the machine needs root: sudo ./bootstrap pytest -m vagrant", pytrace=False)
    if platform.machine() != "x86_64":
        pytest.skip("the box is for x86-64")


def _requirements() -> str:
    """What memtap asks for in setup.cfg, as pip wants it."""
    config = configparser.ConfigParser()
    config.read(HOME / "setup.cfg")
    extras = config["options.extras_require"]
    wanted = config["options"]["install_requires"] + extras["record"] + extras["compat"]
    return "\n".join(line for line in wanted.splitlines() if line and not line.startswith("#"))


def _box() -> Path:
    """The box, built anew only when what goes into it has changed."""
    requirements = _requirements()
    parts = [path.read_bytes() for path in RECIPE]
    recipe = hashlib.sha256(b"\0".join([*parts, requirements.encode()])).hexdigest()
    cache = Path(os.environ.get("MEMTAP_CACHE") or Path("~/.cache/memtap").expanduser())
    box = cache / f"{recipe[:16]}.box"
    if not box.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(requirements + "\n")
            file.flush()
            run(HERE / "build_box.sh", box, file.name)
    return box


@contextmanager
def _libvirt(log: Path) -> Iterator[int]:
    """A libvirtd, for as long as the context lasts; gives the first process of its namespaces."""
    command, pipe = [HERE / "libvirt.sh"], subprocess.PIPE
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as process,
    ):
        assert process.stdin and process.stdout
        if process.stdout.readline() != "ready\n":
            pytest.fail(f"libvirtd did not start:\n{log.read_text()}", pytrace=False)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        try:
            yield int(children)
        finally:
            process.stdin.close()
            process.wait(60)
