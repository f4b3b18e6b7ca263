"""Explains an account in plain words: where memory went, and what could be freed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from memtap.tracers.ledger.account import BESIDE, UNEXPLAINED
from memtap.tracers.model.report import Row, size_text

# A line gets a sentence if it has at least this share of MemTotal.
_MUCH = 0.01
# A cgroup is close to its limit from here on.
_CLOSE = 0.9

_CALLED = {
    "anon": "anonymous memory of processes",
    "file-mapped": "files that processes map",
    "shmem-mapped": "shared memory that processes map",
    "file-unmapped": "the page cache of files that no process maps",
    "shmem-unmapped": "files on tmpfs, memfds and segments that no process maps",
    "anon-unmapped": "parts of huge pages that no process maps any more",
    "hugetlb-used": "huge pages in use",
    "hugetlb-free": "huge pages that are not in use",
    UNEXPLAINED: "what no counter of the kernel explains",
}

# Sentences for lines that are large, and what they mean.
_MEANS = {
    "shmem-unmapped": "{size} is in files on tmpfs, memfds and segments that no process maps: "
    "only deleting or closing them gives it back (memtap shm).",
    "anon-unmapped": "{size} is in parts of huge pages that no process maps any more: the "
    "kernel splits them when memory is scarce.",
    "hugetlb-free": "{size} lies in huge pages that are unused, and of no other use: a lower "
    "vm.nr_hugepages gives it back at once.",
    "slab-unreclaimable": "{size} is in kernel objects that cannot be taken back: memtap slab "
    "tells of which caches they are, and whether they grow.",
    "page-tables": "{size} is in page tables: memtap ps --wide -s pgtables has "
    "those of each process.",
    "percpu": "{size} is in counters that there are once for each CPU: many cgroups, also removed "
    "ones, and BPF maps take such.",
    "rings": "{size} is in buffers of tracers and packet sockets: they go when these end.",
    "sockets": "{size} waits in sockets to be read, or to be sent.",
    "free-on-cpus": "{size} is free, though MemFree lacks it: CPUs keep it for themselves.",
    UNEXPLAINED: "{size} is in no counter of the kernel: drivers, pipes and BPF ring buffers take "
    "memory without counting it.",
}


def of_host(rows: Sequence[Row], total: int) -> list[str]:
    """Sentences on the lines of the host."""
    sizes = {row["line"]: row["size_bytes"] for row in rows}
    taken = {n: s for n, s in _parts(rows).items() if not n.startswith("free")}
    largest = sorted(taken, key=lambda name: -taken[name])[:3]
    parts = "; ".join(f"{_called(name)}, {_share(taken[name], total)}" for name in largest)
    means = [
        text.format(size=size_text(sizes[name]))
        for name, text in _MEANS.items()
        if sizes.get(name, 0) >= total * _MUCH
    ]
    free = sizes["free"] + sizes["free-on-cpus"]
    first = f"Of {size_text(total)}, {_share(free, total)} is free. Most of the rest is {parts}."
    return [first, *_at_once(sizes), *means]


def _parts(rows: Sequence[Row]) -> dict[str, int]:
    return {row["line"]: row["size_bytes"] for row in rows if row["group"] != BESIDE}


def _at_once(sizes: dict[str, int]) -> Iterator[str]:
    """What the kernel can take back without writing anything."""
    cached = max(0, sizes["file-unmapped"] + sizes["buffers"] - sizes["dirty"])
    slab = sizes["slab-reclaimable"]
    yield (
        f"Without writing anything the kernel can take back up to {size_text(cached)} of page "
        f"cache that no process maps and is not dirty, and some of {size_text(slab)} of slab: it "
        f"does so by itself when memory is wanted, and holds {size_text(sizes['available'])} for "
        "available."
    )


def of_change(rows: Sequence[Row], seconds: float) -> list[str]:
    """Sentences on which lines of the host grew and shrank."""
    parts = _parts(rows)
    grew = sorted((n for n in parts if parts[n] > 0), key=lambda name: -parts[name])[:3]
    shrank = sorted((n for n in parts if parts[n] < 0), key=lambda name: parts[name])[:3]
    said = [f"{_called(name)} (+{size_text(parts[name])})" for name in grew]
    lost = [f"{_called(name)} ({size_text(parts[name])})" for name in shrank]
    if not said:
        return [f"In {seconds:.0f} s nothing changed."]
    return [f"In {seconds:.0f} s most went to {', '.join(said)}, and came from {', '.join(lost)}."]


def of_cgroups(rows: Sequence[Row], total: int) -> list[str]:
    """Sentences on cgroups."""
    return [text for of in (_largest, _near_limit, _killed, _gone) for text in of(rows, total)]


def _largest(rows: Sequence[Row], total: int) -> Iterator[str]:
    if len(rows) < 2:
        return
    row = max(rows[1:], key=lambda row: row["own_bytes"])
    kinds = {
        "anonymous memory": row["anon_bytes"],
        "page cache": row["file_bytes"],
        "shared memory and files on tmpfs": row["shmem_bytes"],
        "memory of the kernel": row["kernel_bytes"],
    }
    kind = max(kinds, key=lambda name: kinds[name] or 0)
    size, much = size_text(row["own_bytes"]), size_text(kinds[kind] or 0)
    whole = "" if row["own_bytes"] == row["size_bytes"] else f" of {size_text(row['size_bytes'])}"
    yield f"{_name(row)} has the most of its own, {size}{whole}; most of it all is {kind} ({much})."


def _near_limit(rows: Sequence[Row], _total: int) -> Iterator[str]:
    limited = [row for row in rows if row["limit_bytes"]]
    for row in sorted(limited, key=_filled, reverse=True)[:3]:
        if _filled(row) >= _CLOSE:
            limit = size_text(row["limit_bytes"])
            held = size_text(row["file_bytes"] or 0)
            yield (
                f"{_name(row)} has {_filled(row):.0%} of its limit of {limit}; {held} of it is "
                "page cache, which it gives up before anything of it is killed."
            )


def _filled(row: Row) -> float:
    share: float = row["size_bytes"] / row["limit_bytes"]
    return share


def _killed(rows: Sequence[Row], _total: int) -> Iterator[str]:
    found = [row for row in rows[1:] if (row["oom_kills"] or 0) > 0]
    if found:
        row = max(found, key=lambda row: (row["oom_kills"], row["depth"]))
        yield (
            f"In {_name(row)} {row['oom_kills']} processes were killed for lack of memory since it "
            "was made (memtap oom)."
        )


def _gone(rows: Sequence[Row], _total: int) -> Iterator[str]:
    gone = rows[0]["dying"] if rows else None
    if gone:
        yield (
            f"{gone} cgroups were removed and are still charged, as for files in the page cache or "
            "on tmpfs: that is in OWN of those that they were in, until it is deleted or reclaimed "
            "(memtap files -b cgroup shows these files)."
        )


def _called(line: str) -> str:
    return _CALLED.get(line, line.replace("-", " "))


def _name(row: Row) -> str:
    return f"{row['cgroup']} ({row['called']})" if row["called"] else str(row["cgroup"])


def _share(size: int, total: int) -> str:
    return f"{size_text(size)} ({size / total:.1%})"


def of_spaces(rows: Sequence[Row], total: int) -> list[str]:
    """Sentences on processes, or users."""
    known = [row for row in rows if row["total_bytes"]]
    if not known:
        return ["Nobody whose memory can be read has any."]
    row = known[0]
    kinds = {
        "anonymous memory": row["anon_bytes"],
        "files that it maps": row["file_bytes"],
        "shared memory": row["shmem_bytes"],
        "page tables": row["pgtables_bytes"],
    }
    kind = max(kinds, key=lambda name: kinds[name] or 0)
    name = f"Process {row['pid']} ({row['comm']})" if "pid" in row else f"User {row['user']}"
    said, much = _share(row["total_bytes"], total), size_text(kinds[kind] or 0)
    first = f"{name} takes the most, {said}; most of it is {kind}, {much}."
    own = sum(row["total_bytes"] for row in known)
    return [first, f"All of them take {_share(own, total)}; memtap ledger tells of the rest."]


def of_amounts(rows: Sequence[Row], seconds: float) -> list[str]:
    """Sentences on what grew and shrank most, of cgroups, processes or users."""
    key = "own_bytes" if rows and "own_bytes" in rows[0] else "total_bytes"
    known = [row for row in rows if row[key]]
    ends = (
        (max(known, key=lambda row: row[key]), min(known, key=lambda row: row[key]))
        if known
        else ()
    )
    words = {True: "grew", False: "shrank"}
    said = [
        f"{_whose(row)} {words[row[key] > 0]} most, by {size_text(abs(row[key]))}"
        for row, grows in zip(ends, (True, False), strict=False)
        if (row[key] > 0) == grows
    ]
    return [
        f"In {seconds:.0f} s {' and '.join(said)}."
        if said
        else f"In {seconds:.0f} s nothing changed."
    ]


def _whose(row: Row) -> str:
    if "cgroup" in row:
        return _name(row)
    return f"process {row['pid']} ({row['comm']})" if "pid" in row else f"user {row['user']}"


# By key: the explanation of sizes, given MemTotal; and that of changes, given the seconds.
WORDS: dict[str, Callable[[Sequence[Row], int], list[str]]] = {
    "line": of_host,
    "cgroup": of_cgroups,
    "process": of_spaces,
    "user": of_spaces,
}
CHANGED: dict[str, Callable[[Sequence[Row], float], list[str]]] = {
    "line": of_change,
    "cgroup": of_amounts,
    "process": of_amounts,
    "user": of_amounts,
}
