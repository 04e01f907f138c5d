"""The best k of a corpus. May import contracts, runtime, paths, files, kernels, similarities."""

from workbench.search.approximate import Average, Combined, PerComponent
from workbench.search.brute_force import BruteForce
from workbench.search.engines.faiss import FaissLists, faiss_lists
from workbench.search.engines.milvus import Milvus
from workbench.search.exact import Exact
from workbench.search.h_indexer import AveragedComponents, FittedScores, HIndexer
from workbench.search.sharded import Sharded, split

__all__ = [
    "Average",
    "AveragedComponents",
    "BruteForce",
    "Combined",
    "Exact",
    "FaissLists",
    "FittedScores",
    "HIndexer",
    "Milvus",
    "PerComponent",
    "Sharded",
    "faiss_lists",
    "split",
]
