"""Freshness, against a model that looks at one page at a time."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtap.tracers.host.files import BUCKETS
from memtap.tracers.pagecache.freshness import Spans, judge
from tests.tracers.builders import numbered

File = int
Step = tuple[bool, File, int, int]  # enters, file, first page, pages
Model = dict[File, set[int]]

FILES = [numbered(1), numbered(2), numbered(BUCKETS + 1)]
STEPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from(FILES), st.integers(0, 12), st.integers(0, 6)),
    max_size=40,
)


def follow(model: Model, steps: list[Step]) -> list[int]:
    """How many pages of each step were fresh; the model is what is fresh afterwards."""
    found = []
    for enters, file, start, pages in steps:
        touched = set(range(start, start + pages))
        found.append(len(model[file] & touched))
        model[file] = model[file] | touched if enters else model[file] - touched
    return found


def spans_of(steps: list[Step]) -> Spans:
    return Spans(
        np.array([file for _, file, _, _ in steps], np.uint64),
        np.array([start for _, _, start, _ in steps], np.uint64),
        np.array([start + pages for _, _, start, pages in steps], np.uint64),
    )


def rows_of(spans: Spans) -> list[tuple[File, int, int]]:
    columns = (spans.file, spans.start, spans.stop)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def pages_of(spans: Spans) -> list[tuple[File, int]]:
    return sorted((file, page) for file, *ends in rows_of(spans) for page in range(*ends))


def run(fresh: Spans, steps: list[Step]) -> tuple[list[int], Spans]:
    found, left = judge(fresh, spans_of(steps), np.array([step[0] for step in steps], bool))
    return found.tolist(), left


@given(steps=STEPS, far=st.sampled_from([0, 1 << 40, (1 << 64) - 32]))
def test_pages_are_followed_as_in_the_model(steps: list[Step], far: int) -> None:
    steps = [(enters, file, far + start, pages) for enters, file, start, pages in steps]
    model: Model = defaultdict(set)
    found, left = run(Spans.empty(), steps)
    assert found == follow(model, steps)
    assert pages_of(left) == sorted((file, page) for file in model for page in model[file])


@given(steps=STEPS, cuts=st.lists(st.integers(0, 40), max_size=3))
def test_steps_in_several_calls_give_what_one_call_gives(
    steps: list[Step], cuts: list[int]
) -> None:
    edges = [0, *sorted(cuts), len(steps)]
    found: list[int] = []
    fresh = Spans.empty()
    for first, last in pairwise(edges):
        more, fresh = run(fresh, steps[first:last])
        found += more
    whole_found, whole_fresh = run(Spans.empty(), steps)
    assert (found, rows_of(fresh)) == (whole_found, rows_of(whole_fresh))


@given(steps=STEPS)
def test_what_is_fresh_is_said_in_as_few_spans_as_can_be(steps: list[Step]) -> None:
    rows = rows_of(run(Spans.empty(), steps)[1])
    assert rows == sorted(rows)
    for (file, _, stop), (next_file, start, _) in pairwise(rows):
        assert next_file > file or start > stop


@pytest.mark.parametrize("enters", [True, False])
def test_a_page_is_not_fresh_before_it_was_there(enters: bool) -> None:
    assert run(Spans.empty(), [(enters, FILES[0], 0, 4)])[0] == [0]
