"""What a tracer declares: all that commands, recordings, `doctor` and the docs know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from memtap.bpf.filters import Filter, own_tgid
from memtap.bpf.plan import Plan
from memtap.tracers.host.counters import Counters, vmstat
from memtap.tracers.model.report import Column, Report, SectionKind

if TYPE_CHECKING:
    import numpy as np

    from memtap.bpf.stream import Events
    from memtap.tracers.model.chunk import Chunk, Origin
    from memtap.tracers.model.enricher import Enricher, Source

Style = Literal["blocks", "rolling"]


class UnfitError(ValueError):
    """Options that contradict each other; the text says which would work."""


@dataclass(frozen=True)
class RowType:
    """The rows of a tracer, which a recording keeps.

    Attributes:
        dtype: names and types.
        counts: the columns that are added up, so that a recording from elsewhere may not hold too
            large ones.
        are_possible: whether all numbers that stand for labels, or limit a loop, are valid.
    """

    dtype: np.dtype[np.void]
    counts: tuple[str, ...] = ()
    are_possible: Callable[[Events], bool] = lambda rows: True


@dataclass(frozen=True)
class Flag:
    """An option of a tracer's own.

    Attributes:
        name: without its dashes.
        letter: its short form, without the dash; "" if it has none.
        help: its text in --help.
        takes_file: whether it names a file; else it is given or not.
        reads: whether that file is read, not written.
        wants: another flag that this one requires, and why; "" for none.
        columns: those of the table that it adds, or shows instead of the usual table.
        section: the name and kind of the section that it adds; None for none.
        report: the name of the report that it makes, where that differs.
        looks: whether nothing is traced with it, so that a recording cannot answer it.
    """

    name: str
    help: str
    takes_file: bool = False
    reads: bool = False
    wants: tuple[str, str] = ("", "")
    columns: tuple[Column, ...] = ()
    section: tuple[str, SectionKind] | None = None
    report: str = ""
    looks: bool = False
    letter: str = ""


@dataclass(frozen=True)
class Query:
    """What is asked of a tracer.

    Attributes:
        by: the keys to group by.
        wide: whether columns that a table leaves out are shown.
        records: whether events are kept, so that other questions may be asked of them later.
        regroups: whether rows may later be grouped by any key, as on a screen.
        flags: the tracer's own options.
        pids, program: what is traced, if it is not the whole host.
        interval_s: how often a report is wanted; None if the user did not say.
        sort: the column to sort by; None if the user named none.
        replays: whether events come from a recording.
        comms, cgroups: which processes, by name and by cgroup.
        paths: which files and directories.
        rows: how many of the first rows are shown; None for all, or for the last.
    """

    by: tuple[str, ...]
    wide: bool = False
    records: bool = False
    regroups: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)
    pids: tuple[int, ...] = ()
    program: tuple[str, ...] = ()
    interval_s: float | None = None
    sort: str | None = None
    replays: bool = False
    comms: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    rows: int | None = None

    def has(self, *flags: str) -> bool:
        """Whether one of these flags was given."""
        return any(self.flags.get(flag) for flag in flags)

    def wants(self, *keys: str) -> bool:
        """Whether rows are, or may later be, grouped by one of these keys."""
        return self.regroups or not {*keys}.isdisjoint(self.by)


def filter_of(query: Query, follow: bool, own: bool) -> Filter:
    """Which processes' events a query is about.

    Args:
        query: what is asked.
        follow: whether children of traced processes are traced too.
        own: whether reports of the host include what this process itself does.
    """
    some = bool(query.pids or query.program)
    return Filter(
        by_tgid=some,
        starts=bool(query.program),
        own=0 if some or own else own_tgid(),
        follow=follow,
        comms=query.comms,
        cgroups=query.cgroups,
    )


@dataclass(frozen=True)
class Showing:
    """How reports of a query are shown.

    Attributes:
        sort: the column by which rows are ordered; None to leave them as they come.
        ties: the column that decides where the first does not.
        style: a table for each report, or a line for each under headings that are repeated now and
            then.
        interval_s: the default interval of reports.
        each: what is printed as events happen, where that is not a report for each interval.
        is_tree: whether processes stand below their parents.
        rows: how many a table of one look has, unless the user says; None for all.
    """

    sort: str | None
    ties: str | None = None
    style: Style = "blocks"
    interval_s: float | None = None
    each: str | None = None
    is_tree: bool = False
    rows: int | None = None


class Reporter(Protocol):
    """Chunks in, reports out."""

    def feed(self, chunk: Chunk) -> Report | None:
        """Counts a chunk; returns the report if an interval ends with it."""


class Inspection(ABC):
    """Reports of the present state, or of what changed, without tracing.

    By default nothing is compared with an earlier state, and there is always something to report.
    """

    def begin(self) -> Sequence[str]:
        """Reads the first state, if changes are wanted; returns what the user should know."""
        return ()

    @abstractmethod
    def report(self) -> Report:
        """The present state, or what changed since the last call."""

    @property
    def has_ended(self) -> bool:
        """Whether all processes or files that were asked for are gone."""
        return False


def _settles(_query: Query) -> tuple[str, ...]:
    return ()


def _fits(_query: Query) -> Sequence[str]:
    return ()


def _never(_query: Query) -> bool:
    return False


def _all_kept(_query: Query) -> tuple[str, str]:
    return "", ""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a command reports, by tracing or by reading the present state.

    Attributes:
        name: of its command and its reports.
        summary: what the list of commands says of it.
        question: what it answers; the first sentence of its help.
        about: paragraphs of help after that.
        terms: words that help explains, each with its meaning.
        examples: command lines, and what they are for.
        nothing: what did not happen when a report has no rows; "" if it always has rows.
        keys: what identifies a row, by what the user groups by; the default first.
        columns: the columns of a report, those of its keys included.
        showing: how its reports are shown.
        flags: its own options.
        check: raises UnfitError where options contradict each other; else returns what the user
            should know before the command begins.
        has_screen: whether it is redrawn in place on a terminal.
        state: what `doctor` says of it on a host, given the host's root directory.
    """

    name: str
    summary: str
    question: str
    examples: tuple[tuple[str, str], ...]
    keys: Mapping[str, tuple[Column, ...]]
    columns: Callable[[Query], tuple[Column, ...]]
    showing: Callable[[Query], Showing]
    about: tuple[str, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
    nothing: str = ""
    flags: tuple[Flag, ...] = ()
    check: Callable[[Query], Sequence[str]] = _fits
    has_screen: bool = False
    state: Callable[[Path], str] | None = None

    @property
    def usual_by(self) -> tuple[str, ...]:
        """The keys that rows are grouped by if the user names none."""
        return (next(iter(self.keys)),)

    def usual(self) -> Query:
        """The query if the user gives no options; on a screen, if the command has one."""
        return Query(by=self.usual_by, regroups=self.has_screen)


@dataclass(frozen=True, kw_only=True)
class Inspector(Declared):
    """A command that reads the present state, and traces nothing.

    Attributes:
        inspect: begins the inspection.
        of_one: whether it is about one process, which is its argument; then it makes one report.
        of_host: whether it is about the whole host, so that the user cannot name processes.
        of_paths: whether it is about files, which may be its arguments; then it makes one report,
            too.
        plan: its C program, if it has one.
    """

    inspect: Callable[[Query], Inspection]
    of_one: bool = False
    of_host: bool = False
    of_paths: bool = False
    plan: Plan | None = None


@dataclass(frozen=True, kw_only=True)
class Tracer(Declared):
    """One tracer.

    Attributes:
        plan: its C program and how that is attached.
        rows: the module of its rows, which takes long to import; row() gives their type.
        make_enricher: makes the enricher, which turns events into rows.
        make_reporter: makes the reporter, which turns the chunks of an origin into reports.
        settings: macros of its C program.
        planned: the plan for a query, where that is not `plan`.
        counters: reads the host's counters that its counts can be compared with.
        exit_record: members of struct taskstats that are read from the exit records of targets.
        kept: a member of its rows that a recording must have for a query, and the flag that records
            it; both "" if there is none.
        names_threads: whether rows may be told apart by thread.
        inspect: begins an inspection without tracing, for the flags that ask for one.
        looks: whether a query is answered without tracing, though no flag alone says so.
    """

    plan: Plan
    rows: str
    make_enricher: Callable[[Source, Query], Enricher]
    make_reporter: Callable[[Origin, Query], Reporter]
    settings: Callable[[Query], tuple[str, ...]] = _settles
    planned: Callable[[Query], Plan] | None = None
    counters: Callable[[], Counters] = vmstat
    exit_record: tuple[str, ...] = ()
    kept: Callable[[Query], tuple[str, str]] = _all_kept
    names_threads: Callable[[Query], bool] = _never
    inspect: Callable[[Query], Inspection] | None = None
    looks: Callable[[Query], bool] = _never

    def row(self) -> RowType:
        """The type of its rows."""
        row: RowType = import_module(self.rows).ROW_TYPE
        return row

    def plan_of(self, query: Query) -> Plan:
        """The plan by which a query is answered."""
        return self.planned(query) if self.planned else self.plan

    def is_looked_for(self, query: Query) -> bool:
        """Whether nothing is to be traced."""
        return self.looks(query) or query.has(*(flag.name for flag in self.flags if flag.looks))
