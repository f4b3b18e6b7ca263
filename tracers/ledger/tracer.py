"""The account of all memory: it reads /proc and /sys and traces nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memtap.bpf.errors import MemtapError
from memtap.tracers.ledger.columns import LEDGER_KEYS, ledger_columns
from memtap.tracers.model.report import Column, Kind
from memtap.tracers.model.tracer import Flag, Inspection, Inspector, Query, Showing, UnfitError


def _columns(query: Query) -> tuple[Column, ...]:
    kind: Kind = "human" if query.has("human") else "kib"
    return ledger_columns(query.by[0], kind, query.interval_s is not None or query.has("since"))


def _showing(query: Query) -> Showing:
    return Showing("total_bytes" if query.by[0] in ("process", "user") else None)


def _check(query: Query) -> Sequence[str]:
    if len(query.by) > 1:
        raise UnfitError("an account is of one kind: -b with one KEY")
    return ()


def _inspect(query: Query) -> Inspection:
    from memtap.tracers.ledger.report import LedgerInspection

    return LedgerInspection(query, _columns(query))


def _state(root: Path) -> str:
    """Which lines an account lacks on this host."""
    from memtap.tracers.ledger.account import untold
    from memtap.tracers.ledger.memory import look

    try:
        missing = untold(look(root))
    except MemtapError as error:
        return f"none: {error.what}"
    return f"without {', '.join(missing)}, which it lacks" if missing else "all of its lines"


TRACER = Inspector(
    name="ledger",
    summary="Where all memory is, of the host and each cgroup: an account that adds up.",
    question="Where is all memory? Lines that add up to MemTotal, and what nothing explains.",
    about=(
        "Without INTERVAL, what there is now. With it (seconds), a table at the end of each "
        "interval of what came (+) and went (-) in it.",
        "By cgroup, OWN adds up to /, which is all that is used; by process and user, pages that "
        "are shared are divided, so that each counts once.",
    ),
    examples=(
        ("ledger", "all of this host"),
        ("ledger -s size -r 8", "the largest"),
        ("ledger 10", "what grows, every 10 seconds"),
        ("ledger -b cgroup -k", "each container, and what is in it"),
        ("ledger -b process -k", "what each process takes"),
        ("ledger --record monday", "keep it"),
        ("ledger --since monday --explain", "what came and went since"),
        ("ledger -f json", "for scripts"),
    ),
    nothing="nothing changed",
    keys=LEDGER_KEYS,
    columns=_columns,
    showing=_showing,
    flags=(
        Flag("human", "Sizes with the letter of their unit: 956.0K, 1.5G.", letter="k"),
        Flag(
            "explain",
            "Say in plain words where it is, and what could give it back.",
            section=("explanation", "text"),
        ),
        Flag("record", "Also keep what was found, for --since.", takes_file=True),
        Flag("since", "What changed since FILE was kept.", takes_file=True, reads=True),
    ),
    check=_check,
    inspect=_inspect,
    of_host=True,
    state=_state,
)
