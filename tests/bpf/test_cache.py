"""What was compiled is found again, unless somebody else could have put it there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from memtap.bpf import cache
from memtap.bpf.cache import MOST_FILES, Cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a cache of the text `text` is, which was compiled to `answer`."""
    folder = tmp_path / "cache"
    Cache(folder).keep("text", "answer")
    return folder


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_it_is_found_again_by_its_text_alone(folder: Path) -> None:
    assert Cache(folder).find("text") == "answer"
    assert Cache(folder).find("text ") is None


def test_nobody_else_can_look_into_it(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert only_file(folder).stat().st_mode & 0o777 == 0o600


def test_another_compiler_compiles_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(cache._compiled_with())
    monkeypatch.setattr(cache, "_compiled_with", lambda: [b"other"])
    assert Cache(folder).find("text") is None


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.parent.parent / "elsewhere"))


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        link,
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(b""),
        lambda path: path.chmod(0o620),
        lambda path: path.parent.chmod(0o770),
        lambda path: path.parent.chmod(0o707),
    ],
)
def test_what_is_damaged_or_open_to_others_is_not_used(
    folder: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(only_file(folder))
    assert Cache(folder).find("text") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("of", [only_file, lambda folder: folder])
def test_what_belongs_to_another_user_is_not_used(folder: Path, of: Callable[[Path], Path]) -> None:
    os.chown(of(folder), 65534, 65534)
    assert Cache(folder).find("text") is None


def test_nothing_is_kept_in_a_folder_open_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    Cache(tmp_path).keep("text", "answer")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    nowhere = Cache(tmp_path / "no" / "such")
    nowhere.keep("text", "answer")
    assert nowhere.find("text") is None


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    kept = Cache(tmp_path)
    for number in range(MOST_FILES):
        kept.keep(str(number), "answer")
        os.utime(kept._path(str(number)), (number, number))
    assert kept.find("0") == "answer"
    kept.keep("one more", "answer")
    assert len(list(tmp_path.iterdir())) == MOST_FILES
    assert kept.find("0") == "answer"
    assert kept.find("1") is None


def test_a_fifo_is_not_waited_for(folder: Path) -> None:
    path = only_file(folder)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert Cache(folder).find("text") is None
