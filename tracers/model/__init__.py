"""What reports are made of: pure data, without input or output; no tracer is known here."""
