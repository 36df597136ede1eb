"""Member clusters as their host works with them: one contract, whatever runs behind it."""
