"""A mixture's parts: component scores s, gate weights π, their products; as trained, or modified."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Similarity
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries


@dataclass(frozen=True)
class Change:
    """A modification of a trained mixture; none by default.

    `temperature` τ' > 0 in place of the trained τ: component scores become s · τ/τ', for the gate's pair part too (None: τ).
    `gate_temperature` T > 0: softmax(w/T) in place of softmax(w); below 1 the gate decides, above 1 it averages.
    `off`: components p whose weight is 0; the others share it out in proportion (their w is what it was, that of p is −∞).
    """

    temperature: float | None = None
    gate_temperature: float = 1.0
    off: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("temperature", "gate_temperature"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, not {value}")
        object.__setattr__(self, "off", tuple(sorted(set(self.off))))


AS_TRAINED = Change()


@dataclass(frozen=True)
class Dissection:
    """Component scores `logits` s (…, P) and gate `weights` π (…, P), each row of which sums to one."""

    logits: Float[Tensor, "*S P"]
    weights: Float[Tensor, "*S P"]

    @property
    def products(self) -> Float[Tensor, "*S P"]:
        """π_p s_p."""
        return self.weights * self.logits

    @property
    def scores(self) -> Float[Tensor, "*S"]:
        """φ = Σ_p π_p s_p."""
        return self.products.sum(-1)

    def without(self) -> Float[Tensor, "*S P"]:
        """φ with one more component switched off, for each component: Σ_{r≠p} π_r s_r / Σ_{r≠p} π_r; NaN if nothing else has
        weight.

        >>> Dissection(torch.tensor([4.0, 1.0]), torch.tensor([0.5, 0.5])).without().tolist()
        [1.0, 4.0]
        """
        others = 1 - torch.eye(self.logits.shape[-1], device=self.logits.device, dtype=self.logits.dtype)
        return (self.products @ others) / (self.weights @ others)  # sums of the others: nothing cancels


def component_names(similarity: Similarity) -> list[str]:
    """A name for each component p = i · Px + j, counted from 1 as in print: f1·g1, f1·g2, …"""
    mol = mixture_of(similarity)
    return [
        f"f{i + 1}·g{j + 1}" for i in range(mol.config.query_groups) for j in range(mol.config.item_groups)
    ]


def mixture_of(similarity: Similarity) -> MixtureOfLogits:
    """`similarity` as a Mixture-of-Logits; ValueError if it is another kind."""
    if not isinstance(similarity, MixtureOfLogits):
        raise ValueError(
            f"{type(similarity).__name__} is no Mixture-of-Logits: there is no gate to take apart"
        )
    return similarity


@torch.no_grad()
def dissect(
    similarity: Similarity, queries: QueryState, items: ItemState, change: Change = AS_TRAINED
) -> Dissection:
    """Every query against every item: a Dissection (B, N, P).

    Raises ValueError if `similarity` is not a mixture, or `change` switches off a component that does not exist, or all.
    """
    mol, q, x = _states(similarity, queries, items, change)
    logits = mol.component_logits(q, x)
    weights = mol.gates(logits, None if q.gate is None else q.gate[:, None], x.gate)
    return Dissection(logits, _changed(weights, change))


@torch.no_grad()
def dissect_pairs(
    similarity: Similarity, queries: QueryState, items: ItemState, change: Change = AS_TRAINED
) -> Dissection:
    """Query b against item b alone: a Dissection (B, P). Raises as `dissect` does."""
    mol, q, x = _states(similarity, queries, items, change)
    logits = torch.einsum("bid,bjd->bij", q.components, x.components).flatten(1)  # (B, P)
    return Dissection(logits, _changed(mol.gates(logits, q.gate, x.gate), change))


def _states(
    similarity: Similarity, queries: QueryState, items: ItemState, change: Change
) -> tuple[MixtureOfLogits, MoLQueries, MoLItems]:
    mol = mixture_of(similarity)
    if not isinstance(queries, MoLQueries) or not isinstance(items, MoLItems):
        raise ValueError("queries and items must come from the mixture that is taken apart")
    if change.off:
        if not 0 <= change.off[0] <= change.off[-1] < mol.config.components:
            raise ValueError(
                f"there are components 0..{mol.config.components - 1}, and not {list(change.off)}"
            )
        if len(change.off) == mol.config.components:
            raise ValueError("every component is switched off: leave at least one on")
    if change.temperature is not None:
        scale = mol.config.temperature / change.temperature
        queries = replace(queries, components=queries.components * scale)
    return mol, queries, items


def _changed(weights: Float[Tensor, "*S P"], change: Change) -> Float[Tensor, "*S P"]:
    """softmax(w/T) from softmax(w), whose logarithm is w up to a constant."""
    if change.gate_temperature == 1 and not change.off:
        return weights
    w = weights.clamp(min=torch.finfo(weights.dtype).tiny).log() / change.gate_temperature
    if change.off:
        w = w.index_fill(-1, torch.tensor(change.off, device=w.device), -math.inf)
    return w.softmax(-1)
