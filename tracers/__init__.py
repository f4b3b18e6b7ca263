"""Events into reports: one module per report, and what they share."""
