"""Compiles what a machine asks for (asking.py)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from memtap.bpf.compiled import compiler_command
from tests.matrix.machine import Machine


@contextmanager
def answering(path: Path, machine: Machine) -> Iterator[None]:
    """Answers the machine that connects to a socket at that path, as long as it likes to ask."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        thread = Thread(target=_serve, args=(server, machine))
        thread.start()
        try:
            yield
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(server: socket.socket, machine: Machine) -> None:
    with suppress(OSError):  # nobody connected, or left before the answer
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as port:
            for line in port:
                with suppress(ValueError):  # the half of a question
                    number, text = json.loads(line)
                    port.write(json.dumps([number, *_compile(text, machine)]).encode() + b"\n")
                    port.flush()


def _compile(text: str, machine: Machine) -> tuple[int, str, str]:
    """Status, words and errors of the compiler; BCC takes ARCH for where the program will run."""
    done = subprocess.run(
        compiler_command(),
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ARCH": machine.debian},
    )
    return done.returncode, done.stdout, done.stderr
