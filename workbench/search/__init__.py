"""The best k of a corpus. May import contracts, runtime, paths, kernels, similarities."""

from workbench.search.approximate import Average, Combined, PerComponent
from workbench.search.brute_force import BruteForce
from workbench.search.exact import Exact
from workbench.search.h_indexer import AveragedComponents, FittedScores, HIndexer

__all__ = [
    "Average",
    "AveragedComponents",
    "BruteForce",
    "Combined",
    "Exact",
    "FittedScores",
    "HIndexer",
    "PerComponent",
]
