"""The command `memtap`: finds a command by its name, and says errors in two lines."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from memtap import __version__
from memtap.bpf.errors import MemtapError
from memtap.cli.confined import complain

# Name, and what --help says of it; the module of that name is imported only when it is run.
COMMANDS = {
    "cachestat": "Is the page cache working: hits, misses and dirtied pages of the whole host.",
    "cachetop": "Which process, file, cgroup or user uses and misses the page cache.",
    "faults": "Who faults, where in memory, why, and at what cost.",
    "malloc": "Which way malloc went to the kernel (brk, mmap, arena), and what it cost.",
    "slab": "Which kernel caches, code and processes allocate, waste and keep.",
    "pages": "What the buddy allocator hands out, to whom, and what is left in large blocks.",
    "reclaim": "Who stalls in reclaim, compaction or swap, and what kswapd does.",
    "oom": "Who was killed for lack of memory, why that one, and who is next.",
    "ps": "How much memory every process takes, alone and shared, or took in an interval.",
    "pmap": "What one process has mapped, and what of that is in memory.",
    "doctor": "What this host can trace, how exactly, and what to do for more.",
}


class Commands(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"memtap.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="memtap", message="%(prog)s %(version)s")
def memtap() -> None:
    """Traces the memory of this host: who uses it, what it costs, and how far to believe that.

    \b
    Try:  sudo memtap doctor           what works here
          sudo memtap cachestat 1 5    five looks at the page cache, a second each
          sudo memtap cachetop         the same by process, live
          memtap ps                    what every process takes, alone and shared

    Every report ends with an audit: what was counted, what was lost. MEMTAP COMMAND --help
    explains a command and its columns.
    """


STDERR = 2


def _open_standard_streams() -> None:
    """Opens what we were started without, so that no other descriptor takes its number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or os.fdopen(number, mode)
        for number, stream, mode in (
            (0, sys.stdin, "r"),
            (1, sys.stdout, "w"),
            (2, sys.stderr, "w"),
        )
    )


def main() -> None:
    """Runs memtap; a foreseen failure is two lines on stderr and status 1."""
    _open_standard_streams()
    try:
        memtap(prog_name="memtap")
    except MemtapError as error:
        complain(error)
        sys.exit(1)
