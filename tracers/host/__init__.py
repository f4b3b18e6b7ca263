"""What /proc and /sys say of this host; no tracer is known here."""
