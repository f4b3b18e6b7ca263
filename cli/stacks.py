"""Where stacks go: files of collapsed stacks and flame graphs, when a run is over."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from memtap.cli.output import open_output, write

if TYPE_CHECKING:
    from memtap.cli.output import Display
    from memtap.tracers.model.report import Report


class StackFiles:
    """Shows reports as another display does, and writes the stacks of all of them at the end."""

    def __init__(
        self, display: Display, name: str, folded: Path | None, flame: Path | None
    ) -> None:
        self._display, self._name = display, name
        self._folded, self._flame = folded and open_output(folded), flame and open_output(flame)
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self.inputs = display.inputs

    @property
    def closed(self) -> bool:
        """Whether the reports have no reader any more."""
        return self._display.closed

    def show(self, report: Report) -> None:
        """Shows a report, and keeps its stacks."""
        self._display.show(report)
        for stack in report.section("stacks") or ():
            self._stacks[tuple(stack["frames"])] += stack["count"]

    def listen(self) -> None:
        """Takes in what can be read from the inputs."""
        self._display.listen()

    def close(self) -> None:
        """Writes the files."""
        from memtap.cli.flame import flame_page, folded

        self._display.close()
        if self._folded:
            write(self._folded, folded(self._stacks), "the stacks", "--folded")
        if self._flame:
            page = flame_page(self._stacks, f"memtap {self._name}", self._name)
            write(self._flame, page, "the flame graph", "--flame")
