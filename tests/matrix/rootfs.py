"""Another distribution in a folder, with its own BCC and Python, on the kernel that is running."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

_MIRROR = "http://deb.debian.org/debian"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Where the project stands in it.
PROJECT = Path("/var/tmp/project")


class Rootfs:
    """A release of Debian in a folder, made when it is missing. Raises CalledProcessError."""

    def __init__(self, folder: Path, suite: str) -> None:
        self.folder = folder
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            how = ["--variant=minbase", "--include=ca-certificates"]
            subprocess.run(["debootstrap", *how, suite, folder, _MIRROR], check=True)
            (folder / "complete").touch()

    def put(self, checkout: Path) -> None:
        """Copies the files of a checkout that git knows, or would; what was built stays."""
        place = self.folder / PROJECT.relative_to("/")
        place.mkdir(parents=True, exist_ok=True)
        known = ["git", "-C", checkout, "ls-files", "-z", "-co", "--exclude-standard"]
        names = subprocess.check_output(known)
        tar = ["tar", "-C", checkout, "--null", "-T", "-", "-cf", "-"]
        archive = subprocess.run(tar, input=names, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-C", place, "-xf", "-"], input=archive, check=True)

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the project; what it mounts is gone with it."""
        for file in (_CERTIFICATES, Path("/etc/resolv.conf")):
            shutil.copy(file, self.folder / file.relative_to("/"))
        # A mount of its own, or nobody in it could tell where its files are.
        binds = [f"mount --bind {self.folder} {self.folder}"]
        binds += [f"mount --rbind /{name} {self.folder}/{name}" for name in ("proc", "sys", "dev")]
        inside = f"cd {PROJECT} && exec {shlex.join(command)}"
        script = f"{' && '.join(binds)} && exec chroot {self.folder} sh -c {shlex.quote(inside)}"
        environment = os.environ | {"PATH": _PATH, "HOME": "/root", "TMPDIR": "/var/tmp"}
        for ours in ("PYTHONPATH", "VIRTUAL_ENV", "MEMTAP_CACHE"):
            environment.pop(ours, None)
        unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        return subprocess.run(
            unshare, env=environment | variables, capture_output=True, text=True, check=False
        )
