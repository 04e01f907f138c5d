"""Trained mixtures taken apart: one score, one user's lists, who uses which component, a map of items.

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
from workbench.anatomy.lists import side_by_side, telling_user
from workbench.anatomy.map import ItemMap, item_facts, item_map
from workbench.anatomy.pair import by_temperature, components
from workbench.anatomy.subject import Subject, rank
from workbench.anatomy.usage import Pairs, balance, held_out_pairs, popularity, spread, switched_off, usage

__all__ = [
    "AS_TRAINED",
    "Change",
    "Dissection",
    "ItemMap",
    "Pairs",
    "Subject",
    "balance",
    "by_temperature",
    "component_names",
    "components",
    "dissect",
    "dissect_pairs",
    "held_out_pairs",
    "item_facts",
    "item_map",
    "mixture_of",
    "popularity",
    "rank",
    "side_by_side",
    "spread",
    "switched_off",
    "telling_user",
    "usage",
]
