"""Stands for bpf/compiler.py in a machine: has the host compile, which is ten times as fast.

Questions and answers are lines of JSON on a port. Who is killed there leaves half a question,
which the next one ends, or an answer that nobody waits for.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time
from pathlib import Path

HEADERS = Path(__file__).resolve().parent
PORT = Path("/dev/compiler")


def ask(text: str) -> tuple[int, str, str]:
    """What the host's compiler.py answers for a text: its status, words and errors."""
    number = hashlib.sha256(text.encode()).hexdigest()
    port = _open()
    with os.fdopen(port, "wb", closefd=False) as to, os.fdopen(port, "rb") as answers:
        to.write(b"\n%s\n" % json.dumps([number, text]).encode())
        to.flush()
        for line in answers:
            if line.startswith(b'["%s"' % number.encode()):
                _, status, answer, errors = json.loads(line)
                return status, answer, errors
    return 1, "", "the host does not answer"


def _open() -> int:
    """The port, which one at a time can have."""
    while True:
        try:
            return os.open(PORT, os.O_RDWR)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(0.05)


def main(_parent: int) -> None:
    """Compiles stdin, and answers on stdout, as compiler.py does."""
    status, answer, errors = ask(sys.stdin.read())
    sys.stderr.write(errors)
    sys.stdout.write(answer)
    sys.exit(status)
