"""Starts memtap for starter.c by forking: in emulation, Python and its imports take seconds.

    starter.py    (as root, until it is killed)

What is forked has imported everything and looked at the kernel's types, and done nothing else.
"""

from __future__ import annotations

import array
import gc
import os
import select
import signal
import socket
import struct
import sys
import traceback
from importlib import import_module
from pkgutil import walk_packages
from typing import NoReturn

SOCKET = "/run/starter"
MOST_BYTES = 1 << 17
STREAMS = 3
# The argument of those that read files for a memtap, instead of all that it has itself.
READER = "--reader"
_LATE = ("elftools.elf.elffile", "numpy.ma", "pyroute2")
_COUNTS = struct.Struct("ii")
_NUMBER = struct.Struct("i")


def import_all() -> None:
    """All but what compiles, which runs in a process of its own; what is imported where it is used,
    by us and by numpy; and the kernel's types.
    """
    import memtap
    from memtap.bpf.kernel import Kernel
    from memtap.tracers.doctor import REPORTS

    for module in walk_packages(memtap.__path__, "memtap."):
        if not module.name.endswith(("__main__", "bpf.compiler")):
            import_module(module.name)
    for name in _LATE:
        import_module(name)
    kernel = Kernel()
    for request in REPORTS.values():
        request.text(kernel, request.plan.variants[0])
    fork_readers()
    gc.freeze()  # or the first collection after a fork would have all of it copied


def fork_readers() -> None:
    """Has memtap start those that read files for it in the same variant."""
    from memtap.tracers.code import aside

    command = [os.environ["MEMTAP_COMMAND"], READER]
    aside.command = lambda: command


def main() -> None:
    """Answers each who connects from a process of its own."""
    import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(SOCKET)
        server.listen(64)
        print("ready", flush=True)
        while True:
            asking, _ = server.accept()
            if os.fork() == 0:
                server.close()
                serve(asking)
            asking.close()


def serve(asking: socket.socket) -> NoReturn:
    """Starts one memtap, says its number and then its status; kills it if nobody wants that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, rights, _, _ = asking.recvmsg(MOST_BYTES, socket.CMSG_SPACE(STREAMS * _NUMBER.size))
    streams = array.array("i", rights[0][2])
    process = os.fork()
    if process == 0:
        asking.close()
        become_memtap(text, streams)
    for stream in streams:
        os.close(stream)
    asking.send(_NUMBER.pack(process))
    ended = os.pidfd_open(process)
    ready, _, _ = select.select([ended, asking], [], [])
    if ended not in ready:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if asking not in ready:
        asking.send(_NUMBER.pack(code if code >= 0 else 128 - code))
    os._exit(0)


def become_memtap(text: bytes, streams: array.array[int]) -> NoReturn:
    """Runs the command line, as a program would that was started so."""
    count, variables = _COUNTS.unpack_from(text)
    words = [word.decode(errors="surrogateescape") for word in text[_COUNTS.size :].split(b"\0")]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(words[count + variables])
    os.environ.clear()
    os.environ.update(word.split("=", 1) for word in words[count : count + variables])
    status = 1
    try:
        if words[0] == READER:
            from memtap.tracers.code.reader import main as memtap
        else:
            from memtap.cli.main import main as memtap
        sys.argv = ["memtap", *words[:count]]
        memtap()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
