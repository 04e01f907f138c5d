"""The best k of a corpus. May import contracts, runtime, paths, kernels, similarities."""

from workbench.search.brute_force import BruteForce

__all__ = ["BruteForce"]
