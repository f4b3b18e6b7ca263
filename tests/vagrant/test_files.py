"""What can be known of `vagrant/` without a virtual machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vagrant.machine import HERE, HOME

PAGE = os.sysconf("SC_PAGESIZE")
VAGRANTFILES = [HOME / "vagrant" / "Vagrantfile", HERE / "box.rb"]
SCRIPTS = [
    *(HOME / "vagrant" / name for name in ("demo", "provision.sh")),
    *sorted(HERE.glob("*.sh")),
]


def require(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_and_can_be_run(script: Path) -> None:
    require("shellcheck")
    subprocess.check_call(["shellcheck", script])
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("file", VAGRANTFILES, ids=lambda path: path.name)
def test_vagrantfiles_are_ruby(file: Path) -> None:
    require("ruby")
    subprocess.check_call(["ruby", "-wc", file])


@pytest.mark.parametrize("file", VAGRANTFILES, ids=lambda path: path.name)
def test_vagrantfiles_are_valid(file: Path, tmp_path: Path) -> None:
    require("vagrant")
    folders = {
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
    }
    where = {"VAGRANT_CWD": str(file.parent), "VAGRANT_VAGRANTFILE": file.name}
    # Without its provider, it would not know what to check.
    provider = {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "VAGRANT_CHECKPOINT_DISABLE": "1"}
    environment = os.environ | folders | where | provider
    subprocess.check_call(["vagrant", "validate"], env=environment)


def test_the_demo_says_what_it_did(tmp_path: Path) -> None:
    warnings = ["-Wall", "-Wextra", "-Werror"]
    source = HOME / "vagrant" / "demo.c"
    subprocess.check_call(["cc", "-O1", "-pthread", *warnings, "-o", tmp_path / "demo", source])
    steps = json.loads(subprocess.check_output([tmp_path / "demo"]))
    assert {name: (step["blocks"], step["bytes"]) for name, step in steps.items()} == {
        "small": (1000, 1000),
        "large": (20, 300000),
        "above_edge": (1, 131049),
        "below_edge": (1, 131048),
        "thread": (500, 1000),
    }
    for step in steps.values():
        filled = step["blocks"] * step["bytes"] / PAGE
        assert filled <= step["pages"] <= filled * 1.02 + 2  # malloc's own words, and the ends
        assert step["minor"] >= step["pages"] - 1  # a step may begin on the page where one ended


def test_the_machine_is_brought_up_only_where_it_is_asked_for() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", HERE / "test_vagrant.py"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True)
    assert "no tests collected" in done.stdout
    asked = subprocess.check_output([*command, "-m", "vagrant"], cwd=HOME, text=True)
    assert "test_no_fault_is_missing" in asked
