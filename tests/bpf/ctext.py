"""What the C sources say: structs, enums and numbers, read with a few regular expressions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from memtap.bpf.source import with_includes

BPF = Path(__file__).resolve().parent.parent.parent / "bpf"

_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


def source(name: str) -> str:
    """The text of a file below bpf/, without its comments."""
    return _without_comments((BPF / name).read_text())


def whole(program: str) -> str:
    """The text of a program with our headers in it, without comments."""
    return _without_comments(with_includes((BPF / f"programs/{program}.bpf.c").read_text()))


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


PROGRAM = source("programs/pagecache.bpf.c")
BATCH = source("include/memtap/batch.h")
LOSSES = source("include/memtap/losses.h")
FILTER = source("include/memtap/filter.h")
NAMES = source("include/memtap/names.h")
CGROUPS = source("include/memtap/cgroups.h")
ARGUMENTS = source("include/memtap/arguments.h")


def number(text: str, name: str) -> int:
    """The value of `#define NAME value`."""
    found = re.search(rf"^#define {name}\s+(\w+)\s*$", text, re.MULTILINE)
    assert found, name
    return int(found[1], 0)


def enumerators(text: str, first: str) -> dict[str, int]:
    """The enum that begins with this enumerator."""
    found = re.search(rf"enum \w*\s*{{\s*({first}\b.*?)}}", text, re.DOTALL)
    assert found, first
    values: dict[str, int] = {}
    for entry in filter(None, (part.strip() for part in found[1].split(","))):
        name, _, value = (part.strip() for part in entry.partition("="))
        values[name] = int(value, 0) if value else max(values.values(), default=-1) + 1
    return values


def members(text: str, struct: str) -> dict[str, int]:
    """The members of a struct of plain numbers, and the size of each."""
    found = re.search(rf"struct {struct} {{(.*?)}};", text, re.DOTALL)
    assert found, struct
    return {name: _SIZES[kind] for kind, name in re.findall(r"(u\d+) (\w+);", found[1])}


def layout(text: str, struct: str) -> dict[str, Any]:
    """What the loader says of a struct: its size, and where its members stand."""
    places, at = [], 0
    for name, size in members(text, struct).items():
        at += -at % size
        places.append((name, at, size))
        at += size
    return {"size": at + -at % max(size for _, _, size in places), "members": places}


LAYOUTS = {
    "batch": layout(BATCH, "batch_head"),
    "event": layout(PROGRAM, "event"),
    "run": layout(PROGRAM, "run"),
    "name": layout(NAMES, "name_head"),
}
