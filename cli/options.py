"""The options that every tracing command has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from memtap.tracers.report import Column

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

DEFAULT_INTERVAL_S = 1.0
LONGEST_INTERVAL_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Shown:
    """How the user wants to see reports; see SHOWING for what the fields mean."""

    format: str
    output: Path | None
    timestamp: bool
    wide: bool
    verbose: bool


@dataclass(frozen=True)
class Options(Shown):
    """What the user asked for; see `shared` for what the fields mean."""

    interval: float | None
    count: int | None
    program: tuple[str, ...]
    pids: tuple[int, ...]
    comms: tuple[str, ...]
    cgroups: tuple[str, ...]
    follow: bool
    sort: str | None
    rows: int | None
    by: tuple[str, ...]
    record: Path | None
    replay: str | None
    trust: bool
    batch: bool
    hist: bool
    explain: bool
    timeline: bool
    uprobes: bool
    heap: bool
    scores: bool
    leaks: bool
    stacks: bool
    folded: Path | None
    flame: Path | None
    dump_c: bool
    dry_run: bool


class TracingCommand(click.Command):
    """A command whose arguments end at `--`; what follows is a program to run and trace."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Splits at `--`, so that PROGRAM is never taken for an INTERVAL."""
        at = args.index("--") if "--" in args else len(args)
        ctx.params["program"] = tuple(args[at + 1 :])
        if at == len(args) - 1 and not ctx.resilient_parsing:
            raise click.UsageError("-- wants a PROGRAM after it", ctx)
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage line, with what `--` is for."""
        return [*super().collect_usage_pieces(ctx), "[-- PROGRAM ARG...]"]


def seconds(text: str) -> float:
    """A number of seconds, more than none and at most a week, or a usage error."""
    try:
        number = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number of seconds") from None
    if not 0 < number <= LONGEST_INTERVAL_S:
        raise click.BadParameter(f"{text} seconds is no interval between 0 and a week")
    return number


def keys_out_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Makes what turns `KEY,KEY` into keys, each once, or into a usage error that lists them."""

    def keys(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(text.split(",")))
        for key in chosen:
            if key not in known:
                raise click.BadParameter(f"{key!r} is none of {', '.join(known)}")
        return chosen

    return keys


_FILE = click.Path(path_type=Path)

INTERVAL_AND_COUNT: list[Decorator] = [
    click.argument("interval", type=seconds, required=False),
    click.argument("count", type=click.IntRange(min=1), required=False),
]


def pid_option(whom: str) -> Decorator:
    """Which processes, by their numbers."""
    return click.option(
        "-p",
        "--pid",
        "pids",
        type=click.IntRange(min=1),
        multiple=True,
        metavar="PID",
        help=f"Only {whom}. Repeatable.",
    )


comm_option = click.option(
    "-c",
    "--comm",
    "comms",
    multiple=True,
    metavar="NAME",
    help="Only processes of exactly this name. Repeatable.",
)
_WHOSE: list[Decorator] = [
    pid_option("this process and its children"),
    comm_option,
    click.option(
        "--cgroup",
        "cgroups",
        multiple=True,
        metavar="PATH",
        help="Only processes in this cgroup, v1 or v2, or below it. Repeatable.",
    ),
    click.option(
        "--follow/--no-follow",
        default=True,
        help="Whether children of traced processes are traced too. They are by default.",
    ),
]
format_option = click.option(
    "-f",
    "--format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="JSON is one object per report and line.",
)
output_option = click.option(
    "-o",
    "--output",
    type=_FILE,
    metavar="FILE",
    help="The report goes to FILE instead of stdout.",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Below every table, how far it can be believed."
)
SHOWING: list[Decorator] = [
    click.option("-s", "--sort", metavar="COLUMN", help="Order rows by this column."),
    click.option(
        "-r", "--rows", type=click.IntRange(min=1), metavar="N", help="Show only the first N rows."
    ),
    format_option,
    output_option,
    click.option("-T", "--timestamp", is_flag=True, help="A time before each table."),
    click.option("--wide", is_flag=True, help="More columns."),
    verbose_option,
]
human_option = click.option(
    "-k", "--human", is_flag=True, help="Sizes with the letter of their unit: 956.0K, 1.5G."
)
_RECORDING = [
    click.option("--record", type=_FILE, metavar="FILE", help="Also keep the events, in Parquet."),
    click.option(
        "--from",
        "replay",
        metavar="FILE",
        help="No tracing, no root: the same report out of a recording (or a glob, or a "
        "folder of them).",
    ),
    click.option(
        "--trust",
        is_flag=True,
        help="With --from: the recording is of somebody whom you trust. It may take as much memory "
        "and time as it likes; others may take half a gigabyte.",
    ),
]
# Options that only some commands have.
_OWN = {
    **dict.fromkeys(("batch", "hist", "explain", "stacks", "timeline"), False),
    **dict.fromkeys(("uprobes", "heap", "scores", "leaks"), False),
    **dict.fromkeys(("folded", "flame"), None),
}
_INSIDE = [
    click.option("--dump-c", is_flag=True, help="Print the C program as it is compiled, and end."),
    click.option("--dry-run", is_flag=True, help="Compile and attach, say what, and end."),
]


def shared(keys: Sequence[str], *more: Decorator) -> Decorator:
    """Adds the options of the contract; the command is called with one `Options`.

    Args:
        keys: what the command can group by, the default first.
        more: options of the command's own.
    """
    own = [by_option(keys), *SHOWING, *more]
    parameters: list[Decorator] = [*INTERVAL_AND_COUNT, *_WHOSE, *own, *_RECORDING, *_INSIDE]

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        def call(**values: Any) -> None:
            options = Options(**{**_OWN, **values})
            _check(options)
            function(options)

        call.__doc__ = function.__doc__
        return together(*parameters)(call)

    return decorate


def together(*parameters: Decorator) -> Decorator:
    """Adds parameters to a command, in the order in which --help is to list them."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for parameter in reversed(parameters):
            function = parameter(function)
        return function

    return decorate


def by_option(keys: Sequence[str]) -> Decorator:
    """What a command groups by: any of its keys, the first if nothing else is wanted."""
    return click.option(
        "-b",
        "--by",
        type=keys_out_of(keys),
        metavar="KEY[,KEY]",
        default=keys[0],
        show_default=True,
        help=f"Group by any of: {', '.join(keys)}.",
    )


def _check(options: Options) -> None:
    """A usage error where options contradict each other."""
    if options.record and options.record == options.output:
        raise click.UsageError("--record and --output name the same file")
    if options.replay is None:
        if options.trust:
            raise click.UsageError("--trust is about what --from replays")
        return
    live = {
        "INTERVAL": options.interval,
        "a PROGRAM": options.program,
        "--pid": options.pids,
        "--comm": options.comms,
        "--cgroup": options.cgroups,
        "--record": options.record,
        "--dump-c": options.dump_c,
        "--dry-run": options.dry_run,
        "--scores": options.scores,
    }
    for name, value in live.items():
        if value:
            raise click.UsageError(f"--from replays what was recorded; {name} has no place there")


def sort_column(wanted: str | None, columns: Sequence[Column], default: str) -> str:
    """The name of the column to sort by, given by its name or its heading in any case.

    The name may lack its unit.
    """
    if wanted is None:
        return default
    for column in columns:
        names = column.name, column.name.removesuffix("_bytes"), column.heading.lower()
        if wanted.lower() in names:
            return column.name
    known = ", ".join(column.name for column in columns)
    raise click.UsageError(f"no column {wanted!r} to sort by; there are {known}")
