"""files: what the page cache holds now. A BPF program walks through it; nothing is traced."""

from __future__ import annotations

from collections.abc import Sequence

from memtap.tracers.files.columns import KEYS, columns_of
from memtap.tracers.files.probes import PLAN
from memtap.tracers.model.report import Column, Kind
from memtap.tracers.model.tracer import Flag, Inspection, Inspector, Query, Showing, UnfitError


def _columns(query: Query) -> tuple[Column, ...]:
    kind: Kind = "human" if query.has("human") else "kib"
    ages = not query.paths and (query.wide or query.has("age"))
    return columns_of(query.by, kind, ages)


def _check(query: Query) -> Sequence[str]:
    if query.paths and {"cgroup", "process"} & {*query.by}:
        raise UnfitError("of files that are named only --by file, directory and mount are known")
    if query.paths and query.has("age"):
        raise UnfitError("--age is of all that is cached, not of files that are named")
    return ()


def _inspect(query: Query) -> Inspection:
    if query.paths:
        from memtap.tracers.files.asked import AskedInspection

        return AskedInspection(query, _columns(query))
    from memtap.tracers.files.report import FilesInspection

    return FilesInspection(query, _columns(query))


TRACER = Inspector(
    name="files",
    summary="What the page cache holds now: which files, how much, and how much of it is dirty.",
    question="What does the page cache hold now? The files that have most of it come first.",
    about=(
        "With PATHs, only these files, and all below these directories; without root, those of "
        "them that you own or may write to. "
        "Without, all that there is: files that are closed or deleted, shared memory, and block "
        "devices, too.",
        "In sums of processes a file counts in full for each that has it open or mapped.",
    ),
    examples=(
        ("files -k -r 10", "the ten that have most"),
        ("files -b mount", "file system by file system"),
        ("files -b directory -s dirty", "where what is to be written is"),
        ("files -b cgroup --age", "which cgroup pays, and for what is in use"),
        ("files /var/lib/mysql", "these"),
        ("files -f json -r 100", "for scripts"),
    ),
    nothing="nothing is cached",
    keys=KEYS,
    columns=_columns,
    showing=lambda _query: Showing("resident_bytes", rows=40),
    flags=(
        Flag("age", "On which list pages are; takes longer."),
        Flag("human", "Sizes with the letter of their unit: 956.0K, 1.5G.", letter="k"),
    ),
    check=_check,
    inspect=_inspect,
    of_paths=True,
    plan=PLAN,
)
