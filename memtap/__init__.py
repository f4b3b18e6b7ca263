"""memtap: eBPF tracers for Linux memory.

The package has no logic of its own; its rooms are `memtap.bpf` (the kernel side),
`memtap.tracers` (events into reports) and `memtap.cli` (reports into text).
"""

__version__ = "0.1.0"
