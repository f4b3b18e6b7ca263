"""Accounts kept in files, to be compared with later ones."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from memtap.bpf.errors import MemtapError
from memtap.tracers.host.caller import caller
from memtap.tracers.host.counters import Counters
from memtap.tracers.host.hostile import one_line
from memtap.tracers.ledger.columns import ledger_columns
from memtap.tracers.model.report import Column, Row

# No number in a file may be as large, and no cgroup nested as deep.
_MOST, _DEPTHS = 1 << 62, range(1 << 10)

# The first key of such a file, and the version of its format.
_MARK, _VERSION = "memtap_ledger", 1


@dataclass(frozen=True)
class Look:
    """An account at one moment.

    Attributes:
        by: the key that it is grouped by.
        time: when, UTC, ISO 8601.
        at_s: the same by a clock that is never set, since the host's boot.
        total: MemTotal in bytes.
        rows: values by column name.
        read: how many processes or cgroups were read.
        unread: how many are not fully known.
        untold: what this kernel does not report.
        kernel: counters that the rows can be compared with.
    """

    by: str
    time: str
    at_s: float
    total: int
    rows: list[Row]
    read: int
    unread: int
    untold: tuple[str, ...]
    kernel: Counters


def keep(look: Look, path: Path) -> None:
    """Writes a look to a file, for the user who called sudo. Raises MemtapError if it cannot."""
    try:
        with path.open("w") as file:
            json.dump({_MARK: _VERSION, **asdict(look)}, file)
            if owner := caller():
                os.fchown(file.fileno(), *owner)
    except OSError as error:
        what = f"cannot write {path}: {error.strerror}"
        raise MemtapError(what, "name another file with --record") from error


def kept(path: Path, by: str) -> Look:
    """Reads a look. Raises MemtapError if the file is no look, or is grouped otherwise."""
    hint = "memtap ledger --record FILE writes one"
    try:
        look = _sound(json.loads(path.read_text()))
    except OSError as error:
        raise MemtapError(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MemtapError(f"{path} is no account that memtap kept", hint) from error
    if look.by != by:
        raise MemtapError(f"{path} is grouped by {look.by}, not by {by}", f"ask with -b {look.by}")
    return look


def _sound(found: Any) -> Look:
    """Checks what a file says: any user may have written it. Raises ValueError and others."""
    if found.pop(_MARK) != _VERSION:
        raise ValueError("of another version")
    look = Look(**found)
    columns = ledger_columns(look.by, "kib", changes=False)
    rows = [{name: _value(value) for name, value in row.items()} for row in look.rows]
    for row in rows:
        if row.get("depth", 0) not in _DEPTHS or any(
            not _fits(column, row[column.name]) for column in columns
        ):
            raise ValueError("of another type")
    datetime.fromisoformat(look.time)
    kernel = {str(name): int(value) for name, value in look.kernel.items()}
    return replace(look, rows=rows, kernel=kernel)


def _value(value: object) -> object:
    """A value that is safe to print."""
    return one_line(value) if isinstance(value, str) else value


def _fits(column: Column, value: object) -> bool:
    if column.type_name == "String":
        return value is None or isinstance(value, str)
    if value is None:
        return column.unknown or column.kind == "pct"
    return type(value) in (int, float) and abs(value) < _MOST  # type: ignore[arg-type]


def seconds_between(before: Look, seen: Look) -> float:
    """The time from one look to a later one, by the wall clock."""
    passed = datetime.fromisoformat(seen.time) - datetime.fromisoformat(before.time)
    return max(0.0, passed.total_seconds())
