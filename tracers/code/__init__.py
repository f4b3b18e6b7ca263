"""What stands at an address; no tracer is known here."""
