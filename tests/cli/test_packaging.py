"""What is packaged, and which part may import which."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent.parent
ROOMS = ("bpf", "tracers", "cli")
MODULES = sorted(path for room in ROOMS for path in (HOME / room).rglob("*.py"))


def listed(section: str, option: str) -> list[str]:
    config = configparser.ConfigParser()
    config.read(HOME / "setup.cfg")
    return config[section][option].split()


def imports(path: Path) -> set[str]:
    """The modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def test_every_folder_with_python_in_it_is_a_package_and_is_listed() -> None:
    folders = {path.parent.relative_to(HOME) for path in MODULES}
    names = {".".join(("memtap", *folder.parts)) for folder in folders}
    assert {"memtap", *names} == set(listed("options", "packages"))
    for folder in folders:
        assert (HOME / folder / "__init__.py").exists()
        assert (HOME / "memtap" / folder).samefile(HOME / folder)


def test_every_c_file_and_header_is_packaged() -> None:
    patterns = listed("options.package_data", "memtap.bpf")
    packaged = {path for pattern in patterns for path in (HOME / "bpf").glob(pattern)}
    assert packaged == {path for path in (HOME / "bpf").rglob("*") if path.suffix in (".c", ".h")}
    assert all(any((HOME / "bpf").glob(pattern)) for pattern in patterns)


@pytest.mark.parametrize(
    ("package", "where"),
    [
        ("bcc", ["bpf/compiler.py"]),
        ("pyroute2", ["tracers/live/processes.py"]),
        ("pyarrow", ["tracers/live/footers.py", "tracers/live/recording.py"]),
    ],
)
def test_a_heavy_package_has_few_importers(package: str, where: list[str]) -> None:
    importers = [path for path in MODULES if package in roots(path)]
    assert importers == [HOME / each for each in where]


@pytest.mark.parametrize(("room", "above"), [("bpf", ("tracers", "cli")), ("tracers", ("cli",))])
def test_nothing_imports_upwards(room: str, above: tuple[str, ...]) -> None:
    for path in (HOME / room).rglob("*.py"):
        upwards = {
            name for name in imports(path) if name.startswith(tuple(f"memtap.{r}" for r in above))
        }
        assert not upwards, path


@pytest.mark.parametrize(
    "module",
    [
        "memtap.cli.main",
        "memtap.cli.command",
        "memtap.tracers.ps.tracer",
        "memtap.cli.doctor",
    ],
)
def test_a_command_line_is_understood_before_anything_heavy_is_imported(module: str) -> None:
    heavy = {"numpy", "polars", "pyroute2", "pyarrow", "bcc"}
    code = f"import sys, {module}, memtap.tracers as t; [*t.every()]; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=HOME).split()
    assert not heavy & set(loaded)
