"""What a usual BCC tool does: compiles a text, attaches a probe, and keeps BCC loaded.

Says so on stdout, and ends when stdin does. BCC takes its headers from BCC_KERNEL_SOURCE.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

import bcc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("text", type=Path, help="a file of C")
parser.add_argument("--probe", nargs=2, metavar=("TRACEPOINT", "FUNCTION"))
parser.add_argument("--modules", nargs="*", default=[], help="Python to import besides")
arguments = parser.parse_args()

for name in arguments.modules:
    import_module(name)
module = bcc.BPF(text=arguments.text.read_bytes())
if arguments.probe:
    module.attach_raw_tracepoint(*map(str.encode, arguments.probe))
print("attached", flush=True)
sys.stdin.read()
os._exit(0)
