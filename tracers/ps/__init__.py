"""The tracer ps."""
