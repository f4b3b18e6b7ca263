"""The kernel's own counters, out of its files."""

from __future__ import annotations

from pathlib import Path

from memtap.tracers.host.counters import VMSTAT, buffers_and_cached, difference, total, vmstat


def lay_out(root: Path, name: str, text: str) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / name).write_text(text)


def test_of_vmstat_only_what_a_report_shows_is_read(tmp_path: Path) -> None:
    lay_out(tmp_path, "vmstat", "nr_free_pages 5\npgfault 3\nnr_written 18446744073709551615\n")
    assert vmstat(tmp_path) == {"pgfault": 3, "nr_written": 2**64 - 1}


def test_this_kernel_counts_what_every_kernel_counts() -> None:
    assert set(vmstat()) >= set(VMSTAT) - {"thp_file_mapped", "workingset_refault_file"}


def test_meminfo_is_in_kibibytes(tmp_path: Path) -> None:
    text = (
        "MemTotal:  9 kB\nBuffers:   3 kB\nCached:   70 kB\nSwapCached: 4 kB\nHugePages_Total: 1\n"
    )
    lay_out(tmp_path, "meminfo", text)
    assert buffers_and_cached(tmp_path) == (3072, 71680)


def test_a_counter_that_was_not_there_before_began_at_nothing() -> None:
    assert difference({"a": 5, "b": 2}, {"a": 3, "c": 9}) == {"a": 2, "b": 2}


def test_a_total_has_every_counter_that_any_part_has() -> None:
    assert total({"a": 1}, {}, {"a": 2, "b": 3}) == {"a": 3, "b": 3}
