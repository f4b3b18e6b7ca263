"""The command `memtap schema`."""

from __future__ import annotations

import json

import click

from memtap.cli.options import Command
from memtap.tracers import INSPECTORS, NAMES, declared
from memtap.tracers.model.schema import Schema, schema_of, shapes_of

_REPORTS = (*NAMES, *INSPECTORS, "doctor")


@click.command("schema", cls=Command)
@click.argument("report", type=click.Choice(_REPORTS), required=False, metavar="[REPORT]")
def command(report: str | None) -> None:
    """What is in the JSON of a REPORT (of each, if none is named)? Its JSON Schema, 2020-12.

    Every column with its type, meaning and unit. Rows can be grouped in several ways: what all have
    is required, what some have is allowed.

    What `memtap run` writes are the reports of its tracers, each as it is alone.

    \b
    memtap schema faults                          what a line of faults -f json is
    memtap schema faults | jq '..|.description? // empty'  its columns, in words
    """
    found = {name: _schema(name) for name in ([report] if report else _REPORTS)}
    click.echo(json.dumps(found[report] if report else found, indent=2))


def _schema(name: str) -> Schema:
    if name == "doctor":
        from memtap.tracers.doctor import SCHEMA

        return SCHEMA
    return schema_of(shapes_of(declared(name)))
