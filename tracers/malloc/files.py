"""Files that a program may have its malloc from, before it runs and while it does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from memtap.tracers.code.mappings import PROT_EXEC, parse_maps, read_maps
from memtap.tracers.code.objects import open_regular
from memtap.tracers.host.hostile import DELETED
from memtap.tracers.malloc.libraries import allocator_of, is_loader

# The offset of each function in a file, by name.
Offsets = dict[str, int]

_LDCONFIG = "/sbin/ldconfig"
_CACHED = re.compile(r"\t(\S+) \([^)]*(?:x86-64|AArch64)[^)]*\) => (\S+)")
_MOST_BYTES = 64 << 20

# The attributes of dynamic tags that name folders.
_FOLDERS = ("runpath", "rpath")


def of_process(tgid: int) -> list[Path]:
    """The files whose code a process has mapped, by paths that we can open. Raises OSError."""
    mapped = parse_maps(read_maps(tgid), tgid)
    code = dict.fromkeys(each.path for each in mapped if each.prot & PROT_EXEC)
    return [as_seen_by(tgid, path) for path in code if path.startswith("/")]


def as_seen_by(tgid: int, path: str) -> Path:
    """A path as a process sees it, as one that we can open."""
    return Path(f"/proc/{tgid}/root{path.removesuffix(DELETED)}")


def of_program(argv: Sequence[str]) -> list[Path]:
    """The files that a program to be run may have its malloc from.

    These are the allocators that are installed on the host, the files that the command names (as
    `env` may, or LD_PRELOAD), and the libraries that those need.
    """
    installed = _installed()
    named = [*_named(argv), *map(Path, re.split(r"[: ]", os.environ.get("LD_PRELOAD", "")))]
    found = dict.fromkeys(path for path in named if path.is_file())
    for path in found.copy():
        found |= dict.fromkeys(_needed(path, installed, set()))
    allocators = [path for path in installed.values() if allocator_of([path]) != "?"]
    return [*found, *map(Path, allocators)]


def _installed() -> dict[str, str]:
    """The libraries that the dynamic loader finds by name."""
    try:
        done = subprocess.run([_LDCONFIG, "-p"], capture_output=True, text=True, check=False)
    except OSError:  # another C library has another loader
        return {}
    found = filter(None, map(_CACHED.fullmatch, done.stdout.splitlines()))
    paths: dict[str, str] = {}
    for line in found:
        paths.setdefault(line[1], line[2])
    return paths


def _named(argv: Sequence[str]) -> Iterator[Path]:
    """Files that a command names: PROGRAM, and files in its arguments or their values."""
    yield Path(shutil.which(argv[0]) or argv[0])
    for argument in argv[1:]:
        for part in re.split(r"[=: ]", argument):
            yield Path(part if "/" in part else shutil.which(part) or part)


def _needed(path: Path, installed: dict[str, str], seen: set[Path]) -> Iterator[Path]:
    """The libraries that a file needs, and those that they need; its interpreter as well."""
    names, folders, interpreter = _dynamic(path)
    places = [*folders, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    for name in names:
        beside = (Path(folder) / name for folder in places if folder)
        found = next((each for each in beside if each.is_file()), Path(installed.get(name, name)))
        if found not in seen and found.is_file():
            seen.add(found)
            yield found
            yield from _needed(found, installed, seen)
    if interpreter and Path(interpreter).is_file():
        yield Path(interpreter)


def _dynamic(path: Path) -> tuple[list[str], list[str], str]:
    """The names of libraries that a file needs, the folders it names for them, its interpreter."""
    from elftools.elf.elffile import ELFFile

    needed: list[str] = []
    folders: list[str] = []
    interpreter = ""
    try:
        with open_regular(path, _is_small) as file:
            elf: Any = ELFFile(file)
            for segment in elf.iter_segments():
                if segment["p_type"] == "PT_INTERP":
                    interpreter = segment.get_interp_name()
                for tag in segment.iter_tags() if segment["p_type"] == "PT_DYNAMIC" else ():
                    needed += [tag.needed] if tag.entry.d_tag == "DT_NEEDED" else []
                    folders += [getattr(tag, name) for name in _FOLDERS if hasattr(tag, name)]
    except Exception:  # no ELF file, or a damaged one: there are too many ways
        return [], [], ""
    beside = ":".join(folders).replace("$ORIGIN", str(path.parent))
    return needed, beside.split(":"), interpreter


def _is_small(status: os.stat_result) -> bool:
    return status.st_size <= _MOST_BYTES


def offsets_in(path: Path, names: Iterable[str]) -> Offsets:
    """The offsets of these functions in a file; none if it has no malloc of its own.

    A dynamic loader has a malloc for itself alone, so it is left out. So are 32-bit programs, which
    pass arguments elsewhere.
    """
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    if is_loader(str(path)) and allocator_of([str(path)]) == "?":
        return {}
    try:
        with open_regular(path, _is_small) as file:
            elf: Any = ELFFile(file)
            tables = [elf.get_section_by_name(name) for name in (".dynsym", ".symtab")]
            known = [each for each in tables if isinstance(each, SymbolTableSection)]
            found = [_functions(elf, each, names) for each in known if elf.elfclass == 64]
    except Exception:  # as above
        return {}
    return next((each for each in found if "malloc" in each), {})


def _functions(elf: Any, table: Any, names: Iterable[str]) -> Offsets:
    offsets: Offsets = {}
    for name in names:
        for symbol in table.get_symbol_by_name(name) or ():
            if symbol["st_shndx"] != "SHN_UNDEF":
                places = elf.address_offsets(symbol["st_value"])
                offsets.update((name, at) for at in islice(places, 1))
    return offsets
