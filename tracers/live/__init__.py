"""From a session, or from a file, to chunks; no tracer is known here."""
