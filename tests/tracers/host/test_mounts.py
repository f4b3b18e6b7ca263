"""The mount table."""

from __future__ import annotations

from memtap.tracers.host.mounts import Mounts, kinds_of

TABLE = """\
25 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 25 7:3 / /snap/core\\040one ro,nodev - squashfs /dev/loop3 ro,errors=continue
40 25 0:35 / /mnt/a rw shared:1 master:2 - fuse.bindfs - rw
"""


def test_types_are_behind_the_separator_whatever_the_optional_fields() -> None:
    assert kinds_of(TABLE) == {"ext4", "squashfs", "fuse.bindfs"}


def test_what_is_mounted_here_is_found() -> None:
    mounts = Mounts()
    assert mounts.has("proc")
    assert not mounts.has("nosuchfs")
    assert mounts.has("proc")
