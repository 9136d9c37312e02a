"""Exact metrics: pure functions on numpy arrays, counted over examples and never averaged over batches."""
