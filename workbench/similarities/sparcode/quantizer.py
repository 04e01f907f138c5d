"""Vector quantisation of tokens: codebooks that follow the data by moving averages, and gradients past the choice."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.kernels.kmeans import lloyd

SMALLEST = 1e-5
"""A codeword that fewer tokens than this were given to, on average, keeps its place: there is nothing to move it to."""

KMEANS_STEPS = 20
"""Lloyd's steps: centres hardly move after these."""

LARGEST_CODE = 2**62
"""Codes are numbered in int64."""


@dataclass(frozen=True)
class QuantizerConfig:
    """`codebooks` M of `codewords` N each, updated by moving averages with `decay` γ.

    `residual`: codebook m quantises what codebooks 0..m−1 left of the whole token; otherwise the token is cut into M pieces,
    one for each. `gradient`: how a loss on the quantised token reaches the token before: not at all, so that the
    `commitment` loss (weight β) is all that moves it ("commitment", as published), the same as to the quantised one
    ("straight-through"), or that gradient turned and scaled as the token was to become its codeword ("rotation"). A codeword
    whose average count falls below `restart_below` times an even share is moved to a token of the batch (0: never).
    Raises ValueError if a value is out of its range, nothing would train the tokenizer, or int64 cannot number the codes.
    """

    codebooks: int = 2
    codewords: int = 256
    decay: float = 0.99
    commitment: float = 0.25
    gradient: Literal["commitment", "straight-through", "rotation"] = "commitment"
    residual: bool = False
    restart_below: float = 0.01

    def __post_init__(self) -> None:
        if self.codebooks < 1 or self.codewords < 2:
            raise ValueError(
                f"a quantizer needs 1 codebook and 2 codewords or more, not {self.codebooks} and {self.codewords}"
            )
        if self.codebooks * math.log2(self.codewords) > math.log2(LARGEST_CODE):
            raise ValueError(
                f"{self.codewords} codewords in {self.codebooks} codebooks make more codes than int64 can number;"
                " use fewer of either"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), not {self.decay}")
        if not self.commitment >= 0:
            raise ValueError(f"commitment must be at least 0, not {self.commitment}")
        if self.gradient not in ("commitment", "straight-through", "rotation"):
            raise ValueError(
                f"gradient must be commitment, straight-through or rotation, not {self.gradient!r}"
            )
        if self.gradient == "commitment" and self.commitment == 0:
            raise ValueError("with gradient 'commitment' and commitment 0 nothing would train the tokenizer")
        if not 0 <= self.restart_below < 1:
            raise ValueError(f"restart_below must lie in [0, 1), not {self.restart_below}")

    @property
    def codes(self) -> int:
        """N^M, the number of codes there can be."""
        return self.codewords**self.codebooks


class Quantized(NamedTuple):
    """`tokens` (…, d): quantised, with the chosen gradient; `codes` int64 (…): c_0 N^(M−1) + … + c_(M−1); `errors` (…): |t −
    sg(t̂)|² / d, whose gradient pulls tokens to their codewords."""

    tokens: Float[Tensor, "*S d"]
    codes: Int[Tensor, "*S"]
    errors: Float[Tensor, "*S"]


class VectorQuantizer(nn.Module):
    """Each token to the nearest codeword (L2) of every codebook.

    In training a batch first restarts dead codewords (all of them are, before the first batch), then is quantised, then
    moves the codebooks: n ← γ n + (1 − γ) count, m ← γ m + (1 − γ) sum, e = m / n (VQ-VAE, van den Oord et al. 2017,
    appendix A.1; SparCode, section 3.2.4). Counts and sums are added up over processes. Codebooks are buffers: they have
    no gradient, and are saved with the weights.
    Raises ValueError if the codebooks do not divide the width of a token.
    """

    counts: Tensor
    sums: Tensor
    codewords: Tensor

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__()
        if not config.residual and dim % config.codebooks:
            raise ValueError(f"tokens of width {dim} cannot be cut into {config.codebooks} equal pieces")
        self.config = config
        width = dim if config.residual else dim // config.codebooks
        self.register_buffer("counts", torch.zeros(config.codebooks, config.codewords))
        self.register_buffer("sums", torch.zeros(config.codebooks, config.codewords, width))
        self.register_buffer("codewords", torch.randn(config.codebooks, config.codewords, width))

    def forward(self, tokens: Float[Tensor, "*S d"]) -> Quantized:
        """Tokens (…, d) quantised; in training (with gradients on) the codebooks follow."""
        flat = tokens.flatten(0, -2)  # (T, d)
        learning = self.training and torch.is_grad_enabled() and len(flat) > 0
        if learning:
            self._restart(flat.detach().float())
        choices, quantized = self._nearest(flat.detach().float(), learning)
        quantized = quantized.to(flat.dtype)
        errors = (flat - quantized).square().mean(-1)
        match self.config.gradient:
            case "commitment":
                passed = quantized
            case "straight-through":
                passed = flat + (quantized - flat).detach()
            case "rotation":
                passed = rotated(flat, quantized)
        shape = tokens.shape[:-1]
        return Quantized(passed.view_as(tokens), self._numbers(choices).view(shape), errors.view(shape))

    @torch.no_grad()
    def fit(
        self, tokens: Float[Tensor, "T d"], generator: torch.Generator, steps: int = KMEANS_STEPS
    ) -> None:
        """Make every codebook the k-means of what it quantises of `tokens`: Lloyd's steps from distinct tokens at random.

        An empty cluster stays where it is. Counts begin at one token per codeword on average, so that later training moves the
        codebooks at its usual pace. Raises ValueError if there are fewer tokens than codewords.
        """
        n, left = self.config.codewords, tokens.float()
        if len(tokens) < n:
            raise ValueError(f"k-means of {n} codewords needs at least as many tokens, not {len(tokens)}")
        for m in range(self.config.codebooks):
            piece = left if self.config.residual else left.chunk(self.config.codebooks, dim=1)[m]
            drawn = torch.randperm(len(piece), generator=generator)[:n].to(piece.device)
            centres = lloyd(piece, piece[drawn], steps, nearest)
            choice = nearest(piece, centres)
            self.codewords[m] = centres
            self.counts[m] = torch.bincount(choice, minlength=n) * (n / len(piece))
            self.sums[m] = self.counts[m][:, None] * centres
            if self.config.residual:
                left = left - centres[choice]

    def lookup(self, codes: Int[Tensor, "*S"]) -> Float[Tensor, "*S d"]:
        """The quantised token t̂ of each code.

        Raises ValueError if a code is not one of 0..N^M − 1.
        """
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.codes:
            raise ValueError(f"codes lie in 0..{self.config.codes - 1}; found {codes.min()} to {codes.max()}")
        words = [self.codewords[m][c] for m, c in enumerate(self.digits(codes).unbind(-1))]
        return torch.stack(words).sum(0) if self.config.residual else torch.cat(words, dim=-1)

    def digits(self, codes: Int[Tensor, "*S"]) -> Int[Tensor, "*S M"]:
        """The codeword of each codebook for a code."""
        n = self.config.codewords
        powers = [codes // n ** (self.config.codebooks - 1 - m) % n for m in range(self.config.codebooks)]
        return torch.stack(powers, dim=-1)

    def usage(self) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
        """Of each codebook, by its moving average: the share of codewords in use, and the perplexity exp(H) of their counts.

        A codeword is in use if its count is at least a hundredth of an even share. NaN before the first batch.
        """
        share = self.counts / self.counts.sum(1, keepdim=True)
        used = (share * self.config.codewords >= 0.01).float().mean(1)
        perplexity = (-(share * share.clamp(min=1e-12).log()).sum(1)).exp()
        return torch.where(share[:, 0].isnan(), float("nan"), used), perplexity

    def _numbers(self, choices: Int[Tensor, "M T"]) -> Int[Tensor, "T"]:
        numbers = torch.zeros_like(choices[0])
        for choice in choices:
            numbers = numbers * self.config.codewords + choice
        return numbers

    def _nearest(
        self, tokens: Float[Tensor, "T d"], learning: bool
    ) -> tuple[Int[Tensor, "M T"], Float[Tensor, "T d"]]:
        """The chosen codewords and the quantised tokens, from the codebooks as they were before this batch."""
        pieces = [tokens] if self.config.residual else list(tokens.chunk(self.config.codebooks, dim=1))
        left, choices, words = tokens, [], []
        for m in range(self.config.codebooks):
            piece = left if self.config.residual else pieces[m]
            codebook = self.codewords[m]
            choice = nearest(piece, codebook)
            word = codebook[choice]
            if learning:
                self._follow(m, piece, choice)
            left = left - word if self.config.residual else left
            choices.append(choice)
            words.append(word)
        return torch.stack(choices), torch.stack(words).sum(0) if self.config.residual else torch.cat(
            words, 1
        )

    def _follow(self, m: int, piece: Float[Tensor, "T w"], choice: Int[Tensor, "T"]) -> None:
        counts = torch.zeros_like(self.counts[m]).index_add_(
            0, choice, torch.ones_like(choice, dtype=piece.dtype)
        )
        sums = torch.zeros_like(self.sums[m]).index_add_(0, choice, piece)
        if _several():
            both = torch.cat([counts[:, None], sums], dim=1)  # one message
            dist.all_reduce(both)
            counts, sums = both[:, 0], both[:, 1:]
        decay = self.config.decay
        self.counts[m].mul_(decay).add_(counts, alpha=1 - decay)
        self.sums[m].mul_(decay).add_(sums, alpha=1 - decay)
        moved = self.sums[m] / self.counts[m].clamp(min=SMALLEST)[:, None]
        self.codewords[m] = torch.where((self.counts[m] > SMALLEST)[:, None], moved, self.codewords[m])

    def _restart(self, tokens: Float[Tensor, "T d"]) -> None:
        """Move dead codewords to tokens of the batch, drawn from torch's generator as dropout is: the loop seeds both."""
        total = self.counts.sum(1, keepdim=True)
        dead = (self.counts < self.config.restart_below * total / self.config.codewords) | (total == 0)
        if not bool(dead.any()):
            return
        left = tokens
        for m in range(self.config.codebooks):
            pieces = left if self.config.residual else tokens.chunk(self.config.codebooks, dim=1)[m]
            drawn = pieces[torch.randint(len(pieces), (self.config.codewords,), device=pieces.device)]
            if _several():
                dist.broadcast(drawn, 0)  # every process keeps the same codebooks
            self.codewords[m] = torch.where(dead[m, :, None], drawn, self.codewords[m])
            share = (total[m] / self.config.codewords).clamp(min=1e-3)  # until it has a count of its own
            self.counts[m] = torch.where(dead[m], share, self.counts[m])
            self.sums[m] = torch.where(dead[m, :, None], share * drawn, self.sums[m])
            if self.config.residual and m + 1 < self.config.codebooks:
                left = left - self.codewords[m][nearest(left, self.codewords[m])]


def nearest(tokens: Float[Tensor, "T w"], codewords: Float[Tensor, "N w"]) -> Int[Tensor, "T"]:
    """The nearest codeword (L2) of each token, the first of equally near ones.

    >>> nearest(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])).tolist()
    [1]
    """
    # |t − e|² less |t|², which is the same for every codeword
    return torch.addmm(codewords.square().sum(1), tokens, codewords.T, alpha=-2).argmin(1)


def rotated(tokens: Float[Tensor, "T d"], quantized: Float[Tensor, "T d"]) -> Float[Tensor, "T d"]:
    """t̂ written as λ R t, with the rotation R from t to t̂ and λ = |t̂| / |t| constants: the gradient is turned back by R.

    R t = t − 2 r ⟨r, t⟩ + 2 ê ⟨u, t⟩ with unit vectors u of t, ê of t̂, and r of u + ê. Source: Fifty et al., "Restructuring
    Vector Quantization with the Rotation Trick" (2024), section 4.2.
    """
    t, e = tokens.detach(), quantized.detach()
    length, size = t.norm(dim=-1, keepdim=True).clamp(min=1e-6), e.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    u, v = t / length, e / size
    r = torch.nn.functional.normalize(u + v, dim=-1, eps=1e-6)
    turned = tokens - 2 * r * (r * tokens).sum(-1, keepdim=True) + 2 * v * (u * tokens).sum(-1, keepdim=True)
    return turned * (size / length)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
