"""The tracer slab."""
