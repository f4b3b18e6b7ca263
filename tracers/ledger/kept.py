"""Looks that are kept in files, to be compared with later ones."""

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

# No number is as large, and no cgroup is below so many others.
_MOST, _DEPTHS = 1 << 62, range(1 << 10)

# What such a file begins with, and the version of what is in it.
_MARK, _VERSION = "memtap_ledger", 1


@dataclass(frozen=True)
class Look:
    """What was found at one moment.

    Attributes:
        by: what it is grouped by.
        time: when, UTC, ISO 8601.
        at_s: the same by a clock that nobody sets, until the host is started anew.
        total: MemTotal in bytes.
        rows: values by column name.
        read: how many processes or cgroups were read.
        unread: of how many not all is known.
        untold: what this kernel does not tell of.
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
    """Writes a look down, for whoever called sudo. Raises MemtapError if that cannot be."""
    try:
        with path.open("w") as file:
            json.dump({_MARK: _VERSION, **asdict(look)}, file)
            if owner := caller():
                os.fchown(file.fileno(), *owner)
    except OSError as error:
        what = f"cannot write {path}: {error.strerror}"
        raise MemtapError(what, "name another file with --record") from error


def kept(path: Path, by: str) -> Look:
    """What was written down. Raises MemtapError if it is none of this, or grouped otherwise."""
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
    """What a file says, which can be a stranger's. Raises ValueError and others if it cannot be."""
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
    """One that may be printed."""
    return one_line(value) if isinstance(value, str) else value


def _fits(column: Column, value: object) -> bool:
    if column.type_name == "String":
        return value is None or isinstance(value, str)
    if value is None:
        return column.unknown or column.kind == "pct"
    return type(value) in (int, float) and abs(value) < _MOST  # type: ignore[arg-type]


def seconds_between(before: Look, seen: Look) -> float:
    """How long it is from one look to a later one, by the clock on the wall."""
    passed = datetime.fromisoformat(seen.time) - datetime.fromisoformat(before.time)
    return max(0.0, passed.total_seconds())
