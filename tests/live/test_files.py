"""Which file it was: by inode, also where several have one number, and by the name it was used."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memtap.bpf.btf import vmlinux
from tests.live.filesystems import file_system
from tests.live.tracing import PAGE, Row, Trace, evict, kept, make_file

PYTHON = "/usr/bin/python3"
PAGES = 200

Run = Callable[..., Trace]

READ = f"""
import os, sys
def read(path, pages={PAGES}):
    fd = os.open(path, os.O_RDONLY)
    for page in range(pages): os.pread(fd, {PAGE}, page * {PAGE})
    os.close(fd)
"""


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[Path]:
    with file_system("btrfs", disk) as folder:
        yield folder


@pytest.fixture
def folder(disk: Path, tmp_path: Path) -> Path:
    """One of the test's own, on the disk."""
    made = disk / tmp_path.name
    made.mkdir()
    return made


def rows_of(done: Trace, ino: int) -> list[Row]:
    assert done.status == 0, done.stderr
    return [row for row in done.report["rows"] if row["ino"] == ino]


def paths_of(done: Trace, ino: int) -> list[str]:
    return [row["path"] for row in rows_of(done, ino)]


def subvolume(folder: Path) -> Path:
    subprocess.check_call(["btrfs", "-q", "subvolume", "create", folder])
    return folder


def dev(path: Path) -> str:
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def dev_of_mount(path: Path) -> str:
    command = ["findmnt", "-n", "-o", "MAJ:MIN", "-T", path]
    return subprocess.check_output(command, text=True).strip()


def test_files_of_subvolumes_with_one_inode_number_are_several(btrfs: Path, trace: Run) -> None:
    """Pages of one that were read ahead make no access to another a miss."""
    files = [make_file(subvolume(btrfs / name) / "file", PAGES) for name in ("a", "b", "c")]
    assert len({file.stat().st_ino for file in files}) == 1
    evict(*files)
    code = f"{READ}\nfor path in sys.argv[1:4]: read(path)\nread(sys.argv[1])"
    done = trace(PYTHON, "-c", code, *files)
    assert [done.counts(file) for file in files] == [(PAGES, PAGES, 0), *[(0, PAGES, 0)] * 2]
    told = {row["path"]: row["dev"] for row in rows_of(done, files[0].stat().st_ino)}
    knows = vmlinux().member("btrfs_inode", "root") is not None
    assert told == {str(file): dev(file) if knows else dev_of_mount(file) for file in files}


def test_a_snapshot_is_no_part_of_what_it_was_taken_of(btrfs: Path, trace: Run) -> None:
    origin = make_file(subvolume(btrfs / "origin") / "file", PAGES)
    snapshot = btrfs / "snapshot"
    subprocess.check_call(["btrfs", "-q", "subvolume", "snapshot", btrfs / "origin", snapshot])
    os.sync()
    evict(origin, snapshot / "file")
    with kept(origin):
        done = trace(
            PYTHON, "-c", f"{READ}\nfor p in sys.argv[1:]: read(p)", snapshot / "file", origin
        )
    assert done.counts(origin) == (PAGES, 0, 0)
    assert done.counts(snapshot / "file") == (0, PAGES, 0)


@pytest.mark.parametrize("name", ["same", "other%d"])
def test_an_inode_number_that_is_used_again_is_another_file(
    name: str, folder: Path, trace: Run
) -> None:
    """ext4 gives a new file the number of the one that was deleted just before."""
    code = f"""{READ}
for number in range(4):
    path = sys.argv[1].replace("%d", str(number))
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    print(os.fstat(fd).st_ino)
    for page in range(10 + number): os.pwrite(fd, bytes({PAGE}), page * {PAGE})
    os.fsync(fd); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    read(path, 10 + number)
    os.close(fd); os.unlink(path)
"""
    done = trace(PYTHON, "-c", code, folder / name)
    inos = set(map(int, done.stdout.split()))
    rows = sorted(
        (row for ino in inos for row in rows_of(done, ino)), key=lambda r: r["misses_pages"]
    )
    counts = [(row["hits_pages"], row["misses_pages"], row["dirties_pages"]) for row in rows]
    assert counts == [(0, pages, pages) for pages in (10, 11, 12, 13)]
    assert all(row["path"].endswith(" (deleted)") for row in rows)


def test_a_file_whose_inode_left_memory_stays_one(tmp_path: Path, disk: Path, trace: Run) -> None:
    """A file system that is mounted again has all its inodes anew."""
    image = disk / "again.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.check_call(["mkfs.ext4", "-q", image])
    code = f"""{READ}
import subprocess
image, point = sys.argv[1:]
for _ in range(3):
    subprocess.check_call(["mount", "-o", "loop,sync", image, point])
    path = point + "/file"
    with open(path, "a") as file: os.truncate(path, 50 * {PAGE})
    os.link(path, point + "/other") if not os.path.exists(point + "/other") else None
    read(path, 50)
    print(os.stat(path).st_ino)
    subprocess.check_call(["umount", point])
"""
    done = trace("unshare", "-m", PYTHON, "-c", code, image, tmp_path)
    rows = rows_of(done, int(done.stdout.split()[0]))
    assert [row["hits_pages"] + row["misses_pages"] for row in rows] == [150]


def test_the_name_is_that_by_which_a_file_was_opened(folder: Path, trace: Run) -> None:
    file = make_file(folder / "opened", PAGES)
    others = [folder / f"{number}" for number in range(5)]
    for other in others:
        other.hardlink_to(file)
        other.open().close()
    code = f"{READ}\nread(sys.argv[1])"
    for path in (others[2], file, others[4]):
        done = trace(PYTHON, "-c", code, path)
        assert paths_of(done, file.stat().st_ino) == [str(path)]


@pytest.mark.parametrize(
    "how",
    [
        "out = os.open(os.devnull, 1); fd = os.open(p, 0); os.sendfile(out, fd, 0, 1 << 20)",
        "r, w = os.pipe(); fd = os.open(p, 0); os.splice(fd, w, 4096)",
        "import mmap; f = open(p); m = mmap.mmap(f.fileno(), 0, prot=1); f.close(); sum(m[::4096])",
    ],
    ids=["sendfile", "splice", "mmap"],
)
def test_whatever_the_way(how: str, folder: Path, trace: Run) -> None:
    file = make_file(folder / "opened", PAGES)
    for number in range(3):
        (folder / f"{number}").hardlink_to(file)
        (folder / f"{number}").open().close()
    done = trace(PYTHON, "-c", f"import os, sys; p = sys.argv[1]; {how}", file)
    assert paths_of(done, file.stat().st_ino) == [str(file)]


def test_a_file_in_another_place_of_a_bind_mount(folder: Path, trace: Run) -> None:
    """It is found through the mount by which it was opened, if we have that, too."""
    (folder / "from").mkdir()
    (folder / "to").mkdir()
    file = make_file(folder / "from/file", PAGES)
    subprocess.check_call(["mount", "--bind", folder / "from", folder / "to"])
    try:
        for path in (folder / "to/file", file):
            done = trace(PYTHON, "-c", f"{READ}\nread(sys.argv[1])", path)
            assert paths_of(done, file.stat().st_ino) == [str(path)]
    finally:
        subprocess.check_call(["umount", folder / "to"])


def test_a_file_that_is_renamed_has_its_new_name(folder: Path, trace: Run) -> None:
    file = make_file(folder / "before", PAGES)
    code = f"{READ}\nold, new = sys.argv[1:]; read(old); os.rename(old, new); read(new)"
    done = trace(PYTHON, "-c", code, file, folder / "after")
    assert paths_of(done, (folder / "after").stat().st_ino) == [str(folder / "after")]
    assert sum(done.counts(folder / "after")) == 2 * PAGES


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("fd = os.open(p, 0); os.unlink(p); os.pread(fd, 4096, 0)", "file (deleted)"),
        ("fd = os.open(p, 0); os.pread(fd, 4096, 0); os.unlink(p)", "file (deleted)"),
        (
            "os.link(p, p + 2 * 'x'); fd = os.open(p, 0); os.unlink(p); os.pread(fd, 1, 0)",
            "file (deleted)",
        ),
        (
            "os.link(p, p + 'x'); os.unlink(p); fd = os.open(p + 'x', 0); os.pread(fd, 1, 0)",
            "filex",
        ),
    ],
    ids=["before", "after", "one-of-two", "the-other"],
)
def test_a_deleted_file_says_so(code: str, name: str, folder: Path, trace: Run) -> None:
    file = make_file(folder / "file", PAGES)
    ino = file.stat().st_ino
    done = trace(PYTHON, "-c", f"import os, sys; p = sys.argv[1]; {code}", file)
    assert paths_of(done, ino) == [str(folder / name)]


def test_a_file_that_never_had_a_name(folder: Path, trace: Run) -> None:
    code = f"""
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_TMPFILE)
os.pwrite(fd, bytes(5 * {PAGE}), 0); os.pread(fd, 5 * {PAGE}, 0)
print(os.fstat(fd).st_ino)
"""
    done = trace(PYTHON, "-c", code, folder)
    (row,) = rows_of(done, int(done.stdout))
    assert row["path"].endswith(" (deleted)")
    assert (row["hits_pages"], row["dirties_pages"], row["removed_pages"]) == (5, 5, 5)


def test_no_address_of_the_kernel_is_in_a_recording(folder: Path, trace: Run) -> None:
    import pyarrow.parquet as parquet

    file = make_file(folder / "file", PAGES)
    done = trace(PYTHON, "-c", f"{READ}\nread(sys.argv[1])", file)
    numbers = parquet.read_table(done.recording)["file"].to_pylist()
    assert 0 < max(numbers) < 1 << 32
