"""Training loops, data and caches."""
