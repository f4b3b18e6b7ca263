"""The machine is brought up only where it is asked for, and what that took is said at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vagrant.machine import Machine, Steps, brought_up

STEPS = pytest.StashKey[Steps]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, unless -m names the marker, what takes minutes."""
    if "vagrant" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("vagrant")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    steps = config.stash.get(STEPS, None)
    if steps:
        terminalreporter.section("seconds")
        for name, seconds in steps.items():
            terminalreporter.write_line(f"{seconds:7.1f} {name}")


@pytest.fixture(scope="session")
def machine(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A Vagrant machine with memtap in it, as `vagrant up` makes it."""
    steps = pytestconfig.stash.setdefault(STEPS, {})
    log = tmp_path_factory.mktemp("vagrant") / "log"
    with brought_up(steps, log) as machine:
        yield machine
