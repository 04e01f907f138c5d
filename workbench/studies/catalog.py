"""The modules that register studies: importing this one makes all of them known. A new study joins by a line here."""

from workbench.studies import (
    baseline_studies,
    choice_studies,
    cold_start_studies,
    deep_retrieval_studies,
    engines,
    fair_studies,
    graph_metrics,
    limit,
    protocol_studies,
    published_studies,
    seed_studies,
    sparcode_studies,
    text,
    text_ablations,
    tie_studies,
)

__all__ = [
    "baseline_studies",
    "choice_studies",
    "cold_start_studies",
    "deep_retrieval_studies",
    "engines",
    "fair_studies",
    "graph_metrics",
    "limit",
    "protocol_studies",
    "published_studies",
    "seed_studies",
    "sparcode_studies",
    "text",
    "text_ablations",
    "tie_studies",
]
