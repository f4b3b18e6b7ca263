"""The tracer pagecache."""
