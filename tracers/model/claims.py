"""Checks values from a file that any user may have written, before they are used.

For a wrong value these functions raise ValueError, or the error that its use causes: TypeError,
LookupError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from memtap.bpf.plan import Accuracy
from memtap.bpf.session import Losses
from memtap.tracers.host.hostile import one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Made = TypeVar("Made", bound=DataclassInstance)

# More than the longest text that we write, a stack of some hundred functions.
_LONGEST = 1 << 20

# No clock that counts from a host's boot exceeds this: 36 years.
LATEST_NS = 1 << 60

_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_LONGEST_S = 100 * 365 * 24 * 3600.0
_YEARS = range(1970, 3000)


def text(value: Any) -> str:
    """A text, safe to print."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError("no text, or one that is too long")
    return one_line(value)


def texts(values: Any) -> tuple[str, ...]:
    """Several texts."""
    return tuple(map(text, listed(values)))


def number(value: Any, most: int = _U64, least: int = 0) -> int:
    """A whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError("no number, or none that can be here")
    return value


def number32(value: Any) -> int:
    """A number of 32 bits without a sign: a process, a device, the number of a text."""
    return number(value, _U32)


def user(value: Any) -> int:
    """A user's number, or -1 where it is unknown."""
    return number(value, _U32, least=-1)


def page_bytes(value: Any) -> int:
    """The size of a page."""
    return number(value, 1 << 20, least=1 << 10)


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def listed(value: Any) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise ValueError("no list")
    return value


def seconds(value: Any) -> float:
    """How long something took."""
    if isinstance(value, bool) or not 0 <= value <= _LONGEST_S:  # so NaN is none, too
        raise ValueError("no length of time")
    return float(value)


def moment(value: Any) -> str:
    """A moment, UTC, ISO 8601."""
    when = datetime.fromisoformat(text(value))
    if when.tzinfo is None or when.year not in _YEARS:
        raise ValueError("no moment at which anything can have been recorded")
    return text(value)


def counters(value: Any) -> dict[str, int]:
    """The growth of counters by their names; it may be negative."""
    return {text(name): number(count, least=-_U64) for name, count in value.items()}


def _accuracy(value: Any) -> Any:
    if value not in get_args(Accuracy):
        raise ValueError("no accuracy that there is")
    return value


# By the annotation of a field of a dataclass.
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "str": text,
    "int": number,
    "bool": flag,
    "float": seconds,
    "tuple[str, ...]": texts,
    "Accuracy": _accuracy,
    "Counters": counters,
    "Losses": lambda value: made(Losses, value),
}


def made(kind: type[Made], values: dict[str, Any], **more: Any) -> Made:
    """A dataclass from its fields, each checked by its type; `more` was checked before."""
    types = {field.name: str(field.type) for field in fields(kind)}
    checked = {name: _CHECKS[types[name]](value) for name, value in values.items()}
    return kind(**checked, **more)
