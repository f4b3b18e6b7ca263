"""Runs tests, and then notes what the kernel has and what `doctor` says of it.

    python -m tests.matrix.inside ARGUMENT...    (pytest's, as root)

Leaves junit.xml and kernel.json in OUT, and ends as the tests do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.features import description

OUT = Path("/run/out")


def main() -> int:
    """The status of the tests."""
    tests = [sys.executable, "-m", "pytest", f"--junitxml={OUT / 'junit.xml'}", *sys.argv[1:]]
    status = subprocess.call(tests)
    (OUT / "kernel.json").write_text(json.dumps(description(), indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
