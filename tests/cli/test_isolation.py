"""Nothing of the caller's environment chooses what runs as root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
TOOLS = ("python3", "memtap", "cat", "cksum", "dpkg-query", "flock", "id", "grep", "prlimit")


@pytest.fixture
def lured(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment full of programs and modules that leave a trace, and where they leave it."""
    trace, modules, tools = tmp_path / "trace", tmp_path / "modules", tmp_path / "tools"
    site = tmp_path / "home/.local/lib/python3.{}/site-packages"
    code = "open({!r}, 'a').write(__name__ + ' ')\n"
    versions = [Path(str(site).format(minor)) for minor in range(11, 16)]
    for folder in (modules, *versions):
        folder.mkdir(parents=True)
        for name in ("sitecustomize", "usercustomize", "click", "memtap", "numpy", "wcwidth"):
            (folder / f"{name}.py").write_text(code.format(str(trace)))
    tools.mkdir()
    for name in TOOLS:
        (tools / name).write_text(f"#!/bin/sh\necho {name} >> {trace}\nexit 1\n")
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(modules),
        "PYTHONSTARTUP": str(modules / "click.py"),
        "PYTHONUSERBASE": str(tmp_path / "home/.local"),
        "HOME": str(tmp_path / "home"),
    }
    return os.environ | environment, trace


def test_only_what_is_ours_runs(lured: tuple[dict[str, str], Path], tmp_path: Path) -> None:
    environment, trace = lured
    for arguments in (["--version"], ["pmap", str(os.getpid())], ["ps", "0.1", "1"]):
        command = [HOME / "bootstrap", "memtap", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert not trace.exists(), trace.read_text()


def test_the_lure_works(lured: tuple[dict[str, str], Path]) -> None:
    """Else the other test could not fail."""
    environment, trace = lured
    subprocess.run(["python3", "-c", ""], env=environment)
    subprocess.run(["/usr/bin/python3", "-c", "import click"], env=environment)
    assert set(trace.read_text().split()) >= {"python3", "sitecustomize", "click"}
