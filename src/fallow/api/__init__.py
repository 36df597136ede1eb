"""The HTTP API: requests in, refusals and views out; it decides nothing itself."""
