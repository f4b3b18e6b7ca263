"""What tests of a module need that takes no quiet host, done on all CPUs before they ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

# By node id.
Found = dict[str, Future[Any]]


def ahead(
    request: pytest.FixtureRequest, work: Callable[..., Any], fixture: str
) -> Iterator[Found]:
    """Has `work` done with the parameters of each test that was chosen and has this fixture."""
    chosen = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and fixture in item.fixturenames
    ]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {item.nodeid: pool.submit(work, **item.callspec.params) for item in chosen}
    finally:
        pool.shutdown(cancel_futures=True)
