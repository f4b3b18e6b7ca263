"""How long it takes until probes are attached."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from statistics import median

from tests.bench.harness import (
    HERE,
    MEMTAP,
    NotMeasuredError,
    Row,
    Run,
    pairs,
    show,
    timed,
    workshop,
)

ROUNDS = 10
GOAL = 1 / 5

# The headers that declare most of what pagecache.bpf.c reads of kernel structs.
KERNEL_HEADERS = "".join(f"#include <linux/{name}.h>\n" for name in ("fs", "mm_types", "sched"))
PROBE = ("mm_filemap_delete_from_page_cache", "on_delete")
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


# The same where nothing was compiled before.
FIRST = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /var/cache && exec "$@"', "sh"]
COMMAND = [MEMTAP, "cachetop", "--dry-run"]


def measure() -> list[Row]:
    """`memtap cachetop --dry-run` against the same C compiled by BCC with kernel headers.

    Wall: from exec to the first line of output. memtap says it when all six probes are attached,
    which is later than the first; the peer after one. CPU: user + system, children included, to
    the end of the process.

    The peer is a fresh Python that imports bcc, compiles what `cachetop --dump-c` prints with the
    kernel's headers in place of memtap's, loads one of its programs and attaches it as a raw
    tracepoint, the way BCC can by itself (so the text is told that its pointers are untyped).

    memtap keeps what it compiled; the rows of the first start are without that, and then without
    the kernel headers that a program does not need which finds the members of kernel structs by
    BTF.
    """
    with workshop() as folder:
        tree = kernel_headers(folder)
        text = subprocess.check_output([MEMTAP, "cachetop", "--dump-c"], text=True)
        text = "#define UNTYPED_POINTERS 1\n" + text
        usual, bare = folder / "usual.c", folder / "bare.c"
        usual.write_text(text.replace("#include <linux/types.h>\n", KERNEL_HEADERS))
        bare.write_text(text)
        name = f"BCC, headers of {tree.name}"
        return [
            *against("start", COMMAND, name, peer(usual, tree), GOAL),
            *against("first start", [*FIRST, *COMMAND], name, peer(usual, tree)),
            *against("first start", [*FIRST, *COMMAND], "no linux/fs.h etc.", peer(bare, tree)),
        ]


def peer(text: Path, tree: Path) -> list[str]:
    """A command that compiles a text with BCC and the headers of a tree."""
    program = ["/usr/bin/python3", str(HERE / "stock_bcc.py"), str(text), "--probe", *PROBE]
    return ["env", f"BCC_KERNEL_SOURCE={tree}", *program]


def against(
    what: str, ours: list[str], name: str, theirs: list[str], goal: float | None = None
) -> list[Row]:
    """The rows of one pair."""
    taken: list[tuple[Run, Run]] = pairs(ROUNDS, lambda: timed(ours), lambda: timed(theirs))
    return [
        row(f"{what}, wall", name, [(our.ready_s, their.ready_s) for our, their in taken], goal),
        row(f"{what}, CPU", name, [(our.cpu_s, their.cpu_s) for our, their in taken]),
    ]


def row(what: str, name: str, taken: list[tuple[float, float]], goal: float | None = None) -> Row:
    """Pairs of seconds as a row."""
    ours, theirs = (median(side) for side in zip(*taken, strict=True))
    note = f"{show(ours)} s, {show(theirs)} s"
    return Row(what, name, [our / their for our, their in taken], goal, note=note)


def kernel_headers(folder: Path) -> Path:
    """One tree of headers, as BCC_KERNEL_SOURCE wants it, of this kernel or of any installed.

    Debian keeps what is common to all configurations in another folder (`source`) than what was
    generated (`build`).
    """
    builds = Path("/lib/modules").glob("*/build")
    releases = [build.parent.name for build in builds if (build / "include").exists()]
    if not releases:
        raise NotMeasuredError("apt install linux-headers-amd64")
    here = platform.release()
    release = here if here in releases else max(releases)
    tree = folder / release
    machine = ARCHITECTURES[platform.machine()]
    for part in ("source", "build"):
        for place in ("include", f"arch/{machine}/include"):
            found = Path("/lib/modules", release, part, place)
            if found.exists():
                shutil.copytree(found, tree / place, dirs_exist_ok=True)
    return tree
