"""Drivers of proven parts: each folder has a contract, its real back-ends and a scripted fake."""
