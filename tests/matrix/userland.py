"""The files of a Debian of another architecture, of which nothing is run here.

Packages are unpacked, not installed: what their scripts would have done and somebody needs, is
done here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from tests.matrix.apt import DEBIAN, SECURITY, Apt, run
from tests.matrix.machine import Machine
from tests.matrix.vm import Host

_SUITES = ((DEBIAN, "bookworm"), (SECURITY, "bookworm-security"))
_PYTHON = "3.11"
_SITE = Path(f"usr/local/lib/python{_PYTHON}/dist-packages")

# First what bootstrap installs, then what is essential anywhere.
_PACKAGES = (
    *("python3", "python3-bpfcc", "libbpf1", "gcc", "libc6-dev", "bpftool", "strace", "procps"),
    *("smem", "libjemalloc2", "libtcmalloc-minimal4"),
    *("base-files", "base-passwd", "bash", "busybox-static", "coreutils", "dash", "findutils"),
    *("grep", "gzip", "hostname", "libc-bin", "mawk", "mount", "sed", "tar", "util-linux"),
)
# As usr-is-merged has them.
_FOLDERS = ("usr/bin", "usr/lib", "usr/sbin")
_EMPTY = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp")
_LINKS = {"usr/bin/cc": "gcc", "usr/bin/awk": "mawk"}
# The C library that wheels were built for: all of these are older than Debian's.
_WHEELS = ("2014", "_2_17", "_2_24", "_2_26", "_2_28", "_2_34")


def userland(home: Path, machine: Machine, checkout: Path) -> Host:
    """The files for a machine, made when they are missing; this checkout is at its own place."""
    root = home / f"userland-{machine.debian}"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        _lay_out(root)
        Apt(home / f"apt-userland-{machine.debian}", machine.debian, _SUITES).fetch_all(
            _PACKAGES, root
        )
        _configure(root)
        _install_wheels(root / _SITE, machine, checkout)
        _compile(root)
        (root / "complete").touch()
    (root / checkout.relative_to("/")).mkdir(parents=True, exist_ok=True)
    return Host(machine, root, (checkout,))


def _lay_out(root: Path) -> None:
    for name in (*_FOLDERS, *_EMPTY):
        (root / name).mkdir(parents=True)
    for name in _FOLDERS:
        (root / Path(name).name).symlink_to(name)
    (root / "tmp").chmod(0o1777)


def _configure(root: Path) -> None:
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    for link, target in _LINKS.items():
        (root / link).symlink_to(target)


def _install_wheels(site: Path, machine: Machine, checkout: Path) -> None:
    """What setup.cfg wants, for the tests."""
    setup = ConfigParser()
    setup.read(checkout / "setup.cfg")
    texts = [setup["options"]["install_requires"]]
    texts += [setup["options.extras_require"][name] for name in ("record", "test")]
    lines = [line for text in texts for line in text.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    platforms = [f"--platform=manylinux{libc}_{machine.name}" for libc in _WHEELS]
    how = (*platforms, f"--python-version={_PYTHON}", "--only-binary=:all:")
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install")
    run(*pip, "--target", site, *how, *wanted)


def _compile(root: Path) -> None:
    """As python3's own script does: emulated, that takes most of a minute at each start."""
    if sys.version_info[:2] != tuple(map(int, _PYTHON.split("."))):
        return
    folders = (f"{root}/usr/lib/python{_PYTHON}", f"{root}/usr/lib/python3")
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(root), "-p", "/", *folders]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # some are of Python 2
