"""Baselines with a vector per user and item, learned by gradient steps: LightGCN and UltraGCN."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from workbench import runtime
from workbench.baselines.baseline import Baseline
from workbench.baselines.ease import BLOCK, interaction_matrix
from workbench.baselines.ranking import rank_users
from workbench.data import Sequences
from workbench.data.sequences import Part
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT_VALIDATION, effective_ranks

DIM = 64
EVERY = 5
"""Epochs between two looks at the validation targets."""


class Factors(Baseline):
    """score(u, x) = ⟨p_u, q_x⟩, learned from who met what: times, and the order of a history, do not count.

    Trained on is what `part` learns from. The epoch is the one with the best NDCG@10 on validation targets that was found
    before `patience` looks in a row (None: as many as suit the class), every `EVERY` epochs, found no better one, of at most
    `epochs`. A user is known by its training interactions alone, whatever was met since.
    """

    learning_rate: ClassVar[float]
    batch_size: ClassVar[int]
    patience: ClassVar[int] = 4
    start_std: ClassVar[float] = 0.1

    def __init__(
        self,
        sequences: Sequences,
        *,
        dim: int = DIM,
        epochs: int = 200,
        patience: int | None = None,
        seed: int = 0,
        part: Part = "train",
        progress: bool = False,
    ) -> None:
        patience = self.patience if patience is None else patience
        if min(dim, epochs, patience) < 1:
            raise ValueError(
                f"dim, epochs and patience must be at least 1, not {dim}, {epochs} and {patience}"
            )
        self.met = interaction_matrix(sequences, part)
        self.pairs = self.met.indices()  # (2, M): rows of users and items
        users, items = self.met.shape
        self.keys = self.pairs[0] * items + self.pairs[1]  # ascending
        self.draws = runtime.generator(seed)
        start = self.start_std * torch.randn(users + items, dim, generator=self.draws)
        self.users, self.items = (nn.Parameter(part.clone()) for part in start.split([users, items]))
        self._prepare()
        self._fit(sequences, epochs, patience, progress)

    def _prepare(self) -> None:
        """What `loss` needs besides the vectors."""

    @abstractmethod
    def loss(self, users: Int[Tensor, "b"], items: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """The loss of a batch of pairs that met, as rows."""

    def vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "N d"]]:
        """The vectors whose inner products are the scores."""
        return self.users, self.items

    def scores(
        self, histories: Int[Tensor, "B H"], users: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B N"]:
        """Inner products for known users; ValueError if they are not given."""
        if users is None:
            raise ValueError(f"{type(self).__name__} identifies users by their ids alone: give them")
        of_users, of_items = self.final
        return of_users[users] @ of_items.T

    def knows(self, users: Int[Tensor, "b"], items: Int[Tensor, "b"]) -> Bool[Tensor, "b"]:
        """Whether a user met an item in training."""
        wanted = users * self.met.shape[1] + items
        place = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return self.keys[place] == wanted

    def others(self, users: Int[Tensor, "b"]) -> tuple[Int[Tensor, "b"], Float[Tensor, "b"]]:
        """A row of an item for each user, drawn evenly, and its weight: 0 if the user met the item after all."""
        drawn = torch.randint(self.met.shape[1], (len(users),), generator=self.draws)
        return drawn, (~self.knows(users, drawn)).float()

    def _fit(self, sequences: Sequences, epochs: int, patience: int, progress: bool) -> None:
        optimizer = torch.optim.Adam([self.users, self.items], lr=self.learning_rate)
        best: tuple[float, int, tuple[Tensor, ...]] | None = None
        stale = 0
        bar = tqdm(
            range(1, epochs + 1), desc=type(self).__name__, unit="epoch", disable=None if progress else True
        )
        for epoch in bar:
            for users, items in self._batches():
                loss = self.loss(users, items)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            if epoch % EVERY and epoch < epochs:
                continue
            with torch.no_grad():
                self.final = tuple(part.detach().clone() for part in self.vectors())
            ranks = effective_ranks(rank_users(self, sequences, STRICT_VALIDATION))
            quality = metrics(ranks, ks=(10,))["NDCG@10"]
            bar.set_postfix(validation=f"{quality:.4f}", refresh=False)
            if best is None or quality > best[0]:
                best, stale = (quality, epoch, self.final), 0
            else:
                stale += 1
            if stale >= patience:
                break
        assert best is not None  # the last epoch is always looked at
        _, self.epoch, self.final = best

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(self.pairs.shape[1], generator=self.draws)
        for rows in order.split(self.batch_size):
            yield self.pairs[0, rows], self.pairs[1, rows]


class LightGCN(Factors):
    """The mean over `layers` of what neighbours pass on: E = mean_l Âˡ E₀, Â = D^(−1/2) A D^(−1/2) of the users–items graph.

    Trained with BPR, one negative a pair, and λ |E₀|² / 2 of the batch. Source: "LightGCN" (He et al., SIGIR 2020), equations
    4 to 8 and 15, with 3 layers and λ of 1e-4; the learning rate is larger, because the batches are.
    """

    learning_rate = 5e-3
    batch_size = 32_768
    layers = 3
    regularization = 1e-4

    def _prepare(self) -> None:
        users, items = self.met.shape
        top, bottom = self.pairs[0], self.pairs[1] + users
        where = torch.stack([torch.cat([top, bottom]), torch.cat([bottom, top])])
        degrees = torch.bincount(where[0], minlength=users + items).clamp(min=1).float().rsqrt()
        shape = (users + items, users + items)
        graph = torch.sparse_coo_tensor(
            where, degrees[where[0]] * degrees[where[1]], shape, check_invariants=False
        )
        with warnings.catch_warnings():  # torch calls all of its CSR support beta
            warnings.simplefilter("ignore", UserWarning)
            self.graph = graph.coalesce().to_sparse_csr()

    def vectors(self) -> tuple[Float[Tensor, "U d"], Float[Tensor, "N d"]]:
        """The vectors after all layers."""
        passed = [torch.cat([self.users, self.items])]
        for _ in range(self.layers):
            passed.append(_Propagation.apply(self.graph, passed[-1]))  # type: ignore[no-untyped-call]
        users, items = torch.stack(passed).mean(0).split(list(self.met.shape))
        return users, items

    def loss(self, users: Int[Tensor, "b"], items: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """BPR: −log σ(score of the item − score of another one)."""
        of_users, of_items = self.vectors()
        others, weights = self.others(users)
        gap = (of_users[users] * (of_items[items] - of_items[others])).sum(1)
        start = self.users[users], self.items[items], self.items[others]
        size = torch.stack([part.square().sum() for part in start]).sum() / len(users)
        return (F.softplus(-gap) * weights).mean() + self.regularization / 2 * size


class _Propagation(torch.autograd.Function):
    """A symmetric sparse matrix times vectors: its gradient is the same product."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, graph: Tensor, vectors: Tensor) -> Tensor:
        ctx.graph = graph  # type: ignore[attr-defined]
        return graph @ vectors

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[None, Tensor]:
        return None, ctx.graph @ gradient  # type: ignore[attr-defined]


class UltraGCN(Factors):
    """What infinitely many layers converge to, as weights of a loss: no message is passed.

    L = Σ −β_ui log σ(s_ui) − w mean_j β_uj log σ(−s_uj) − λ Σ_{j near i} ω_ij log σ(s_uj) + γ |E|² / 2, with
    β_ui = √((d_u + 1) / (d_i + 1)) / d_u and ω_ij from the co-occurrences G = AᵀA of the `near` items with the largest
    G_ij / (g_i − G_ii) √(g_i / g_j), g the sums of the rows of G. The items j of the mean are drawn evenly for each `group`
    of pairs; as in the published code, some of them were met. If they were drawn once for a whole batch, few items would have
    gradients in a step, and the vectors would learn nothing but popularity. For the first thousands of steps they learn
    nothing else in any case, hence the patience.

    Source: "UltraGCN" (Mao et al., CIKM 2021), equations 9 to 15, with the weights of its authors for MovieLens 1M; batches
    and learning rate are larger here, and the loss is the mean over pairs where theirs is the sum over 1,024.
    """

    learning_rate = 1e-2
    batch_size = 4096
    patience = 10
    start_std = 1e-3
    group = 16
    negatives = 64
    negative_weight = 200.0
    near = 10
    near_weight = 1e-3
    regularization = 1e-4 / 1024

    def _prepare(self) -> None:
        users, items = self.met.shape
        of_user = torch.bincount(self.pairs[0], minlength=users).float()
        of_item = torch.bincount(self.pairs[1], minlength=items).float()
        self.by_user = (of_user + 1).sqrt() / of_user.clamp(min=1)
        self.by_item = (of_item + 1).rsqrt()
        sums = torch.sparse.mm(self.met.T, of_user[:, None])[:, 0]
        others = (sums - of_item).clamp(min=1)
        found = []
        for some in torch.arange(items).split(BLOCK):
            together = torch.sparse.mm(self.met.T, self.met.index_select(1, some).to_dense()).T  # (b, N)
            omega = together / others[some, None] * (sums[some, None] / sums.clamp(min=1)).sqrt()
            omega[torch.arange(len(some)), some] = 0
            found.append(omega.topk(min(self.near, items), dim=1))
        self.neighbours = torch.cat([f.indices for f in found])
        self.omega = torch.cat([f.values for f in found])

    def loss(self, users: Int[Tensor, "b"], items: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """The terms of a batch, per pair."""
        p, q = F.embedding(users, self.users), F.embedding(items, self.items)
        by_user = self.by_user[users]
        met = by_user * self.by_item[items] * F.softplus(-(p * q).sum(1))
        groups = F.pad(p, (0, 0, 0, -len(p) % self.group)).unflatten(0, (-1, self.group))  # (G, group, d)
        others = torch.randint(len(self.items), (len(groups), self.negatives), generator=self.draws)
        against = torch.bmm(groups, F.embedding(others, self.items).mT)
        of_others = (self.by_item[others][:, None] * F.softplus(against)).mean(2).flatten()[: len(p)]
        not_met = self.negative_weight * by_user * of_others
        near = torch.einsum("bd,bmd->bm", p, F.embedding(self.neighbours[items], self.items))
        of_near = self.near_weight * (self.omega[items] * F.softplus(-near)).sum(1)
        size = self.users.square().sum() + self.items.square().sum()
        return (met + not_met + of_near).mean() + self.regularization / 2 * size
