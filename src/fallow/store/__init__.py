"""The store: one small contract, several back-ends, a cache that follows it, and the one applier that commits plans."""
