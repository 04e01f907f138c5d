"""Metrics and protocols, raw tables first. May import contracts, runtime, data, similarities, search, retriever.

ranks = rank_table(batches, encode, similarity, items, STRICT.exclude(whole_history))
summarize(ranks, STRICT)      # HR@k, NDCG@k, MRR with intervals
compare(ranks, other_ranks)   # differences on the same users
"""

from workbench.evaluation.latency import measure, percentiles
from workbench.evaluation.metrics import KS, metrics
from workbench.evaluation.protocol import RAILS, STRICT, STRICT_VALIDATION, Protocol, compare, summarize
from workbench.evaluation.published import published, with_published
from workbench.evaluation.ranks import TargetRanks, rank_table, target_ranks

__all__ = [
    "KS",
    "RAILS",
    "STRICT",
    "STRICT_VALIDATION",
    "Protocol",
    "TargetRanks",
    "compare",
    "measure",
    "metrics",
    "percentiles",
    "published",
    "rank_table",
    "summarize",
    "target_ranks",
    "with_published",
]
