"""The best k of a corpus. May import contracts, runtime, paths, files, kernels, similarities."""

from workbench.search.approximate import Approximate
from workbench.search.brute_force import BruteForce
from workbench.search.engines.faiss import FaissLists, faiss_lists
from workbench.search.engines.milvus import Milvus
from workbench.search.exact import Exact
from workbench.search.first_stages import AveragedComponents, FittedScores
from workbench.search.generators import VectorList
from workbench.search.h_indexer import FirstStageFilter
from workbench.search.int16 import Int16BruteForce
from workbench.search.sharded import Sharded, split

__all__ = [
    "Approximate",
    "AveragedComponents",
    "BruteForce",
    "Exact",
    "FaissLists",
    "FirstStageFilter",
    "FittedScores",
    "Int16BruteForce",
    "Milvus",
    "Sharded",
    "VectorList",
    "faiss_lists",
    "split",
]
