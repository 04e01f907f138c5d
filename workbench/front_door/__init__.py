"""Three lines to a recommendation: data, a trained model, and what it recommends; ids are the user's own.

May import everything but baselines, studies, bench, explore, reporting and the command line.
"""

from workbench.front_door.index import Found, Index
from workbench.front_door.open import from_embeddings, load, load_data, train
from workbench.front_door.recommender import Explanation, Recommender
from workbench.models.catalogue import Catalogue

__all__ = [
    "Catalogue",
    "Explanation",
    "Found",
    "Index",
    "Recommender",
    "from_embeddings",
    "load",
    "load_data",
    "train",
]
