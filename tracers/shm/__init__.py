"""The tracer shm."""
