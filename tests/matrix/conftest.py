"""Machines with other kernels are started only where they are asked for."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, unless -m names the marker, what takes minutes."""
    if "matrix" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("matrix")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)
