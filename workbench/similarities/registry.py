"""The similarities by name: `register` adds one, yours too."""

from workbench.contracts import Similarity
from workbench.registry import Registry

SIMILARITIES = Registry("similarity", Similarity, ("dim", "num_items"))
register = SIMILARITIES.register
