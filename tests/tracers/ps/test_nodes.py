"""numa_maps: text of hosts with several nodes, paths that look like fields, hosts without nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtap.bpf.errors import MemtapError
from memtap.tracers.ps.nodes import parse, process_rows, require, summed

# As a host with two nodes writes it.
TEXT = rb"""00400000 default file=/usr/bin/x\040N0\07512 mapped=3 N0=1 N1=2 kernelpagesize_kB=4
01a6e000 prefer (many):0-1 heap anon=5 dirty=5 active=0 N1=5 kernelpagesize_kB=4
7f0000000000 bind=static:0-1 anon=1024 dirty=1024 swapcache=1 N0=512 N1=512 kernelpagesize_kB=4
7f1000000000 interleave:0,2-3 file=/anon_hugepage\040(deleted) huge anon=2 dirty=2 N0=1 N10=1 \
kernelpagesize_kB=2048
7f2000000000 default file=/lib/libc.so.6
7ffd00000000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
""".replace(b"\\\n", b"")
KIB = 1 << 10


def test_each_mapping_has_its_policy_and_the_bytes_in_each_node() -> None:
    found = list(parse(TEXT))
    assert [each.start for each in found] == [
        *(0x400000, 0x1A6E000, 0x7F0000000000, 0x7F1000000000, 0x7F2000000000, 0x7FFD00000000)
    ]
    assert [each.policy for each in found] == [
        *("default", "prefer (many):0-1", "bind=static:0-1", "interleave:0,2-3", "default"),
        "default",
    ]
    assert [each.nodes for each in found] == [
        {0: 4 * KIB, 1: 8 * KIB},
        {1: 20 * KIB},
        {0: 2048 * KIB, 1: 2048 * KIB},
        {0: 2048 * KIB, 10: 2048 * KIB},
        {},
        {0: 12 * KIB},
    ]


def test_nodes_add_up() -> None:
    assert summed(parse(TEXT)) == {0: 4112 * KIB, 1: 2076 * KIB, 10: 2048 * KIB}
    assert summed(parse(b"")) == {}


def test_a_process_has_a_row_for_each_node() -> None:
    rows = process_rows({"pid": 7, "nodes": {0: 300, 3: 100}})
    assert [(row["node"], row["mapped_bytes"], row["share_pct"]) for row in rows] == [
        (0, 300, 75),
        (3, 100, 25),
    ]
    assert process_rows({"pid": 7, "nodes": {}}) == []


def test_a_process_that_was_not_read_has_a_row_without_numbers() -> None:
    (row,) = process_rows({"pid": 7, "nodes": None})
    assert (row["pid"], row["node"], row["mapped_bytes"], row["share_pct"]) == (7, None, None, None)


def test_a_kernel_without_nodes_is_said(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    with pytest.raises(MemtapError, match="CONFIG_NUMA") as raised:
        require(tmp_path)
    assert "--numa" in raised.value.hint
    (tmp_path / "proc/self/numa_maps").touch()
    require(tmp_path)
