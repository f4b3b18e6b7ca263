"""The tracer reclaim."""
