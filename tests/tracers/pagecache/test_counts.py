"""What a row of the page-cache program counts for, in stories of a few rows and at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtap.bpf.spills import NOTHING_SPILLED
from memtap.bpf.stream import Events
from memtap.tracers.host.files import BUCKETS
from memtap.tracers.pagecache.counts import COUNTS, SETTLE_NS, PageCache
from memtap.tracers.pagecache.probes import Flag, Kind
from memtap.tracers.pagecache.rows import KEYS, ROW, rows_of
from tests.tracers.builders import (
    END,
    Event,
    add,
    delete,
    dirty,
    event,
    events_at_random,
    fault,
    fault_around,
    make_rows,
    numbered,
    read,
    run_of_hits,
    write,
)

SECOND = 10**9
AGAIN, WANTED, DEVICE, WRITTEN = Flag.AGAIN, Flag.WANTED, Flag.DEVICE, Flag.WRITTEN
REMOVED, SHORT, UNSURE, EMPTIED = Flag.REMOVED, Flag.SHORT, Flag.UNSURE, Flag.EMPTIED


def sums(cache: PageCache) -> dict[str, int]:
    """All of COUNTS that are not 0, over all processes and files."""
    tally = cache.take()
    counts = {name: int(tally[name].sum()) for name in COUNTS}
    return {name: count for name, count in counts.items() if count}


def fed(*events: Event, until_ns: int = END, last: bool = True) -> PageCache:
    cache = PageCache()
    cache.feed(make_rows(*events), until_ns, last)
    return cache


STORIES: dict[str, tuple[list[Event], dict[str, int]]] = {
    "a cold read misses every page": (
        [add(0, 4), read(0, 4)],
        {"inserted": 4, "misses": 4},
    ),
    "the same read again hits every page": (
        [add(0, 4), read(0, 4), read(0, 4)],
        {"inserted": 4, "misses": 4, "hits": 4},
    ),
    "what was cached before we came is hit": ([read(0, 4)], {"hits": 4}),
    "a page of readahead is a miss when it is first asked for": (
        [add(0, 8), read(0, 2), read(2, 2), read(0, 4)],
        {"inserted": 8, "misses": 4, "hits": 4},
    ),
    "a later batch of the same read asks for nothing new": (
        [add(0, 2), read(0, 4), add(2, 2), read(2, 2, flags=AGAIN)],
        {"inserted": 4, "misses": 4},
    ),
    "another file's page is another page": (
        [add(0, 1, file=1), read(0, 1, file=2)],
        {"inserted": 1, "hits": 1},
    ),
    "the first to ask has the miss, whoever brought it in": (
        [add(0, 1, tgid=1), read(0, 1, tgid=2), read(0, 1, tgid=3)],
        {"inserted": 1, "misses": 1, "hits": 1},
    ),
    "a fault on a cached page is a hit": ([fault(3)], {"hits": 1}),
    "a fault on a page of readahead is a miss": (
        [add(0, 4), fault(3)],
        {"inserted": 4, "misses": 1},
    ),
    "fault-around is one access, however much it maps": ([fault_around(0, 16)], {"hits": 1}),
    "fault-around over fresh pages is one miss": (
        [add(0, 16), fault_around(0, 16)],
        {"inserted": 16, "misses": 1},
    ),
    "of what fault-around maps, the page of the fault alone is judged": (
        [add(0, 8), fault_around(0, 16, flags=WANTED, call=9)],
        {"inserted": 8, "hits": 1},
    ),
    "what fault-around mapped is a miss when it is asked for first": (
        [add(0, 16), fault_around(0, 16, flags=WANTED, call=3), read(0, 16)],
        {"inserted": 16, "misses": 16, "hits": 1},
    ),
    "what fault-around mapped was not wasted": (
        [add(0, 20), fault_around(0, 16, flags=WANTED, call=3), delete(0, 16), delete(16, 4)],
        {"inserted": 20, "misses": 1, "evicted": 20, "wasted": 4},
    ),
    "a later event judges what came in behind the one before": (
        [read(0, 8), add(1, 7), read(0, 8, flags=AGAIN)],
        {"inserted": 7, "misses": 7, "hits": 1},
    ),
    "a fault that looks around first is one access": (
        [fault_around(0, 16), fault(20, flags=AGAIN)],
        {"hits": 1},
    ),
    "a fault that waits for its page is one miss": (
        [fault_around(0), fault(2, flags=AGAIN), add(0, 4, flags=WANTED, call=2)],
        {"inserted": 4, "misses": 1},
    ),
    "the page that a fault waited for is a hit from then on": (
        [fault(2), add(0, 4, flags=WANTED, call=2), read(2, 1)],
        {"inserted": 4, "misses": 1, "hits": 1},
    ),
    "its neighbours are still to be missed": (
        [fault(2), add(0, 4, flags=WANTED, call=2), read(0, 4)],
        {"inserted": 4, "misses": 4, "hits": 1},
    ),
    "counted runs are hits": ([run_of_hits(1000)], {"hits": 1000}),
    "a page that leaves unread is wasted": (
        [add(0, 4), read(0, 1), delete(0, 4)],
        {"inserted": 4, "misses": 1, "evicted": 4, "wasted": 3},
    ),
    "a page that left and came back is a miss once more": (
        [add(), read(), delete(), add(), read()],
        {"inserted": 2, "misses": 2, "evicted": 1},
    ),
    "a write to a new page is a dirty miss": (
        [add(0, 2), dirty(0, 2)],
        {"inserted": 2, "dirties": 2, "dirty_misses": 2, "dirty_folios": 2, "written_in": 2},
    ),
    "a write to a cached page is a write hit": (
        [dirty(0, 2)],
        {"dirties": 2, "dirty_folios": 2},
    ),
    "a page that a write filled is a dirty miss, too": (
        [add(0, 2, flags=WRITTEN, call=0, whole=2), dirty(0, 2)],
        {"inserted": 2, "dirties": 2, "dirty_misses": 2, "dirty_folios": 2, "written_in": 2},
    ),
    "a page that a write filled and did not make dirty is hit": (
        [add(0, 4, flags=WRITTEN, call=1, whole=2), read(0, 4)],
        {"inserted": 4, "written_in": 2, "hits": 2, "misses": 2},
    ),
    "of a large folio that becomes dirty, the pages that were reached are dirtied": (
        [dirty(5, 1, call=5, whole=16)],
        {"dirties": 1, "dirty_folios": 16},
    ),
    "other pages of it are dirtied later, each once": (
        [dirty(5, 1, call=5, whole=16), write(4, 3), write(4, 3)],
        {"dirties": 3, "dirty_folios": 16},
    ),
    "when it was clean in between all begins anew": (
        [dirty(5, 1, call=5, whole=16), dirty(5, 1, call=5, whole=16), write(5, 2)],
        {"dirties": 3, "dirty_folios": 32},
    ),
    "what a write did not reach in the end was not dirtied": (
        [dirty(2, 10, call=2, whole=16), write(6, 6, flags=SHORT)],
        {"dirties": 4, "dirty_folios": 16},
    ),
    "it is dirtied once it is reached": (
        [dirty(2, 10, call=2, whole=16), write(6, 6, flags=SHORT), write(5, 3), write(0, 16)],
        {"dirties": 16, "dirty_folios": 16},
    ),
    "what was cut off a dirty folio is dirtied again when it is reached": (
        [dirty(0, 16, call=0, whole=16), write(8, 8, flags=EMPTIED), write(4, 6), write(4, 6)],
        {"dirties": 18, "dirty_folios": 16},
    ),
    "of what can be stored to, that was not reached, nothing is sure any more": (
        [dirty(5, 1, call=5, whole=16), write(0, 0, flags=UNSURE, whole=99), write(0, 16)],
        {"dirties": 1, "dirty_folios": 16, "unsure": 15},
    ),
    "what is fresh stays so when it can be stored to": (
        [add(0, 4), write(0, 0, flags=UNSURE, whole=99), read(0, 4)],
        {"inserted": 4, "misses": 4},
    ),
    "writes to pages that are in no such folio are of no interest": ([write(0, 4)], {}),
    "of a folio whose writes are not seen nothing is counted later": (
        [dirty(0, 1, whole=16, flags=UNSURE), write(4, 3)],
        {"dirties": 1, "dirty_folios": 16, "unsure": 15},
    ),
    "what a write does not reach stays unread": (
        [add(0, 4), dirty(0, 1, whole=4), read(0, 4)],
        {
            "inserted": 4,
            "dirties": 1,
            "dirty_misses": 1,
            "dirty_folios": 4,
            "written_in": 1,
            "misses": 3,
            "hits": 1,
        },
    ),
    "what the file has no more was not evicted": (
        [delete(0, 2), delete(2, 3, flags=REMOVED)],
        {"evicted": 2, "removed": 3},
    ),
    "what was written first is hit by a read": (
        [add(), dirty(), read()],
        {
            "inserted": 1,
            "dirties": 1,
            "dirty_misses": 1,
            "dirty_folios": 1,
            "written_in": 1,
            "hits": 1,
        },
    ),
    "a large folio counts as its pages": (
        [add(0, 512), read(100, 1), delete(0, 512)],
        {"inserted": 512, "misses": 1, "evicted": 512, "wasted": 511},
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_story(story: str) -> None:
    events, counts = STORIES[story]
    assert sums(fed(*events)) == counts


def test_counts_are_kept_by_process_and_file() -> None:
    tally = fed(read(tgid=1), read(tgid=1, file=2), read(tgid=2), read(tgid=1)).take()
    one, two = numbered(1), numbered(2)
    assert tally.select("tgid", "file", "hits").rows() == [(1, one, 2), (1, two, 1), (2, one, 1)]


def test_what_was_taken_is_not_counted_again() -> None:
    cache = fed(read())
    cache.take()
    assert sums(cache) == {}


def test_events_are_those_counted_and_one_for_each_hit_of_a_run() -> None:
    cache = fed(add(), read(), run_of_hits(5))
    assert (cache.take_events(), cache.take_events()) == (7, 0)


def test_the_miss_of_a_fault_that_waits_can_come_an_interval_later() -> None:
    cache = fed(fault(ns=1), until_ns=2, last=False)
    assert sums(cache) == {"hits": 1}
    cache.feed(make_rows(add(0, 1, ns=3, flags=WANTED)), END, last=True)
    assert sums(cache) == {"inserted": 1, "misses": 1}


# What waits for the next interval.


def test_what_is_later_than_the_interval_waits() -> None:
    cache = fed(read(ns=5), read(ns=6), until_ns=5, last=False)
    assert sums(cache) == {"hits": 1}
    cache.feed(make_rows(), 6)
    assert sums(cache) == {"hits": 1}


@pytest.mark.parametrize(
    ("pages", "age_ns", "waits"),
    [(1, 1, False), (2, 1, True), (2, SETTLE_NS - 1, True), (2, SETTLE_NS, False)],
)
def test_a_read_of_several_pages_waits_while_it_may_be_under_way(
    pages: int, age_ns: int, waits: bool
) -> None:
    cache = fed(read(0, pages, ns=SECOND - age_ns), until_ns=SECOND, last=False)
    assert sums(cache) == ({} if waits else {"hits": pages})
    cache.feed(make_rows(), 2 * SECOND)
    assert sums(cache) == ({"hits": pages} if waits else {})


def test_a_read_that_another_one_of_its_thread_followed_is_over() -> None:
    events = [read(0, 4, ns=SECOND - 3, call=1), read(4, 4, ns=SECOND - 2, call=2)]
    assert sums(fed(*events, until_ns=SECOND, last=False)) == {"hits": 4}


def test_a_read_whose_last_batch_asked_for_one_page_is_over() -> None:
    events = [read(0, 4, ns=SECOND - 3), read(3, 1, ns=SECOND - 2, flags=AGAIN)]
    assert sums(fed(*events, until_ns=SECOND, last=False)) == {"hits": 4}


def test_all_batches_of_a_read_wait_together() -> None:
    events = [read(0, 4, ns=1, call=1), read(2, 2, ns=SECOND - 2, call=1, flags=AGAIN)]
    cache = fed(*events, until_ns=SECOND, last=False)
    assert sums(cache) == {}
    cache.feed(make_rows(), 2 * SECOND)
    assert sums(cache) == {"hits": 4}


def test_a_read_of_another_thread_does_not_wait_along() -> None:
    events = [read(0, 4, ns=SECOND - 3, tid=1), read(0, 1, ns=SECOND - 2, tid=2)]
    assert sums(fed(*events, until_ns=SECOND, last=False)) == {"hits": 1}


def test_rows_of_several_cpus_are_put_in_order_of_time_across_chunks() -> None:
    cache = fed(read(ns=7), until_ns=5, last=False)  # one CPU was asked later than the other
    cache.feed(make_rows(add(ns=6)), END, last=True)
    assert sums(cache) == {"inserted": 1, "misses": 1}


def test_nothing_waits_at_the_end() -> None:
    assert sums(fed(read(0, 4, ns=SECOND + 1), until_ns=SECOND)) == {"hits": 4}


def test_a_page_read_and_dropped_in_one_call_was_missed_also_where_the_call_waits() -> None:
    events = [add(0, 4), read(0, 4), delete(0, 4)]
    cache = fed(*events, until_ns=SECOND // 100, last=False)
    cache.feed(make_rows(), END, last=True)
    assert sums(cache) == {"inserted": 4, "misses": 4, "evicted": 4}


# Any stream.


def by_key(*takes: Any) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The sums over several take(), by KEYS, without those that are 0 everywhere."""
    names = ("accesses", *COUNTS[1:])
    totals: dict[tuple[int, ...], tuple[int, ...]] = {}
    for tally in takes:
        for row in tally.select(*KEYS, *names).rows():
            key, counts = row[: len(KEYS)], row[len(KEYS) :]
            before = totals.get(key, (0,) * len(counts))
            totals[key] = tuple(a + b for a, b in zip(before, counts, strict=True))
    return {key: counts for key, counts in totals.items() if any(counts)}


def in_chunks(rows: Events, cuts: list[int], early: list[bool]) -> list[tuple[Events, int]]:
    """Rows as they arrive: each by the end of its interval, some in the chunk before it."""
    untils = [*sorted(cuts), END]
    due = np.searchsorted(untils, rows["ns"])
    due -= np.resize(np.array([*early, False]), len(rows)) & (due > 0)
    return [(rows[due == number], until) for number, until in enumerate(untils)]


@settings(max_examples=300)
@given(
    events=events_at_random(),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    early=st.lists(st.booleans(), max_size=30),
)
def test_a_stream_in_chunks_gives_the_sums_of_the_whole(
    events: list[Event], cuts: list[int], early: list[bool]
) -> None:
    rows = make_rows(*events)
    cache, takes, counted = PageCache(), [], 0
    for chunk, until_ns in in_chunks(rows, cuts, early):
        cache.feed(chunk, until_ns, last=until_ns == END)
        takes.append(cache.take())
        counted += cache.take_events()
    whole = PageCache()
    whole.feed(rows, END, last=True)
    assert by_key(*takes) == by_key(whole.take())
    assert counted == whole.take_events()
    assert cache.unused_pages == whole.unused_pages


@given(
    events=events_at_random(kinds=(Kind.ADD, Kind.READ), most_pages=4),
    cuts=st.lists(st.integers(0, 30), max_size=3),
)
def test_no_access_is_lost_where_reads_wait(events: list[Event], cuts: list[int]) -> None:
    rows = make_rows(*events)
    cache, takes = PageCache(), []
    for chunk, until_ns in in_chunks(rows, cuts, []):
        cache.feed(chunk, until_ns, last=until_ns == END)
        takes.append(cache.take())
    once = (rows["kind"] == Kind.READ) & (rows["flags"] & AGAIN == 0)
    assert sum(take["accesses"].sum() for take in takes) == rows["pages"][once].sum()


@given(events_at_random(most_pages=4), st.integers(0, 30))
def test_hits_are_never_negative(events: list[Event], cut: int) -> None:
    cache = PageCache()
    for chunk, until_ns in in_chunks(make_rows(*events), [cut], []):
        cache.feed(chunk, until_ns, last=until_ns == END)
        assert (cache.take()["hits"] >= 0).all()


# What is fresh.


def test_fresh_pages_are_unused_until_they_are_asked_for() -> None:
    assert fed(add(0, 8), read(0, 2)).unused_pages == 6


def test_pages_of_block_devices_are_no_readahead() -> None:
    assert fed(add(0, 8, file=9, flags=DEVICE), add(0, 2)).unused_pages == 2


def buckets(cache: PageCache) -> dict[int, int]:
    numbers, entered = cache.settled()
    return dict(zip(numbers.tolist(), entered.tolist(), strict=True))


def bucket(file: int) -> int:
    return numbered(file) % BUCKETS


def test_a_bucket_settles_with_all_that_entered_when_its_last_fresh_page_is_read() -> None:
    cache = fed(add(0, 4), add(4, 4), read(0, 4))
    assert bucket(1) not in buckets(cache)
    cache.feed(make_rows(read(4, 4)), END, last=True)
    assert buckets(cache)[bucket(1)] == 2


def test_all_other_buckets_are_settled() -> None:
    settled = buckets(fed(add(file=1)))
    assert len(settled) == BUCKETS - 1
    assert not any(settled.values())


def test_a_file_is_not_settled_by_another_in_its_bucket() -> None:
    other = BUCKETS + 1
    cache = fed(add(file=1), add(file=other), read(file=other))
    assert bucket(1) not in buckets(cache)


# Runs and events as rows.


def test_a_run_becomes_a_row_of_hits_before_all_events() -> None:
    layout = [("file", "u8"), ("tgid", "u4"), ("hits", "u4"), ("epoch", "u4")]
    runs = np.array([(numbered(3), 1, 70, 9)], layout)
    rows = rows_of(make_rows(add(5, 2)), runs, NOTHING_SPILLED)
    assert rows.dtype == ROW
    assert rows[1] == make_rows(add(5, 2))[0]
    assert rows[0] == make_rows(event(Kind.HITS, 0, 70, file=3, tgid=1, tid=0, ns=0))[0]


def test_reads_whose_begin_is_not_known_are_told() -> None:
    cache = fed(read(4, 2, flags=Flag.UNSURE), read(0, 2), read(8, 2, flags=Flag.UNSURE))
    assert (cache.take_unsure(), cache.take_unsure()) == (2, 0)


def test_a_read_that_may_have_ended_anywhere_is_as_many_as_its_batches() -> None:
    cache = fed(read(0, 63, flags=UNSURE), read(0, 31, flags=UNSURE))
    assert cache.take_unsure() == 3 + 1


def test_what_fault_around_mapped_is_not_unused() -> None:
    cache = fed(add(0, 20), fault_around(0, 16, flags=WANTED, call=3))
    assert cache.unused_pages == 4


def test_a_request_that_is_done_does_not_wait_for_more() -> None:
    cache = fed(read(0, 8, flags=Flag.OVER), until_ns=2, last=False)
    assert sums(cache) == {"hits": 8}
