"""Runs memtap many times: what it imports is imported once, and each run is a fork of that.

Lines of JSON in, the arguments of memtap; lines of JSON out, how it ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from importlib import import_module
from pkgutil import walk_packages
from typing import IO, Any, NoReturn

from memtap import tracers

_HANG_S = 120
_MOST_ERRORS, _MOST_OUT = 4000, 1 << 30


# None of it starts a thread before it is used.
_IMPORTED = (
    *("cli.main", "cli.command", "cli.output", "cli.screen", "cli.flame"),
    "tracers.live.recording",
)


def main() -> None:
    for name in _IMPORTED:
        import_module(f"memtap.{name}")
    for module in walk_packages(tracers.__path__, "memtap.tracers."):
        import_module(module.name)
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    for line in sys.stdin:
        for file in (out, err):
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
        print(json.dumps(_run(json.loads(line), out, err)), flush=True)


def _run(arguments: list[str], out: int, err: int) -> dict[str, Any]:
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _memtap(arguments, out, err)
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > began + _HANG_S:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.002)
    return {
        "status": os.waitstatus_to_exitcode(ended[1]),
        "mib": ended[2].ru_maxrss >> 10,
        "seconds": round(time.monotonic() - began, 1),
        "out": _read(out),
        "err": _read(err),
    }


def _read(file: int) -> str:
    return os.pread(file, _MOST_ERRORS, 0).decode(errors="replace")


def _memtap(arguments: list[str], out: int, err: int) -> NoReturn:
    status: Any = 99
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_OUT, _MOST_OUT))
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = _stream(1), _stream(2)
        sys.argv = ["memtap", *arguments]
        from memtap.cli.main import main as memtap

        try:
            memtap()
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status if isinstance(status, int) else status is not None)


def _stream(number: int) -> IO[str]:
    return os.fdopen(number, "w")


if __name__ == "__main__":
    main()
