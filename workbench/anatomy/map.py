"""Items in the plane: the two directions in which their component embeddings differ most."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.anatomy.dissection import component_names, dissect, mixture_of
from workbench.anatomy.model_view import ModelView
from workbench.anatomy.usage import deciles
from workbench.data.popularity import popularity
from workbench.similarities.mol import MoLItems

ITEMS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class ItemMap:
    """`points`, a row for each item, and the share of the variance along each of the two directions.

    Columns of `points`: `item` (dense id), `x`, `y`, `title`, `genre` (the first one listed, "none" if there is none),
    `genres`, `interactions`, `decile` of popularity (10 is the most popular), `dominant` (the component with the largest mean
    weight over the ten of the queried users for whom the item scores highest).
    """

    points: pd.DataFrame
    explained: tuple[float, float]


def item_map(subject: ModelView, group: int | None = None, metadata: pd.DataFrame | None = None) -> ItemMap:
    """The items by the first two principal components of their embeddings g_j(x) of one item group j (from 0), or of all.

    `metadata` is `item_facts(subject)` if it is already computed. Raises ValueError if there is no such group, or the
    similarity is no mixture.
    """
    mol = mixture_of(subject.retriever.similarity)
    if not isinstance(subject.items, MoLItems) or (
        group is not None and not 0 <= group < mol.config.item_groups
    ):
        raise ValueError(f"there are item groups 0..{mol.config.item_groups - 1}, and no {group}")
    vectors = subject.items.components.flatten(1) if group is None else subject.items.components[:, group]
    places, explained = principal_plane(vectors.float())
    points = item_facts(subject) if metadata is None else metadata
    return ItemMap(points.assign(x=places[:, 0].cpu().numpy(), y=places[:, 1].cpu().numpy()), explained)


def item_facts(subject: ModelView, users: int = 128) -> pd.DataFrame:
    """The metadata of each item: the columns of `ItemMap.points` without `x` and `y`.

    Dominant components are those for the first `users` users. Raises ValueError if the similarity is not a mixture, or if no
    user has a history.
    """
    table = subject.sequences.items
    genres = table["genres"].fillna("").astype(str) if "genres" in table else pd.Series("", table.index)
    names = np.array(component_names(subject.retriever.similarity))
    return pd.DataFrame(
        {
            "item": np.arange(1, len(table) + 1),
            "title": table["title"].astype(str).to_numpy(),
            "genre": genres.str.partition("|")[0].replace("", "none").to_numpy(),
            "genres": genres.str.replace("|", ", ", regex=False).to_numpy(),
            "interactions": popularity(subject.sequences),
            "decile": deciles(subject.sequences),
            "dominant": names[_weights_where_it_counts(subject, users).argmax(1).cpu().numpy()],
        }
    )


def principal_plane(vectors: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N 2"], tuple[float, float]]:
    """Centred vectors along their first two principal directions, and the share of the variance that lies along each.

    By singular value decomposition; of each direction the sign is chosen so that its largest entry is positive. Where there
    is only one direction (or none) the second coordinate is 0.
    """
    centred = vectors - vectors.mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    chosen = torch.zeros(2, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    chosen[: min(2, len(directions))] = directions[:2]
    largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
    chosen = chosen * torch.where(largest < 0, -1.0, 1.0)
    shares = values.square() / values.square().sum().clamp(min=torch.finfo(vectors.dtype).tiny)
    first = [float(share) for share in shares[:2]] + [0.0, 0.0]
    return centred @ chosen.T, (first[0], first[1])


def _weights_where_it_counts(subject: ModelView, users: int, best: int = 10) -> Float[Tensor, "N P"]:
    """Mean weights of each item over the `best` of the users for whom it scores highest."""
    queried = subject.sequences.users_with("test")[:users]
    if len(queried) == 0:
        raise ValueError(f"no user of {subject.sequences.name} has a history and an item after it")
    queries, found = subject.queries(queried), []
    for start in range(0, len(subject.items), ITEMS_AT_ONCE):
        part = dissect(
            subject.retriever.similarity, queries, subject.items[slice(start, start + ITEMS_AT_ONCE)]
        )
        top = part.scores.topk(min(best, len(queried)), dim=0).indices  # (best, n)
        chosen = part.weights.gather(0, top[..., None].expand(-1, -1, part.weights.shape[-1]))
        found.append(chosen.mean(0))  # (n, P)
    return torch.cat(found)
