"""The JSON Schema (2020-12) of a report, made from what its tracer declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memtap.tracers.model.report import Column, Report, SectionKind
from memtap.tracers.model.tracer import Declared, Query

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TEXT: Schema = {"type": "string"}
_MOMENT: Schema = {"type": "string", "format": "date-time"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_COUNTERS: Schema = {"type": "object", "additionalProperties": {"type": "integer"}}

_AUDIT: dict[str, Schema] = {
    "accuracy": {"enum": ["exact", "bounded", "estimated"]},
    **dict.fromkeys(("events", "lost", "missed", "map_full"), _COUNT),
    "probes": _TEXTS,
    "kernel": _COUNTERS,
    "notes": _TEXTS,
}


@dataclass(frozen=True)
class Shape:
    """What a report can look like.

    Attributes:
        name: of the report.
        groupings: the columns of its rows, for each way to group them.
        sections: what can follow the rows: name, kind and, for rows, columns.
    """

    name: str
    groupings: Sequence[Sequence[Column]]
    sections: Sequence[tuple[str, SectionKind, Sequence[Column]]] = ()


def shapes_of(declared: Declared) -> list[Shape]:
    """The shapes of its reports: the default one, and those that flags put in its place."""
    flags = declared.flags
    queries = [Query(by=(key,), wide=wide) for key in declared.keys for wide in (False, True)]
    queries += [
        Query(by=declared.usual_by, flags={flag.name: True})
        for flag in flags
        if not (flag.columns or flag.section)
    ]
    sections = [(*flag.section, flag.columns) for flag in flags if flag.section]
    others = [flag for flag in flags if flag.columns and (flag.report or not flag.section)]
    return [
        Shape(declared.name, [declared.columns(query) for query in queries], sections),
        *(Shape(flag.report or declared.name, [flag.columns], sections) for flag in others),
    ]


def schema_of(shapes: Sequence[Shape]) -> Schema:
    """The schema of an object that is one of these."""
    found = [_object(shape) for shape in shapes]
    return {"$schema": DIALECT} | (found[0] if len(found) == 1 else {"anyOf": found})


def _object(shape: Shape) -> Schema:
    """The schema that every report keeps to, with this report's rows and sections."""
    return report_schema(
        shape.name,
        _rows(shape.groupings),
        {name: _section(kind, columns) for name, kind, columns in shape.sections},
    )


def report_schema(name: str, rows: Schema, sections: dict[str, Schema]) -> Schema:
    """The object of any report; `sections` are optional."""
    properties: dict[str, Schema] = {
        "report": {"const": name},
        "schema": {"const": Report.SCHEMA},
        "time": _MOMENT | {"description": "the end of the interval, UTC"},
        "interval_s": {"type": "number", "minimum": 0, "description": "its length in seconds"},
        "rows": rows,
        "audit": record(_AUDIT, optional={"self": _COUNTERS}),
    }
    return record(properties, optional=sections | {"remarks": _TEXTS})


def record(properties: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with all these properties, perhaps the optional ones, and no others."""
    return {
        "type": "object",
        "properties": properties | (optional or {}),
        "required": list(properties),
        "additionalProperties": False,
    }


def _rows(groupings: Sequence[Sequence[Column]]) -> Schema:
    """Rows that have the columns of all groupings, and may have those of one of them."""
    columns = {column.name: column for grouping in groupings for column in grouping}
    always = set.intersection(*({c.name for c in grouping} for grouping in groupings))
    needed = {name: _cell(column) for name, column in columns.items() if name in always}
    others = {name: _cell(column) for name, column in columns.items() if name not in always}
    return {"type": "array", "items": record(needed, others)}


def _cell(column: Column) -> Schema:
    """What a value can be, and what it means."""
    kinds: list[str] = [_TYPES.get(column.kind, "integer")]
    kinds += ["null"] if column.unknown or column.kind == "pct" else []
    said = f"{column.help} ({column.unit})" if column.unit else column.help
    format = {"format": "date-time"} if column.kind == "time" else {}
    return {"type": kinds if len(kinds) > 1 else kinds[0], **format, "description": said}


_TYPES = {
    "pct": "number",
    **dict.fromkeys(("text", "user", "path", "tree", "line", "time"), "string"),
}


def _section(kind: SectionKind, columns: Iterable[Column]) -> Schema:
    if kind == "text":
        return _TEXTS
    counts = {"type": "object", "additionalProperties": _COUNT}
    stack = record({"frames": _TEXTS, "count": _COUNT})
    rows = _rows([list(columns)])["items"] if kind == "rows" else {}
    if rows:
        rows["properties"]["frames"] = _TEXTS
    items = {"rows": rows, "stacks": stack, "histogram": counts, "sizes": counts}[kind]
    return {"type": "array", "items": items}
