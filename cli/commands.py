"""The commands by their names, and the error for a name that no command has."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

import click

from memtap import __version__
from memtap.tracers import INSPECTORS, NAMES, declared, every_declared

# Commands that no tracer or inspector declares, with a module each in cli/: name and summary.
_OWN = {
    "run": "What a program does with memory: several of these reports out of one run.",
    "doctor": "What this host can trace, how exactly, and what to do for more.",
    "schema": "What is in the JSON of a report: its JSON Schema.",
}
COMMANDS = (*NAMES, "run", *INSPECTORS, "doctor", "schema")

# Other tools that people know, and the command of memtap that does their work.
PEERS = {
    "memleak": "slab --leaks",
    "oomkill": "oom",
    "slabratetop": "slab",
    "slabtop": "slab",
    "drsnoop": "reclaim",
    "compactsnoop": "reclaim",
    "vmscan": "reclaim",
    "swapin": "reclaim",
    "brkstack": "malloc --timeline",
    "mallocstacks": "malloc -b site",
    "pgfault": "faults",
    "buddyinfo": "pages",
    "smem": "ps",
    "top": "ps",
    "htop": "ps",
}


class Commands(click.Group):
    """A group of commands; each is made only when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of COMMANDS."""
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in _OWN:
            command: click.Command = import_module(f"memtap.cli.{cmd_name}").command
            return command
        from memtap.cli.command import command_of

        return command_of(declared(cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of this name; an unknown name is a usage error with what may be meant."""
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"No such command {name!r}.{_meant(name)}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(summaries().items()))


def summaries() -> dict[str, str]:
    """What each command is for, in the order of COMMANDS."""
    said = {each.name: each.summary for each in every_declared()} | _OWN
    return {name: said[name] for name in COMMANDS}


def _meant(name: str) -> str:
    """A sentence that says which command may be meant, to stand behind another sentence."""
    known = name.lower().removesuffix("-bpfcc").removesuffix(".bt").removesuffix(".py")
    if known in PEERS:
        return f" Its work is done by 'memtap {PEERS[known]}'."
    near = get_close_matches(known, [*COMMANDS, *PEERS], 1)
    if near:
        return f" Did you mean 'memtap {PEERS.get(near[0], near[0])}'?"
    return f" There are {', '.join(COMMANDS)}."


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="memtap", message="%(prog)s %(version)s")
def memtap() -> None:
    """Traces the memory of this host: who uses it, what it costs, and how far to believe that.

    \b
    Try:  sudo memtap doctor           what works here
          sudo memtap cachestat 1 5    five looks at the page cache, a second each
          sudo memtap cachetop         the same by process, live
          memtap ps                    what every process takes, alone and shared

    A report that is not exact says so below its rows; with -v each says what was counted, what
    was lost, and what cannot be seen here. `memtap COMMAND --help` explains a command and its
    columns.
    """
