"""The tracer pages."""
