"""ps and pmap: they read /proc and trace nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memtap.tracers.model.report import Column, Kind, sized
from memtap.tracers.model.tracer import (
    Flag,
    Inspection,
    Inspector,
    Query,
    Showing,
    UnfitError,
)
from memtap.tracers.ps.columns import (
    PMAP_NODES,
    PS_KEYS,
    PS_NODES,
    TABLES,
    pmap_columns,
    ps_columns,
)

_HUMAN = Flag("human", "Sizes with the letter of their unit: 956.0K, 1.5G.", letter="k")


def _kind(query: Query) -> Kind:
    return "human" if query.has("human") else "kib"


def _ps_columns(query: Query) -> tuple[Column, ...]:
    changes = query.interval_s is not None
    if query.has("numa"):
        return tuple(sized(column, _kind(query)) for column in PS_NODES)
    return ps_columns(query.by, _kind(query), changes, query.has("tree"), query.wide)


def _ps_showing(query: Query) -> Showing:
    return Showing("mapped_bytes" if query.has("numa") else "pss_bytes", is_tree=query.has("tree"))


def _ps_check(query: Query) -> Sequence[str]:
    if query.has("tree") and query.by != ("process",):
        raise UnfitError("--tree shows processes; it cannot be grouped by something else")
    if query.has("numa") and (query.by != ("process",) or query.has("tree") or query.interval_s):
        raise UnfitError("--numa shows what processes have now: no --by, --tree or INTERVAL")
    return ()


def _inspect(query: Query) -> Inspection:
    from memtap.tracers.ps.report import PsInspection

    return PsInspection(query, _ps_columns(query))


def _ps_state(root: Path) -> str:
    """What of it a host lacks."""
    has_nodes = (root / "proc/self/numa_maps").exists()
    return "all of it" if has_nodes else "without --numa: this kernel has no nodes (CONFIG_NUMA)"


_PS = Inspector(
    name="ps",
    summary="How much memory every process takes, alone and shared, or took in an interval.",
    question="How much memory does every process take? Largest PSS first; root sees all of it.",
    about=(
        "Without INTERVAL, what there is now. With it (seconds), a table at the end of each "
        "interval of what changed in it: sizes that grew (+) or shrank (-), and the faults taken; "
        "processes where nothing changed are left out. Unlike vmstat's, numbers are not per "
        "second, and no first table tells of the time since boot.",
        "Kernel threads and zombies have no memory of their own and are left out, unless --pid "
        "asks for them. A process goes on, and is shown, while any of its threads does.",
    ),
    examples=(
        ("ps -r 10", "the ten largest by PSS"),
        ("ps -k -s swap --wide", "which processes are swapped out"),
        ("ps -b user,comm", "sums by user and program"),
        ("ps 5 12 -s uss", "which processes grow, every 5 s for a minute"),
        ("ps --tree -k", "children below their parents"),
        ("ps --numa -k", "which nodes' memory each has"),
        ("ps -p $$ -f json", "one process, for scripts"),
    ),
    nothing="nothing changed",
    keys=PS_KEYS,
    columns=_ps_columns,
    showing=_ps_showing,
    flags=(
        Flag("tree", "Processes below their parents."),
        Flag(
            "numa",
            "Which memory nodes the pages of each are in: a row for each process and node.",
            columns=tuple(sized(column, "kib") for column in PS_NODES),
        ),
        _HUMAN,
    ),
    check=_ps_check,
    inspect=_inspect,
    state=_ps_state,
)


def _pmap_columns(query: Query) -> tuple[Column, ...]:
    if query.has("tables"):
        return tuple(sized(column, _kind(query)) for column in TABLES)
    if query.has("numa"):
        return tuple(sized(column, _kind(query)) for column in PMAP_NODES)
    return pmap_columns(_kind(query), query.wide, query.has("extended"))


def _inspect_one(query: Query) -> Inspection:
    from memtap.tracers.ps.pmap import PmapInspection

    return PmapInspection(query, _pmap_columns(query))


def _pmap_check(query: Query) -> Sequence[str]:
    if [query.has(flag) for flag in ("extended", "tables", "numa")].count(True) > 1:
        raise UnfitError("only one of --extended, --tables and --numa")
    return ()


_PMAP = Inspector(
    name="pmap",
    summary="What one process has mapped, and what of that is in memory.",
    question="What has a process mapped, and what of that is in memory? A row per mapping.",
    examples=(
        ("pmap $$", "this shell, by address"),
        ("pmap 1 -s pss -r 5", "where the most memory is"),
        ("pmap $$ -x", "as procps shows it"),
        ("pmap $$ --numa -s mapped", "in which nodes its memory is"),
        ("pmap $$ --tables", "what its page tables take"),
        ("pmap $$ -f json", "for scripts"),
    ),
    keys={"mapping": ()},
    columns=_pmap_columns,
    showing=lambda _query: Showing(None),
    flags=(
        Flag("extended", "The columns of procps' pmap -x.", letter="x"),
        Flag(
            "tables",
            "Its page tables, level by level, and what huge pages save of them.",
            columns=tuple(sized(column, "kib") for column in TABLES),
        ),
        Flag(
            "numa",
            "Which memory nodes its pages are in: a row for each mapping and node.",
            columns=tuple(sized(column, "kib") for column in PMAP_NODES),
        ),
        _HUMAN,
    ),
    check=_pmap_check,
    inspect=_inspect_one,
    of_one=True,
)

TRACERS = {"ps": _PS, "pmap": _PMAP}
