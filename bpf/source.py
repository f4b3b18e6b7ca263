"""The text that is compiled: defines of this kernel and this run, enums, headers, program."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import IntEnum, IntFlag
from pathlib import Path

from memtap.bpf.btf import Btf, defines

HERE = Path(__file__).resolve().parent

_OUR_INCLUDE = re.compile(r"^#include <(memtap/\w+\.h)>\n", re.MULTILINE)


# Numbers with the same names in a C program and in the Python that reads its events.
Words = type[IntEnum] | type[IntFlag]


def compose(program: str, settings: list[str], btf: Btf, words: Iterable[Words] = ()) -> str:
    """The one text handed to the compiler, all of memtap's includes and defines in it.

    BCC rewrites the use of maps only in the main file, so headers that use maps become part of it.

    Args:
        program: the name of the C file, without `.bpf.c`.
        settings: macros of this run (`NAME value`), which select a variant and a filter.
        btf: where the offsets and sizes of kernel structs come from.
        words: enums that the program uses, and Python has.
    """
    body = with_includes((HERE / "programs" / f"{program}.bpf.c").read_text())
    page_shift = (os.sysconf("SC_PAGESIZE") - 1).bit_length()
    lines = [f"#define {setting}\n" for setting in (*settings, f"PAGE_SHIFT {page_shift}")]
    return "".join(lines) + defines(btf, body) + "".join(map(declaration, words)) + body


def declaration(words: Words) -> str:
    """An enum in C, `enum call_mark` for CallMark, with the first line of its docstring."""
    tag = re.sub(r"(?<!^)(?=[A-Z])", "_", words.__name__).lower()
    about = (words.__doc__ or "").partition("\n")[0]
    members = (f"\t{name} = {member.value},\n" for name, member in words.__members__.items())
    return f"\n/* {about} */\nenum {tag} {{\n{''.join(members)}}};\n"


def with_includes(text: str) -> str:
    """A text with our own includes put in, and their includes; guards let each count once."""
    return _OUR_INCLUDE.sub(
        lambda match: with_includes((HERE / "include" / match[1]).read_text()), text
    )
