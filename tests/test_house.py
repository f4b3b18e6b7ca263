"""Who may import whom: the rooms know no tracer, and nothing imports upwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from memtap.tracers import INSPECTORS, NAMES, load
from tests.mutants import MUTANTS, Mutant

HOME = Path(__file__).resolve().parent.parent
TRACERS = {load(name).plan.name for name in NAMES} | {*INSPECTORS} - {"pmap"}

# What each room may import of memtap, besides itself.
ALLOWED = {
    "bpf": set[str](),
    "tracers/host": {"bpf"},
    "tracers/model": {"bpf", "tracers/host"},
    "tracers/code": {"bpf", "tracers/host", "tracers/model"},
    "tracers/live": {"bpf", "tracers/host", "tracers/model", "tracers/code"},
}
ROOMS = [*ALLOWED, *(f"tracers/{name}" for name in sorted(TRACERS)), "cli"]

# Where a library may be imported, and nowhere else.
ONLY_IN = {
    "bcc": {"bpf/compiler.py"},
    "pyarrow": {"tracers/live/recording.py", "tracers/live/footers.py", "tracers/doctor.py"},
    "elftools": {"tracers/code/symbols.py", "tracers/code/unwind.py", "tracers/malloc/files.py"},
    "pyroute2": {"tracers/live/processes.py", "tracers/live/netlink.py"},
    "click": {path.relative_to(HOME).as_posix() for path in HOME.glob("cli/*.py")},
}


def files(room: str) -> list[Path]:
    return sorted((HOME / room).glob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(path: Path) -> set[str]:
    """The rooms of memtap that a file imports from."""
    found = [name.split(".")[1:] for name in imported(path) if name.startswith("memtap.")]
    return {
        "/".join(parts[:2]) if parts[0] == "tracers" else parts[0]
        for parts in found
        if (HOME / "/".join(parts[:2] if parts[0] == "tracers" else parts[:1])).is_dir()
    }


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_knows_no_tracer_and_nothing_above_it(room: str) -> None:
    for path in files(room):
        assert rooms(path) - {room} <= ALLOWED[room], path


def test_commands_know_no_tracer() -> None:
    known = {f"tracers/{name}" for name in TRACERS}
    for path in files("cli"):
        assert not rooms(path) & known, path


def test_tracers_do_not_know_each_other_but_malloc_its_faults() -> None:
    known = {f"tracers/{name}" for name in TRACERS}
    for name in TRACERS:
        allowed = {f"tracers/{name}"} | ({"tracers/faults"} if name == "malloc" else set())
        for path in files(f"tracers/{name}"):
            assert rooms(path) & known <= allowed, path


def test_nothing_below_commands_imports_them() -> None:
    for room in ROOMS[:-1]:
        for path in files(room):
            assert "cli" not in rooms(path), path


@pytest.mark.parametrize(("library", "where"), ONLY_IN.items(), ids=ONLY_IN)
def test_a_library_is_imported_in_its_own_place(library: str, where: set[str]) -> None:
    for room in [*ROOMS, "tracers"]:
        for path in files(room):
            if library in {name.split(".")[0] for name in imported(path)}:
                assert path.relative_to(HOME).as_posix() in where


def functions(room: str) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in files(room):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_functions_are_no_longer_than_sixty_lines() -> None:
    for room in [*ROOMS, "tracers"]:
        for path, node in functions(room):
            assert node.end_lineno
            assert node.end_lineno - node.lineno < 60, (path, node.name)


def test_half_of_all_functions_have_ten_lines_at_most() -> None:
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for room in [*ROOMS, "tracers"]
        for _, node in functions(room)
    ]
    assert median(lengths) <= 10


def test_public_functions_say_what_they_are_for() -> None:
    for room in [*ROOMS, "tracers"]:
        for path in files(room):
            module = ast.parse(path.read_text())
            classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
            public = [node for node in classes if not node.name.startswith("_")]
            for holder in (module, *public):
                for node in holder.body:
                    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                        assert ast.get_docstring(node), (path, node.name)


def test_nothing_is_mocked() -> None:
    for path in (HOME / "tests").rglob("*.py"):
        assert not any(name.startswith("unittest.mock") for name in imported(path)), path


def test_nothing_compares_versions_of_the_kernel() -> None:
    for path in [*(HOME / "bpf").rglob("*.[ch]"), *(HOME / "bpf").glob("*.py")]:
        tested = [line for line in path.read_text().splitlines() if line.startswith("#if")]
        assert not any("LINUX_VERSION_CODE" in line for line in tested), path
    for room in [*ROOMS, "tracers"]:
        for path in files(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare):
                    assert "release" not in ast.dump(node), (path, node.lineno)


def test_a_foreseen_failure_says_what_to_do() -> None:
    for room in [*ROOMS, "tracers"]:
        for path in files(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MemtapError":
                    assert len(node.args) + len(node.keywords) == 2, (path, node.lineno)


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = {
        path.relative_to(HOME).as_posix().removesuffix(".py").replace("/", "."): path
        for room in [*ROOMS, "tracers"]
        for path in files(room)
    }
    graph = {
        name: {
            other
            for module in imported(path)
            for other in (module.removeprefix("memtap."), module.rpartition(".")[0][7:])
            if other in known and other != name
        }
        for name, path in known.items()
    }
    while graph:  # take away those that import nobody that is left
        done = {name for name, others in graph.items() if not others & graph.keys()}
        assert done, f"a circle among {', '.join(sorted(graph))}"
        graph = {name: others for name, others in graph.items() if name not in done}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_changes_what_is_there(mutant: Mutant) -> None:
    """Or no test can notice it."""
    assert (HOME / mutant.file).read_text().count(mutant.before) == 1
