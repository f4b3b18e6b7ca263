"""Runs tests, and then notes what the kernel has and what `doctor` says of it.

    python -m tests.matrix.inside [--only-tests] ARGUMENT...    (pytest's, as root)

Leaves junit.xml and kernel.json in OUT, and ends as the tests do. Where MEMTAP_COMPILER names a
module, that stands for bpf/compiler.py meanwhile; then BCC must make the same of every report here.
With --only-tests nothing is noted or compiled here, which takes longer than a few tests do.
"""

from __future__ import annotations

import ctypes as ct
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from memtap.bpf import compiler
from memtap.bpf.compiled import Compiled, Compiling
from memtap.bpf.kernel import Kernel
from memtap.tracers.doctor import REPORTS
from tests.features import description

OUT = Path("/run/out")
ONLY_TESTS = "--only-tests"
ADDR_NO_RANDOMIZE = 0x0040000  # sys/personality.h


def main() -> int:
    """The status of the tests, or 1 if there is more amiss."""
    module, arguments = os.environ.get("MEMTAP_COMPILER"), sys.argv[1:]
    if arguments[:1] == [ONLY_TESTS]:
        with stand_in(module) if module else nullcontext():
            return test(arguments[1:])
    if module is None:
        return test_and_note(arguments)
    with stand_in(module):
        status = test_and_note(arguments)
        do_not_randomize_addresses()
        theirs = compiled()
    differs = [name for name, ours in compiled().items() if ours != theirs[name]]
    print("".join(f"{name} is compiled otherwise here\n" for name in differs))
    return status or int(bool(differs))


def test(arguments: list[str]) -> int:
    """The status of the tests."""
    tests = [sys.executable, "-m", "pytest", f"--junitxml={OUT / 'junit.xml'}", *arguments]
    return subprocess.call(tests)


def test_and_note(arguments: list[str]) -> int:
    """The same, and then what the kernel has is noted."""
    status = test(arguments)
    (OUT / "kernel.json").write_text(json.dumps(description(), indent=1) + "\n")
    return status


@contextmanager
def stand_in(module: str) -> Iterator[None]:
    """Has a module stand for bpf/compiler.py."""
    subprocess.run(["mount", "--bind", module, compiler.__file__], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", compiler.__file__], check=True)


def do_not_randomize_addresses() -> None:
    """Of programs started from here on; in emulation the compiler then is translated only once."""
    ct.CDLL(None).personality(ADDR_NO_RANDOMIZE)


def compiled() -> dict[str, Compiled]:
    """What the best variant of each report is compiled to."""
    kernel = Kernel()
    variants = {name: next(request.plan.possible(kernel)) for name, request in REPORTS.items()}
    texts = {name: REPORTS[name].text(kernel, variant) for name, variant in variants.items()}
    return {name: Compiling(text, cache=None).wait() for name, text in texts.items()}


if __name__ == "__main__":
    sys.exit(main())
