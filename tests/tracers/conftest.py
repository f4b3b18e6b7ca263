"""Properties are tried on as many examples as a second or two allow, slow machines included."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("memtap", max_examples=60, deadline=None)
settings.load_profile("memtap")
