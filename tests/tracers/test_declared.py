"""What tracers declare: that each asks the kernel for what a query needs, and for no more."""

from __future__ import annotations

import pytest

from memtap.tracers import NAMES, every, load, reports_of
from memtap.tracers.faults.probes import STACKS as FAULT_STACKS
from memtap.tracers.malloc.probes import FRAMES
from memtap.tracers.model.tracer import Query, UnfitError
from memtap.tracers.pagecache.probes import NAME_FILES
from memtap.tracers.pages.probes import BY_PROCESS as PAGES_BY_PROCESS
from memtap.tracers.slab.probes import BY_PROCESS, BY_SITE, LEAKS, STACKS

KEYS = [(name, key) for name in NAMES for key in load(name).keys]
# The keys that need a setting, and which.
NEEDED = {
    ("cachetop", "file"): {NAME_FILES},
    ("malloc", "site"): {FRAMES},
    ("slab", "site"): {BY_SITE},
    ("slab", "process"): {BY_PROCESS},
    ("slab", "comm"): {BY_PROCESS},
    ("pages", "process"): {PAGES_BY_PROCESS},
    ("pages", "comm"): {PAGES_BY_PROCESS},
}
# And what flags need.
FLAGGED = {
    ("faults", "stacks"): {FAULT_STACKS},
    ("faults", "folded"): {FAULT_STACKS},
    ("faults", "flame"): {FAULT_STACKS},
    ("slab", "leaks"): {LEAKS, BY_SITE, BY_PROCESS},
    ("slab", "stacks"): {STACKS},
}


def extra(name: str, query: Query) -> set[str]:
    """The settings that a query needs beyond the least of its tracer."""
    tracer = load(name)
    least = set.intersection(*({*tracer.settings(Query(by=(key,)))} for key in tracer.keys))
    return {*tracer.settings(query)} - least


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_key_has_what_it_needs_and_no_more(name: str, key: str) -> None:
    assert extra(name, Query(by=(key,))) == NEEDED.get((name, key), set())


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_can_be_asked_for_each_key_later(name: str) -> None:
    kept = extra(name, Query(by=(next(iter(load(name).keys)),), records=True))
    needed = {setting for (of, _), settings in NEEDED.items() if of == name for setting in settings}
    assert needed <= kept


@pytest.mark.parametrize("name", NAMES)
def test_a_flag_has_what_it_needs_and_no_more(name: str) -> None:
    tracer = load(name)
    by = (next(iter(tracer.keys)),)
    for flag in tracer.flags:
        found = extra(name, Query(by=by, flags={flag.name: True}))
        assert found == FLAGGED.get((name, flag.name), set())


def test_what_is_redrawn_in_place_can_be_grouped_by_anything() -> None:
    for tracer in every():
        if tracer.has_screen:
            needed = {s for (of, _), found in NEEDED.items() if of == tracer.name for s in found}
            assert needed <= {*tracer.settings(tracer.usual())}


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_keys_come_first_and_each_once(name: str) -> None:
    tracer = load(name)
    for key, columns in tracer.keys.items():
        found = [column.name for column in tracer.columns(Query(by=(key,)))]
        assert found[: len(columns)] == [column.name for column in columns]
        assert len(found) == len({*found})


@pytest.mark.parametrize("name", NAMES)
def test_reports_are_sorted_by_a_column_that_they_have(name: str) -> None:
    tracer = load(name)
    for key in tracer.keys:
        query = Query(by=(key,))
        showing = tracer.showing(query)
        names = {column.name for column in tracer.columns(query)}
        assert {showing.sort, showing.ties} - {None} <= names


def test_flags_that_contradict_are_refused() -> None:
    malloc = load("malloc")
    for flags, pids in (({"heap": True}, ()), ({"uprobes": True}, (1, 2))):
        with pytest.raises(UnfitError):
            malloc.check(Query(by=("process",), flags=flags, pids=pids))
    assert malloc.check(Query(by=("process",), flags={"heap": True}, replays=True)) == ()
    with pytest.raises(UnfitError):
        load("oom").check(Query(by=("victim",), flags={"scores": True}, records=True))


def test_recordings_are_read_by_those_who_make_them() -> None:
    assert [tracer.name for tracer in reports_of("pagecache")] == ["cachestat", "cachetop"]
    assert reports_of("nothing") == []
    for tracer in every():
        assert tracer in reports_of(tracer.plan.name)
        assert set(tracer.row().counts) <= set(tracer.row().dtype.names or ())
