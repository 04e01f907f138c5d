"""Mixture-of-Logits with a linear pair gate in the place of a trained one: nearly the same order, at a part of the cost.

Of a pair's arithmetic the hidden layer of the gate is most. Among items that score high for a query the component scores vary
little, and what the pair gate makes of them is close to linear.
"""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench import runtime
from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries
from workbench.similarities.projections import hidden_network

FITTED_QUERIES, FITTED_ITEMS = 256, 20_000
"""Queries and items that a gate is fitted to, at most."""

LISTED, STEP = 0.02, 8
"""A query's pairs: of the items in order of their average component score the first 2 %, every eighth."""

FEWEST = 8
RIDGE = 1e-6
SEED = 0


@torch.no_grad()
def with_linear_gate(
    similarity: ComponentSimilarity, items: ItemState, sample: QueryState | None = None
) -> ComponentSimilarity:
    """The same similarity with the linear pair gate that is closest to its own, by least squares over pairs that score high.

    The pairs are those of a `sample` of queries; without one, of queries made of items: their components, each with as much
    noise as it is long, at the length of a query's. A similarity without a hidden layer in a pair gate is returned as it is.
    """
    pair_gate = similarity.gate_pair if isinstance(similarity, MixtureOfLogits) else None
    if not isinstance(similarity, MixtureOfLogits) or pair_gate is None or not similarity.config.gate_pair:
        return similarity
    assert isinstance(items, MoLItems) and isinstance(sample, MoLQueries | None)
    dtype = similarity.query_network.linear.weight.dtype
    fitted = items[:: -(-len(items) // FITTED_ITEMS)].components.to(dtype).nan_to_num()
    f = _like_queries(similarity, fitted) if sample is None else sample.components[:FITTED_QUERIES].to(dtype)
    listed = max(1, min(len(fitted), max(FEWEST * STEP, int(LISTED * len(fitted)))))
    averages = f.sum(1) @ fitted.mean(1).T
    rows = averages.topk(listed, dim=1).indices[:, ::STEP]  # (m, C)
    s = torch.einsum("bid,bcjd->bcij", f, fitted[rows]).flatten(2).flatten(0, 1)  # (m·C, P)
    s = s.nan_to_num(0.0, 0.0, 0.0)
    inputs = F.pad(s, (0, 1), value=1.0).double()
    gram = inputs.T @ inputs
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    solution = torch.linalg.solve(gram, inputs.T @ pair_gate(s).double()).to(s.dtype)  # (P + 1, P)
    linear = copy.deepcopy(similarity).eval()
    linear.config = replace(similarity.config, gate_pair=0)
    components = similarity.config.components
    linear.gate_pair = hidden_network(components, 0, components, 0.0, last_bias=True).to(s)
    layer = linear.gate_pair[-1]
    assert isinstance(layer, nn.Linear)
    layer.weight.copy_(solution[:-1].T)
    layer.bias.copy_(solution[-1])
    return linear


def _like_queries(
    similarity: MixtureOfLogits, components: Float[Tensor, "M Px d"]
) -> Float[Tensor, "m Pq d"]:
    g = runtime.generator(SEED)
    config = similarity.config
    rows = torch.randint(len(components), (FITTED_QUERIES,), generator=g)
    groups = torch.arange(config.query_groups) % config.item_groups
    of_items = components[rows.to(components.device)][:, groups.to(components.device)]
    noise = torch.randn(of_items.shape, generator=g).to(of_items) / of_items.shape[2] ** 0.5
    lengths = of_items.norm(dim=2, keepdim=True)
    return F.normalize(of_items + lengths * noise, dim=2) * lengths / config.temperature
