"""The tracer faults."""
