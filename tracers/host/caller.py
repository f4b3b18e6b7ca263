"""Who called sudo: programs are run for that user, and files written for them."""

from __future__ import annotations

import os


def caller() -> tuple[int, int] | None:
    """The numbers of the user and group that called sudo; None if we are not root by sudo."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not (uid.isdecimal() and gid.isdecimal()):
        return None
    return int(uid), int(gid)
