"""Trained mixtures decomposed: one score, one user's lists, who uses which component, a map of items.

May import contracts, runtime, data, similarities, retriever, evaluation, training.
"""

from workbench.anatomy.dissection import (
    AS_TRAINED,
    Change,
    Dissection,
    component_names,
    dissect,
    dissect_pairs,
    mixture_of,
)
from workbench.anatomy.lists import illustrative_user, side_by_side
from workbench.anatomy.map import ItemMap, item_facts, item_map
from workbench.anatomy.model_view import ModelView, rank
from workbench.anatomy.pair import by_temperature, components
from workbench.anatomy.usage import (
    Pairs,
    ablate_components,
    balance,
    groupings,
    held_out_pairs,
    spread,
    usage,
)
from workbench.data.popularity import popularity

__all__ = [
    "AS_TRAINED",
    "Change",
    "Dissection",
    "ItemMap",
    "ModelView",
    "Pairs",
    "ablate_components",
    "balance",
    "by_temperature",
    "component_names",
    "components",
    "dissect",
    "dissect_pairs",
    "groupings",
    "held_out_pairs",
    "illustrative_user",
    "item_facts",
    "item_map",
    "mixture_of",
    "popularity",
    "rank",
    "side_by_side",
    "spread",
    "usage",
]
