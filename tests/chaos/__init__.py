"""Chaos: real kills on real servers, and an observer of the raw streams that counts."""
