"""The text of smaps as columns: mappings whose fields differ, and paths that look like fields."""

from __future__ import annotations

import os
import re
from pathlib import Path

from memtap.tracers.code.mappings import parse_maps
from memtap.tracers.ps.smaps import PAGE_SIZE, Smaps

TEXT = rb"""00400000-00600000 r-xp 00000000 08:01 7 /bin/Size: 9 kB\012Rss: 8 kB
Size:               2048 kB
KernelPageSize:        4 kB
Rss:               1024 kB
Private_Clean:        12 kB
Private_Dirty:         8 kB
Swap:                  0 kB
THPeligible:           1
ProtectionKey:         0
VmFlags: rd ex mr mw me
10000000-20000000 rw-p 00000000 00:00 0
Size:          268435456 kB
KernelPageSize:     2048 kB
Rss:           268435452 kB
Private_Dirty:      4096 kB
VmFlags: rd wr mr mw me ac
30000000-30001000 rw-s 00000000 00:01 9                          /SYSV00000000 (deleted)
Size:                  4 kB
KernelPageSize:        4 kB
Rss:                   4 kB
Private_Clean:         1 kB
Private_Dirty:         2 kB
Swap:                  3 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd wr sh mr mw me ms
"""


def test_each_mapping_has_its_own_numbers_whatever_fields_others_have() -> None:
    smaps = Smaps(TEXT)
    kib = {
        ("Size",): [2048, 268435456, 4],
        ("Rss",): [1024, 268435452, 4],
        ("Private_Clean", "Private_Dirty"): [20, 4096, 3],
        ("Swap",): [0, 0, 3],
        ("Private_Hugetlb",): [0, 0, 0],
        (PAGE_SIZE,): [4, 2048, 4],
    }
    for fields, sizes in kib.items():
        assert smaps.column(*fields) == [size << 10 for size in sizes]


def test_a_path_is_no_field() -> None:
    mapped = parse_maps(Smaps(TEXT).maps, 1)
    assert [each.start for each in mapped] == [0x400000, 0x10000000, 0x30000000]
    assert mapped[0].path == r"/bin/Size: 9 kB\012Rss: 8 kB"
    assert mapped[2].path == "/SYSV00000000 (deleted)"


def test_nothing_has_no_mappings() -> None:
    smaps = Smaps(b"")
    assert (smaps.maps, smaps.column("Rss")) == (b"", [])


def test_it_is_what_smaps_of_this_process_says_field_by_field() -> None:
    text = Path(f"/proc/{os.getpid()}/smaps").read_bytes()
    smaps = Smaps(text)
    fields = set(re.findall(rb"^(\w+): +\d+ kB$", text, re.MULTILINE))
    assert len(fields) > 15
    for field in fields:
        found = re.findall(rb"^%s: +(\d+) kB$" % field, text, re.MULTILINE)
        assert smaps.column(field.decode()) == [int(size) << 10 for size in found], field
