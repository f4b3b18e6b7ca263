"""The tracer malloc."""
