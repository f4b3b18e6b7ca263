"""The options that every tracing command has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from memtap.tracers.model.report import Column
from memtap.tracers.model.tracer import Declared, Flag, Inspector, Query

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
    """What the user asked for; see `shared` for what the fields mean.

    `flags` are the command's own options, by their names; `each` names what is printed as it
    happens, for commands without a report for each interval.
    """

    sort: str | None
    reverse: bool
    rows: int | None
    flags: Mapping[str, Any]
    by: tuple[str, ...] = ()
    interval: float | None = None
    count: int | None = None
    program: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    follow: bool = True
    own: bool = False
    record: Path | None = None
    replay: str | None = None
    trust: bool = False
    dump_c: bool = False
    dry_run: bool = False
    each: str | None = None

    def file(self, flag: str) -> Path | None:
        """The file that one of the command's own options names, if it was given."""
        path: Path | None = self.flags.get(flag)
        return path


# Options of other tools, or of habit, and what does the same in memtap.
_HABITS = {
    **dict.fromkeys(
        ("-i", "--interval", "-d", "--delay", "--duration"),
        "the interval is an argument: 5 for a report every 5 seconds",
    ),
    **dict.fromkeys(
        ("-n", "--count", "--iterations"), "the count is the second argument: 1 5 for five reports"
    ),
    **dict.fromkeys(("--top", "--limit", "--lines"), "--rows N shows the first N"),
    **{f"--{format}": f"--format {format} does that" for format in ("json", "csv", "table")},
    "-j": "--format json does that",
    **dict.fromkeys(("-u", "--user", "--uid"), "--by user groups by users, where a command can"),
    **dict.fromkeys(("-t", "--tid", "--thread"), "--by thread groups by threads, in faults"),
    "--group": "--by KEY groups",
    "--name": "--comm NAME does that",
    "--input": "--from FILE does that",
}


class Command(click.Command):
    """A command that knows the options that users of other tools are used to."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """For an option that does not exist, says what does the same, where that is known."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in _HABITS:
                raise
            said = f"No such option {error.option_name!r}: {_HABITS[error.option_name]}."
            raise click.UsageError(said, ctx) from error


# A key of a click context's `meta`: whether the next word is one of PROGRAM's.
_IN_PROGRAM = "memtap.in_program"


class TracingCommand(Command):
    """A command whose arguments end at `--`; what follows is a program to run and trace."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Splits at `--`, so that PROGRAM is never taken for an INTERVAL."""
        at = args.index("--") if "--" in args else len(args)
        ctx.params["program"] = tuple(args[at + 1 :])
        ctx.meta[_IN_PROGRAM] = at < len(args)
        if at == len(args) - 1 and not ctx.resilient_parsing:
            raise click.UsageError("-- wants a PROGRAM after it", ctx)
        try:
            return super().parse_args(ctx, args[:at])
        except click.BadParameter as error:
            if error.param and error.param.name == "interval":
                said = f"{error.message}; a PROGRAM to trace comes after --"
                raise click.BadParameter(said, ctx, error.param) from error
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes options; files behind `--`, if INTERVAL and COUNT stand before it."""
        if ctx.meta.get(_IN_PROGRAM):
            return [CompletionItem(incomplete, type="file")]
        return super().shell_complete(ctx, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage line, with PROGRAM behind `--`."""
        return [*super().collect_usage_pieces(ctx), "[-- PROGRAM ARG...]"]


def seconds(text: str) -> float:
    """A number of seconds, more than none and at most a week, or a usage error."""
    try:
        number = float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number of seconds") from None
    if not 0 < number <= LONGEST_INTERVAL_S:
        raise click.BadParameter(f"{text} seconds is no interval: more than 0, at most a week")
    return number


class Number(click.IntRange):
    """A whole number within bounds; the error for anything else says `integer`."""

    name = "integer"


def keys_out_of(known: Mapping[str, Sequence[Column]]) -> Callable[[str], tuple[str, ...]]:
    """Makes a function that turns `KEY,KEY` into keys, each once, or a usage error that lists them.

    The heading of a column stands for a key that has this column.
    """

    def keys(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(_key(word.strip(), known) for word in text.split(",")))

    return keys


def last_of(known: Iterable[str]) -> Callable[..., list[str]]:
    """Makes a function that completes the last key of `KEY,KEY` in a shell."""

    def complete(_context: click.Context, _parameter: click.Parameter, word: str) -> list[str]:
        before, comma, last = word.rpartition(",")
        return [f"{before}{comma}{key}" for key in known if key.startswith(last)]

    return complete


def _key(word: str, known: Mapping[str, Sequence[Column]]) -> str:
    """The key of this name; else, of the keys with a column of this name, the one with fewest."""
    if word.lower() in known:
        return word.lower()
    having = [key for key, columns in known.items() if _column(word, columns)]
    if having:
        return min(having, key=lambda key: len(known[key]))
    raise click.BadParameter(f"{word!r} is none of {', '.join(known)}{_near(word, known)}")


def _near(word: str, known: Iterable[str]) -> str:
    """What may have been meant, in brackets, to stand behind the wrong word."""
    near = get_close_matches(word.lower(), known, 1)
    return f" (Did you mean {near[0]!r}?)" if near else ""


def complete_files(
    _context: click.Context, _parameter: click.Parameter, word: str
) -> list[CompletionItem]:
    """Makes the shell complete names of files."""
    return [CompletionItem(word, type="file")]


_FILE = click.Path(path_type=Path)


def _complete_program(
    ctx: click.Context, parameter: click.Parameter, word: str
) -> list[CompletionItem]:
    """Completes files behind `--`: click takes any word there for an argument before it."""
    return complete_files(ctx, parameter, word) if ctx.meta.get(_IN_PROGRAM) else []


INTERVAL_AND_COUNT: list[Decorator] = [
    click.argument("interval", type=seconds, required=False, shell_complete=_complete_program),
    click.argument("count", type=Number(min=1), required=False, shell_complete=_complete_program),
]


def _alone(_context: click.Context, _parameter: click.Parameter, value: int) -> tuple[int, ...]:
    return (value,)


def pid_option(which: str) -> Decorator:
    """The option that chooses processes by their numbers."""
    return click.option(
        "-p",
        "--pid",
        "pids",
        type=Number(min=1),
        multiple=True,
        metavar="PID",
        help=f"Only {which}. Repeatable.",
    )


# For inspectors, which trace nothing: the arguments of one for files, the argument of one for a
# single process, and the option that chooses processes.
_PATHS = click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
_PID = click.argument("pids", type=Number(min=1), nargs=1, metavar="PID", callback=_alone)
_THIS_PROCESS = pid_option("this process")
comm_option = click.option(
    "-c",
    "--comm",
    "comms",
    multiple=True,
    metavar="NAME",
    help="Only processes of exactly this name. Repeatable.",
)
PROCESSES: list[Decorator] = [
    pid_option("this process and its children"),
    comm_option,
    click.option(
        "--cgroup",
        "cgroups",
        multiple=True,
        metavar="PATH",
        help="Only processes in this cgroup, v1 or v2, or below it; it may be made later. "
        "Repeatable.",
    ),
    click.option(
        "--follow/--no-follow",
        default=True,
        help="Whether children of traced processes are traced too. They are by default.",
    ),
    click.option(
        "--self",
        "own",
        is_flag=True,
        help="Also what memtap does itself, which reports of the host leave out otherwise.",
    ),
]
format_option = click.option(
    "-f",
    "--format",
    type=click.Choice(["table", "json", "csv"], case_sensitive=False),
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
reverse_option = click.option("--reverse", is_flag=True, help="The other way round.")
SHOWING: list[Decorator] = [
    click.option(
        "-r", "--rows", type=Number(min=1), metavar="N", help="Show only the first N rows."
    ),
    format_option,
    output_option,
    click.option("-T", "--timestamp", is_flag=True, help="A time before each table."),
    click.option("--wide", is_flag=True, help="More columns."),
    verbose_option,
]
RECORDING: list[Decorator] = [
    click.option("--record", type=_FILE, metavar="FILE", help="Also keep the events, in Parquet."),
    click.option(
        "--from",
        "replay",
        metavar="FILE",
        shell_complete=complete_files,
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
INSIDE: list[Decorator] = [
    click.option(
        "--dump-c", is_flag=True, help="Print the C program as compiled, and end. Needs root."
    ),
    click.option("--dry-run", is_flag=True, help="Compile and attach, say what, and end."),
]


def shared(
    keys: Iterable[str], flags: Sequence[Flag] = (), sorts: Callable[[], list[str]] = list
) -> Decorator:
    """Adds the options of the contract; the command is called with one `Options`.

    Args:
        keys: what the command can group by, the default first; with their columns, if they have
            some.
        flags: the command's own options.
        sorts: gives the columns by which rows can be ordered, for completion.
    """
    order: list[Decorator] = [sort_option(sorts), reverse_option]
    own: list[Decorator] = [by_option(keys), *order, *SHOWING, *map(_option, flags)]
    return asking([*INTERVAL_AND_COUNT, *PROCESSES, *own, *RECORDING, *INSIDE], flags)


def inspecting(declared: Inspector) -> Decorator:
    """Adds the options of an inspector; the command is called with one `Options`."""
    some: list[Decorator] = [] if declared.of_host else [_THIS_PROCESS, comm_option]
    several: list[Decorator] = [*INTERVAL_AND_COUNT, *some]
    targets = [_PATHS] if declared.of_paths else [_PID] if declared.of_one else several
    by = [by_option(declared.keys)] if len(declared.keys) > 1 else []
    own: list[Decorator] = [*by, *map(_option, declared.flags)]
    own += [sort_option(partial(columns_of, declared)), reverse_option, *SHOWING]
    return asking([*targets, *own], declared.flags)


def asking(parameters: Sequence[Decorator], flags: Sequence[Flag]) -> Decorator:
    """Adds parameters; their values are checked and become one `Options`."""

    def decorate(function: Callable[[Options], None]) -> Callable[..., None]:
        def call(**values: Any) -> None:
            given = {flag.name: values.pop(flag.name) for flag in flags}
            options = Options(**values, flags=given)
            check(options, flags)
            function(options)

        call.__doc__ = function.__doc__
        return together(*parameters)(call)

    return decorate


def columns_of(declared: Declared) -> list[str]:
    """The names of all columns of its reports."""
    queries = [Query(by=(key,), wide=True) for key in declared.keys]
    return list(dict.fromkeys(each.name for q in queries for each in declared.columns(q)))


def sort_option(names: Callable[[], list[str]]) -> Decorator:
    """The column by which rows are ordered."""

    def complete(_context: click.Context, _parameter: click.Parameter, word: str) -> list[str]:
        return [name for name in names() if name.startswith(word.lower())]

    return click.option(
        "-s",
        "--sort",
        metavar="COLUMN",
        shell_complete=complete,
        help="Order rows by this column, the largest first.",
    )


def _option(flag: Flag) -> Decorator:
    """A flag as an option of click."""
    names = [*([f"-{flag.letter}"] if flag.letter else []), f"--{flag.name}"]
    if flag.takes_file:
        return click.option(*names, type=_FILE, metavar="FILE", help=flag.help)
    return click.option(*names, is_flag=True, help=flag.help)


def together(*parameters: Decorator) -> Decorator:
    """Adds parameters to a command, in the order in which --help is to list them."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for parameter in reversed(parameters):
            function = parameter(function)
        return function

    return decorate


def by_option(keys: Iterable[str]) -> Decorator:
    """The option for what a command groups by: any of its keys, by default the first."""
    known = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, ())
    return click.option(
        "-b",
        "--by",
        type=keys_out_of(known),
        shell_complete=last_of(known),
        metavar="KEY[,KEY]",
        default=next(iter(known)),
        show_default=True,
        help=f"Group by any of: {', '.join(known)}.",
    )


def check(options: Options, flags: Sequence[Flag] = ()) -> None:
    """Raises a usage error where options contradict each other."""
    for (one, first), (other, second) in combinations(_files(options, flags).items(), 2):
        if first == second and (one == "--record" or first.is_file() or not first.exists()):
            raise click.UsageError(f"{one} and {other} name the same file")
    for flag in flags:
        wanted, why = flag.wants
        if options.flags[flag.name] and wanted and not options.flags[wanted]:
            raise click.UsageError(why)
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
        **{f"--{flag.name}": options.flags[flag.name] for flag in flags if flag.looks},
    }
    for name, value in live.items():
        if value:
            raise click.UsageError(f"--from replays what was recorded; {name} has no place there")


def _files(options: Options, flags: Sequence[Flag]) -> dict[str, Path]:
    """The files that will be written, by their options."""
    named = {"--record": options.record, "--output": options.output}
    named |= {
        f"--{flag.name}": options.file(flag.name)
        for flag in flags
        if flag.takes_file and not flag.reads
    }
    return {name: path for name, path in named.items() if path}


def sort_column(wanted: str | None, columns: Sequence[Column], default: str) -> str:
    """The name of the column to sort by, given by its name or its heading in any case.

    The unit at the end of a name or a heading may be left out.
    """
    if wanted is None:
        return default
    found = _column(wanted, columns)
    if found:
        return found.name
    known = [column.name for column in columns]
    near = _near(
        wanted, [name for each in columns for name in (*_names(each), *_short_names(each))]
    )
    raise click.UsageError(f"no column {wanted!r} to sort by{near}; there are {', '.join(known)}")


# The unit that ends a name or a heading and may be left out.
_UNIT = re.compile(r"(_(bytes|pages|pct|ns|kb|mb|ms|us)|%)$")
# Names that ps and top have for columns of ours.
_ALSO = {"rss": "res", "res": "rss", "vsz": "virt", "vsize": "virt", "command": "comm"}


def _column(wanted: str, columns: Sequence[Column]) -> Column | None:
    """The column of this name: one with this whole name comes before one that lacks its unit."""
    word = wanted.lower()
    for called in (word, _ALSO.get(word)):
        for names in (_names, _short_names):
            for column in columns:
                if called in names(column):
                    return column
    return None


def _names(column: Column) -> tuple[str, ...]:
    return column.name, column.heading.lower()


def _short_names(column: Column) -> tuple[str, ...]:
    return tuple(_UNIT.sub("", name) for name in _names(column))
