"""Decisions: a snapshot and `now` in, a plan out. No clock, no chance, no input or output (the linter holds it)."""
