"""Files that lost their name, by stat(2) and the maps of a process, both given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memtap.bpf.sideband import Mapped
from memtap.tracers.code.mappings import Place, Region
from memtap.tracers.code.unlinked import Unlinked

TGID, NUMBER, SECOND = 4194305, 7, 10**9


def look(unlinked: Unlinked, ino: int, now_ns: int) -> set[int]:
    """What one fault on /x, mapped with this inode number, is news of."""
    mapped = Mapped(0, TGID, 0x1000, 0x2000, 0, 1, ino, 1, 1, "/x")
    places = {NUMBER: Place(mapped, Region.FILE, "/x")}
    numbers, tgids = np.array([NUMBER], np.uint64), np.array([TGID], np.uint64)
    return unlinked.look(numbers, tgids, places, now_ns)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with one process, in whose root there is a file /x."""
    (tmp_path / f"proc/{TGID}/root").mkdir(parents=True)
    (tmp_path / f"proc/{TGID}/root/x").touch()
    return tmp_path


def write_maps(root: Path, ino: int, path: str) -> None:
    line = f"1000-2000 r--s 00000000 00:01 {ino} {path}\n"
    (root / f"proc/{TGID}/maps").write_text(line)


def test_a_file_that_has_another_number_by_stat_is_not_asked_for_twice(root: Path) -> None:
    """As on overlayfs."""
    ino = (root / f"proc/{TGID}/root/x").stat().st_ino + 1
    unlinked = Unlinked(root)
    write_maps(root, ino, "/x")
    assert look(unlinked, ino, SECOND) == set()
    (root / f"proc/{TGID}/maps").unlink()
    assert look(unlinked, ino, 2 * SECOND) == set()
    assert unlinked.numbers == set()


def test_what_is_there_again_is_not_deleted(root: Path) -> None:
    file = root / f"proc/{TGID}/root/x"
    ino = file.stat().st_ino
    unlinked = Unlinked(root)
    write_maps(root, ino, "/x (deleted)")
    file.rename(root / "away")
    assert look(unlinked, ino, SECOND) == {NUMBER}
    assert look(unlinked, ino, 2 * SECOND) == set()
    (root / "away").rename(file)
    assert look(unlinked, ino, 3 * SECOND) == {NUMBER}
    assert unlinked.numbers == set()


@pytest.mark.parametrize("there", [True, False])
def test_of_who_is_gone_nothing_is_known(there: bool, root: Path) -> None:
    if not there:
        (root / f"proc/{TGID}/root/x").unlink()
    unlinked = Unlinked(root)
    assert look(unlinked, 1, SECOND) == set()
    assert unlinked.numbers == set()
