"""The account of the host, out of files of /proc and /sys laid out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtap.bpf.errors import MemtapError
from memtap.tracers.ledger import memory
from memtap.tracers.ledger.account import Facts, account
from memtap.tracers.ledger.columns import ledger_columns
from memtap.tracers.ledger.report import change_of, changes, look, report_of
from memtap.tracers.ledger.spaces import Sums, rings_in
from memtap.tracers.model.report import Row

KIB, PAGE = 1 << 10, 4096

# 10,000 KiB of MemTotal are in no counter.
MEMINFO = {
    "MemTotal": 966_424,
    "MemFree": 300_000,
    "MemAvailable": 500_000,
    "Buffers": 20_000,
    "Cached": 250_000,
    "SwapCached": 8_000,
    "Unevictable": 40,
    "SwapTotal": 100_000,
    "SwapFree": 70_000,
    "Zswap": 3_000,
    "Zswapped": 9_000,
    "Dirty": 50,
    "Writeback": 6,
    "AnonPages": 150_000,
    "Mapped": 60_000,
    "Shmem": 90_000,
    "KReclaimable": 41_000,
    "Slab": 70_000,
    "SReclaimable": 40_000,
    "SUnreclaim": 30_000,
    "KernelStack": 5_000,
    "PageTables": 6_000,
    "Bounce": 0,
    "WritebackTmp": 1_000,
    "VmallocUsed": 25_000,
    "Percpu": 4_000,
    "Hugetlb": 102_400,
}
LISTED = 150_000 + 250_000 + 20_000 + 7_000  # KiB: 7,000 of the swap cache are mapped by nobody
ZONEINFO = f"""Node 0, zone    DMA32
  per-node stats
      nr_inactive_anon {LISTED // 4 - 30}
      nr_active_file 20
      nr_isolated_anon 10
      nr_dirty     11690
  pages free     50000
        boost    0
        present  120000
        managed  100000
      nr_free_pages 50000
  pagesets
    cpu: 0
              count:    1000
              high:     5000
              batch:    63
    cpu: 1
              count:    500
  node_unreclaimable:  0
Node 0, zone   Normal
  pages free     25000
        present  150000
        managed  150000
  pagesets
    cpu: 0
              count:    1000
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    text = "".join(f"{name}: {kib} kB\n" for name, kib in MEMINFO.items())
    files = {
        "proc/meminfo": text,
        "proc/zoneinfo": ZONEINFO,
        "proc/vmstat": "nr_free_pages 75000\nnr_memmap_boot_pages 4000\n",
        "proc/net/sockstat": "sockets: used 21\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 200\n"
        "UDP: inuse 0 mem 50\nFRAG: inuse 0 memory 0\n",
        "proc/net/sockstat6": "TCP6: inuse 0\nFRAG6: inuse 1 memory 24576\n",
        "proc/kallsyms": "0 T _text\n0 t free_vm_stack_cache\n",
        "sys/block/zram0/mm_stat": "8192000 2000000 4096000 0 4096000 0 0 0 0\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "10\n",
        "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages": "0\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def sizes(host: Path, sums: Sums | None = None) -> dict[str, int]:
    """The account in KiB."""
    sums = sums or Sums(shmem=25_000 * KIB, rings=2_000 * KIB)
    seen = memory.look(host)
    return {line.name: size // KIB for line, size in account(Facts(seen, sums))}


def test_every_page_is_in_one_line(host: Path) -> None:
    found = sizes(host)
    assert found == {
        "anon": 150_000,
        "file-mapped": 35_000,
        "shmem-mapped": 25_000,
        "file-unmapped": 125_000,
        "shmem-unmapped": 65_000,
        "buffers": 20_000,
        "swap-cache": 7_000,
        "anon-unmapped": 0,
        "slab-reclaimable": 40_000,
        "slab-unreclaimable": 30_000,
        "other-reclaimable": 1_000,
        "page-tables": 6_000,
        "stacks": 5_000,
        "vmalloc": 20_000,
        "percpu": 4_000,
        "sockets": 1_024,
        "rings": 2_000,
        "bounce": 1_000,
        "hugetlb-used": 102_400 - 20_480,
        "hugetlb-free": 20_480,
        "zswap": 3_000,
        "zram": 4_000,
        "free": 300_000,
        "free-on-cpus": 10_000,
        "unexplained": 10_000,
        "kernel-reserved": 80_000,
        "memmap-at-boot": 16_000,
        "available": 500_000,
        "dirty": 56,
        "unevictable": 40,
        "swap-used": 30_000,
        "zswap-stored": 9_000,
        "zram-stored": 8_000,
    }
    assert sum(list(found.values())[: list(found).index("unexplained") + 1]) == 966_424


def test_stacks_that_are_not_in_vmalloc_are_not_taken_out_of_it(host: Path) -> None:
    (host / "proc/kallsyms").write_text("0 T _text\n")
    assert (sizes(host)["vmalloc"], sizes(host)["stacks"]) == (25_000, 5_000)


def test_parts_of_huge_pages_that_nobody_maps_are_told_from_the_swap_cache(host: Path) -> None:
    text = ZONEINFO.replace("nr_active_file 20", "nr_active_file 1020")
    (host / "proc/zoneinfo").write_text(text)
    found = sizes(host)
    assert (found["swap-cache"], found["anon-unmapped"]) == (8_000, 3_000)


def test_more_shared_memory_mapped_than_there_was_makes_no_line_negative(host: Path) -> None:
    found = sizes(host, Sums(shmem=1 << 40, rings=0))
    assert (found["shmem-mapped"], found["file-mapped"]) == (60_000, 0)
    assert min(found.values()) >= 0


def test_what_a_kernel_does_not_tell_is_said_and_is_no_line(host: Path) -> None:
    seen = look("line", host)
    assert {"gpu", "balloon", "sec-page-tables", "unaccepted"} <= set(seen.untold)
    assert not set(seen.untold) & {row["line"] for row in seen.rows}
    (note,) = report_of(seen, ledger_columns("line", "kib", False)).audit["notes"]
    assert "does not tell of" in note and "gpu" in note


def test_files_that_are_not_there_are_nothing(host: Path) -> None:
    for name in ("proc/net/sockstat", "sys/block/zram0/mm_stat", "proc/kallsyms"):
        (host / name).unlink()
    found = sizes(host)
    assert (found["sockets"], found["zram"], found["vmalloc"]) == (24, 0, 20_000)


def test_rings_are_what_is_mapped_of_them() -> None:
    maps = (
        b"7f0000000000-7f0000003000 rw-s 00000000 00:0e 11   anon_inode:[perf_event]\n"
        b"7f0000010000-7f0000011000 rw-s 00000000 00:0e 11   anon_inode:[io_uring]\n"
        b"7f0000020000-7f0000022000 rw-s 00000000 00:08 345  socket:[345]\n"
        b"7f0000030000-7f0000040000 rw-s 00000000 00:0e 11   anon_inode:[eventfd]\n"
        b"7f0000050000-7f0000060000 rw-s 00000000 08:01 99   /tmp/anon_inode:[perf_event]\n"
    )
    assert rings_in(maps) == 6 * PAGE


def row(line: str, size: int, group: str = "kernel") -> Row:
    return {"group": group, "line": line, "size_bytes": size, "share_pct": 1.0}


def test_what_came_and_went_is_the_change() -> None:
    before = [row("slab", 10), row("percpu", 7), row("gone", 4)]
    after = [row("slab", 60), row("percpu", 7), row("new", 5)]
    found = {each["line"]: each["size_bytes"] for each in changes(before, after, 1000)}
    assert found == {"slab": 50, "new": 5, "gone": -4}
    assert changes(before, after, 1000)[0]["share_pct"] == 5.0


def test_an_interval_tells_of_its_end_and_its_length(host: Path) -> None:
    columns = ledger_columns("line", "kib", True)
    before = look("line", host)
    text = (host / "proc/meminfo").read_text()
    grown = text.replace("AnonPages: 150000", "AnonPages: 160000")
    (host / "proc/meminfo").write_text(grown)
    report = change_of(before, look("line", host), columns)
    found = {each["line"]: each["size_bytes"] // KIB for each in report.rows}
    assert found["anon"] == 10_000
    assert report.totals and report.totals["size_bytes"] == 0
    assert report.audit["kernel"]["AnonPages"] == 10_000


def test_processes_of_one_user_are_one_row(host: Path) -> None:
    assert look("user", host).rows == []  # nobody is in this /proc
    found = look("user").rows
    whole = look("process").rows
    assert sum(each["processes"] for each in found) == pytest.approx(len(whole), abs=10)
    assert {each["uid"] for each in found} <= {each["uid"] for each in whole} | {0}


def test_a_host_that_hides_its_files_is_told_in_words(host: Path) -> None:
    (host / "proc/zoneinfo").unlink()
    with pytest.raises(MemtapError, match="proc/zoneinfo cannot be read"):
        memory.look(host)
