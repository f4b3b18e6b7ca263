"""The project in a machine: what it needs there, and how its programs are started."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tests.matrix.kernels import Kernels
from tests.matrix.machine import X86, Machine
from tests.matrix.userland import userland
from tests.matrix.vm import HOST, Host, Outcome, run

HERE = Path(__file__).resolve().parent
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CACHE = Path(os.environ.get("MEMTAP_CACHE") or Path("~/.cache/memtap").expanduser()) / "matrix"


def kernels(machine: Machine = X86) -> Kernels:
    """Kernels, and what machines for them take. Raises CalledProcessError."""
    install = [HERE / "install.sh", machine.qemu]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    return Kernels(CACHE, machine)


def run_in(kernel: Path, out: Path, command: list[str], **variables: str) -> Outcome:
    """Runs a program of the project's environment in a machine, with more variables for it.

    With what takes the place of memtap there (starter.c) in MEMTAP_COMMAND.
    """
    ours = {"PYTHONPATH": f"{Path.cwd()}:{_compat()}", "MEMTAP_COMMAND": str(_starter())}
    return _run_in(kernel, HOST, sys.executable, out, command, ours | variables)


def run_in_foreign(
    machine: Machine, kernel: Path, out: Path, command: list[str], **variables: str
) -> Outcome:
    """The same in a machine of another kind, with files of Debian's that it can run."""
    host = userland(CACHE, machine, Path.cwd())
    # The starter is compiled there.
    ours = {"PYTHONPATH": str(Path.cwd()), "MEMTAP_COMMAND": "/var/tmp/starter", "PATH": _PATH}
    return _run_in(kernel, host, "/usr/bin/python3", out, command, ours | variables)


def _run_in(
    kernel: Path, host: Host, python: str, out: Path, command: list[str], variables: dict[str, str]
) -> Outcome:
    words = [str(HERE / "tests.sh"), python, python, *command]
    return run(kernel, words, _environment() | variables, out, host)


def _environment() -> dict[str, str]:
    """A missing prerequisite is an error there, never a skip.

    MEMTAP_COMPILER is what takes the place of what compiles there (asking.py).
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/root",
        "TMPDIR": "/var/tmp",
        "PYTHONUNBUFFERED": "1",
        "MEMTAP_LIVE": "require",
        "MEMTAP_CACHE": "/var/tmp/memtap",
        "MEMTAP_COMPILER": str(HERE / "asking.py"),
    }


def _compat() -> Path:
    """Where polars is for a CPU without AVX, which the emulated one is."""
    version = metadata.version("polars")
    folder = CACHE / f"polars-{version}"
    if not folder.exists():
        wanted = f"polars-runtime-compat=={version}"
        pip = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", folder]
        subprocess.run([*pip, wanted], check=True)
    return folder


def _starter() -> Path:
    """What stands for memtap there."""
    program, source = CACHE / "starter", HERE / "starter.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        CACHE.mkdir(parents=True, exist_ok=True)
        warnings = ["-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", "-O1", *warnings, "-o", program, source], check=True)
    return program
