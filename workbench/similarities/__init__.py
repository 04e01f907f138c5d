"""Scores of a query and an item, one file a similarity. May import contracts, runtime, kernels."""
