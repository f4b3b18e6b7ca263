"""The tracer oom."""
