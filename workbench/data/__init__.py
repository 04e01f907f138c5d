"""Datasets to interactions to sequences to batches. May import contracts, runtime, paths."""
