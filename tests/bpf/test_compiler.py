"""The compiler where BCC is missing, broken, or something else of that name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent.parent

BPF = "class BPF:\n    def __init__(self, text): raise Exception('no luck with ' + text.decode())\n"


def answer(folder: Path, text: str) -> dict[str, str]:
    """What the compiler says to a text where bcc is found in `folder` and nowhere else."""
    code = (
        f"import sys; sys.path += [{str(folder)!r}, {str(HOME)!r}]; "
        "import os; from memtap.bpf.compiler import main; main(os.getppid())"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (1, "")
    said: dict[str, str] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize(
    ("module", "what", "hint"),
    [
        (None, "BCC's Python binding is not installed", "apt install python3-bpfcc, and use"),
        ("x = 1", "the bcc that Python found is another project", "pip uninstall bcc; apt install"),
        ("import ctypes; ctypes.CDLL('libnone.so')", "BCC's library does not load", "--reinstall"),
        ("from os import none", "BCC's library does not load", "--reinstall"),
        ("x = print.none", "BCC's library does not load", "--reinstall"),
        (
            BPF,
            "BCC could not compile the program (no luck with text)",
            "memtap doctor tells whether the compiler works",
        ),
    ],
)
def test_what_is_wrong_with_bcc_is_said_with_what_to_do(
    module: str | None, what: str, hint: str, tmp_path: Path
) -> None:
    if module is not None:
        (tmp_path / "bcc.py").write_text(module)
    said = answer(tmp_path, "text")
    assert said["error"].startswith(what)
    assert hint in said["hint"]


def test_the_headers_are_ours(tmp_path: Path) -> None:
    code = "import os\nclass BPF:\n    def __init__(self, text):\n        raise Exception("
    (tmp_path / "bcc.py").write_text(code + "os.environ['BCC_KERNEL_SOURCE'])\n")
    said = answer(tmp_path, "")
    assert f"({HOME / 'bpf'})" in said["error"]
    assert (HOME / "bpf/include/linux/types.h").exists()
