"""From a session, or from a recording, to chunks; no tracer is known here."""
