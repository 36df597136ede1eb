"""Servers that lend what their primary applications leave idle, under virtual time and faults."""
