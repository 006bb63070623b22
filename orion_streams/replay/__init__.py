"""Incident analysis: what the log says, recomputed."""
