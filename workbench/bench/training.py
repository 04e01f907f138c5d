"""Training speed: the loop's step against a reference implementation, the published code's arithmetic for the same loss.

As there, linear layers of HSTU and the scores see valid positions alone (jagged), attention runs over the whole padded
length, SASRec over the whole padded grid, negatives are gathered for each position, and the item side of each is computed
again. Its batch is cut into parts of a few users, whose gradients add up, because in one piece it needs more memory than the
machines it is compared on have. "workbench, bf16" is the step with `runtime.bf16_products`.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench import runtime
from workbench.bench.published_code import check_checkout, published_step
from workbench.contracts import SequenceBatch
from workbench.encoders import sasrec
from workbench.encoders.hstu import EPS, HSTU, HSTUBlock, time_buckets
from workbench.encoders.jagged import Jagged, jagged
from workbench.encoders.sasrec import SASRec, SASRecBlock
from workbench.retriever import Retriever
from workbench.similarities.dot import DotProduct
from workbench.similarities.mol import MixtureOfLogits
from workbench.training.losses import FORBIDDEN, draw
from workbench.training.objectives import next_item
from workbench.training.preset import Preset
from workbench.training.presets import preset
from workbench.training.step import TrainingStep

Implementation = Literal["workbench", "workbench, bf16", "reference implementation", "published code"]
USERS_AT_ONCE = 8
ML_1M_LENGTHS = (4.57, 1.02)
"""Mean and deviation of the logarithm of users' lengths in MovieLens 1M (median 96), for synthetic batches of its shape."""
ITEMS = 3883


@dataclass(frozen=True)
class Measured:
    """Seconds of every measured step, and the peak resident memory of the process in GiB."""

    seconds: list[float]
    memory_gib: float
    valid_positions: list[int]


def batch(size: int, max_length: int, items: int, seed: int) -> SequenceBatch:
    """A synthetic batch with the sequence lengths of MovieLens 1M, cut at `max_length`: the same work, without the data."""
    random = np.random.default_rng(seed)
    lengths = np.clip(np.exp(random.normal(*ML_1M_LENGTHS, size)).astype(int), 16, max_length)
    lengths[0] = max_length  # a batch of this size holds a full one
    positions = np.arange(max_length)
    valid = positions < lengths[:, None]
    ids = np.where(valid, random.integers(1, items + 1, (size, max_length)), 0)
    times = np.where(valid, np.cumsum(random.exponential(60, (size, max_length)), axis=1), 0).astype(np.int64)
    return SequenceBatch(
        item_ids=torch.from_numpy(ids),
        timestamps=torch.from_numpy(times),
        ratings=torch.zeros(size, max_length),
        lengths=torch.from_numpy(lengths),
        user_ids=torch.from_numpy(random.permutation(6040)[:size]),
        target_ids=torch.from_numpy(random.integers(1, items + 1, size)),
        target_timestamps=torch.from_numpy(times.max(1) + 60),
    )


def measure(
    name: str, implementation: Implementation, steps: int, threads: int | None, checkout: Path | None = None
) -> Measured:
    """Time `steps` training steps (forward, backward, update) of a preset after one that is not counted.

    `checkout`: that of the published code, which is run if it is the implementation.
    Raises ValueError if the published code is the implementation and `checkout` is missing.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = preset(name)
    if implementation == "published code":
        if checkout is None:
            raise ValueError("the published code is run from a checkout of it: give its folder")
        take_step = published_step(checkout, name, ITEMS, USERS_AT_ONCE)
    else:
        take_step = _own_step(chosen, implementation)
    seconds, counts = [], []
    for number in range(steps + 1):
        b = batch(chosen.training.batch_size, chosen.retriever.max_length, ITEMS, number)
        bf16 = runtime.bf16_products(implementation == "workbench, bf16")
        with bf16, runtime.stopwatch(torch.device("cpu")) as watch:
            take_step(b)
        if number:
            seconds.append(watch.seconds)
            counts.append(int(b.lengths.sum()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Measured(seconds, peak, counts)


def _own_step(chosen: Preset, implementation: Implementation) -> Callable[[SequenceBatch], None]:
    retriever = Retriever(chosen.retriever, ITEMS).train()
    optimizer = torch.optim.AdamW(retriever.parameters(), chosen.training.learning_rate)
    step = TrainingStep(retriever, chosen.training.loss)
    draws = runtime.generator(0)

    def take_step(b: SequenceBatch) -> None:
        if implementation != "reference implementation":
            targets = next_item(b)
            step(b, targets, draw(chosen.training.loss, targets.target_ids, ITEMS, draws)).total.backward()
        else:
            for first in range(0, len(b), USERS_AT_ONCE):
                part = b[torch.arange(first, min(first + USERS_AT_ONCE, len(b)))]
                total = int(b.lengths.sum())
                reference_loss(retriever, part, chosen.training.loss.count, total, draws).backward()
        optimizer.step()
        optimizer.zero_grad()

    return take_step


def reference_loss(
    retriever: Retriever, b: SequenceBatch, negatives: int, positions: int, draws: torch.Generator
) -> Float[Tensor, ""]:
    """The sampled-softmax loss of `b`'s users, divided by the `positions` of the whole batch.

    The same value as the loop's loss for the same negatives and without dropout, computed as the published code does.
    Raises ValueError if the encoder is neither SASRec nor HSTU.
    """
    embeddings, encoder = retriever.embed(b), retriever.encoder
    layout = jagged(b.lengths, b.item_ids.shape[1])
    if isinstance(encoder, HSTU):
        outputs = _jagged_hstu(encoder, embeddings, b, layout)
    elif isinstance(encoder, SASRec):
        outputs = layout.unpad(_padded_sasrec(encoder, embeddings, b))
    else:
        raise ValueError(f"no reference implementation of {type(encoder).__name__}: choose SASRec or HSTU")
    targets = next_item(b)
    drawn = torch.randint(1, retriever.num_items + 1, (len(outputs), negatives), generator=draws)
    candidates = torch.cat([targets.target_ids[:, None], drawn], dim=1)  # (T, 1 + M)
    scores = _scores(retriever, outputs, candidates, targets.user_ids)
    same = drawn == targets.target_ids[:, None]
    scores = torch.cat([scores[:, :1], scores[:, 1:].masked_fill(same, FORBIDDEN)], dim=1)
    return -scores.log_softmax(1)[:, 0].sum() / positions


def _scores(
    retriever: Retriever, outputs: Float[Tensor, "T D"], ids: Int[Tensor, "T C"], users: Int[Tensor, "T"]
) -> Float[Tensor, "T C"]:
    """φ of every position and each of its candidates, the item side computed for each pair."""
    similarity = retriever.similarity
    embedded = retriever.item_table(ids)  # (T, C, D)
    if isinstance(similarity, DotProduct):
        vectors = similarity.queries(outputs, users).vectors
        items = similarity.items(embedded.flatten(0, 1), ids.flatten()).vectors.view(*ids.shape, -1)
        return torch.einsum("td,tcd->tc", vectors, items)
    if not isinstance(similarity, MixtureOfLogits):
        raise ValueError(f"no reference implementation of {type(similarity).__name__}: choose dot or MoL")
    queries = similarity.queries(outputs, users)
    state = similarity.items(embedded.flatten(0, 1), ids.flatten())
    width = similarity.config.item_groups
    components = state.components.view(*ids.shape, width, -1)  # (T, C, Px, d)
    logits = torch.einsum("tqd,tcxd->tcqx", queries.components, components).flatten(2)
    item_part = None if state.gate is None else state.gate.view(*ids.shape, -1)
    query_part = None if queries.gate is None else queries.gate[:, None]
    return (similarity.gates(logits, query_part, item_part) * logits).sum(-1)


def _padded_sasrec(
    encoder: SASRec, embeddings: Float[Tensor, "B L D"], b: SequenceBatch
) -> Float[Tensor, "B L D"]:
    """SASRec over the whole padded grid."""
    x = encoder.inputs(embeddings, b)
    for block in cast(list[SASRecBlock], list(encoder.blocks)):
        width, heads = x.shape[-1], block.heads
        query = F.layer_norm(x, (width,), eps=sasrec.EPS)
        weight, bias = block.project_in.weight, block.project_in.bias
        q = F.linear(query, weight[:width], bias[:width])
        k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        dropout = block.dropout if block.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        y = query + block.project_out(attended.transpose(1, 2).flatten(2))
        z = F.layer_norm(y, (width,), eps=sasrec.EPS)
        x = (z + block.ffn(z)) * b.valid[..., None]
    return x


def _jagged_hstu(
    encoder: HSTU, embeddings: Float[Tensor, "B L D"], b: SequenceBatch, layout: Jagged
) -> Float[Tensor, "T D"]:
    """HSTU with jagged linear layers; every pair of padded positions is attended to and then masked."""
    x = layout.unpad(encoder.inputs(embeddings, b))
    seen_at = b.timestamps
    if encoder.request_time:
        requests = b.need("target_timestamps")[:, None]
        seen_at = torch.roll(seen_at, -1, dims=1).scatter(1, (b.lengths - 1)[:, None], requests)
    buckets = time_buckets(seen_at[:, :, None], b.timestamps[:, None, :])
    steps = torch.arange(layout.length)
    causal = torch.ones(layout.length, layout.length).tril()
    for block in cast(list[HSTUBlock], list(encoder.blocks)):
        v_width, qk_width = block.heads * block.v_dim, block.heads * block.qk_dim
        projected = F.silu(F.layer_norm(x, x.shape[-1:], eps=EPS) @ block.project_in)
        u, v, q, k = projected.split([v_width, v_width, qk_width, qk_width], dim=-1)
        v, q, k = (layout.pad(t).unflatten(-1, (block.heads, -1)).transpose(1, 2) for t in (v, q, k))
        bias = (
            block.bias.position[steps[None, :] - steps[:, None] + block.padded_length - 1]
            + block.bias.time[buckets]
        )
        weights = F.silu(q @ k.transpose(-1, -2) + bias[:, None]) / block.padded_length * causal
        attended = F.layer_norm(layout.unpad((weights @ v).transpose(1, 2).flatten(2)), (v_width,), eps=EPS)
        x = x + block.project_out(F.dropout(u * attended, block.dropout, block.training))
    return x


def compare(
    presets: list[str], steps: int, threads: int | None, checkout: Path | None = None
) -> pd.DataFrame:
    """One row per measured step of each preset and implementation, each in a process of its own, in turn.

    With a `checkout` of the published code, it is an implementation too; raises as `check_checkout` does.

    Columns: preset, implementation, round, seconds, positions (valid ones), memory_gib (peak of the process).
    Raises RuntimeError with what a process printed if it failed.
    """
    implementations: list[Implementation] = ["workbench", "workbench, bf16", "reference implementation"]
    if checkout is not None:
        check_checkout(checkout, presets)
        implementations.append("published code")
    rows = []
    for name in presets:
        for number in range(2):  # in turn: what slows the machine for a while slows both
            for implementation in implementations:
                count = steps // 2 + (steps % 2 if number == 0 else 0)
                if count == 0:
                    continue
                command = [sys.executable, "-m", "workbench.bench.training", name, implementation, str(count)]
                command += [str(threads or 0), *([] if checkout is None else [str(checkout.resolve())])]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{name}, {implementation} failed:\n{done.stderr[-2000:]}")
                measured = Measured(**json.loads(done.stdout.splitlines()[-1]))
                rows += [
                    {"preset": name, "implementation": implementation, "round": number, "seconds": s, "positions": p,
                     "memory_gib": measured.memory_gib}
                    for s, p in zip(measured.seconds, measured.valid_positions, strict=True)
                ]  # fmt: skip
                print(f"{name} · {implementation} · {np.median(measured.seconds):.2f} s a step", flush=True)
    return pd.DataFrame(rows)


def summary(raw: pd.DataFrame) -> pd.DataFrame:
    """Per preset and implementation: median, least and most seconds a step, peak memory, and the ratio of medians."""
    grouped = raw.groupby(["preset", "implementation"], sort=False)
    table = grouped["seconds"].agg(["median", "min", "max"]).join(grouped["memory_gib"].max()).reset_index()
    slow = table[table["implementation"] == "reference implementation"].set_index("preset")["median"]
    table["speed-up"] = table["preset"].map(slow) / table["median"]
    return table


if __name__ == "__main__":
    given_name, given_implementation, given_steps, given_threads, *given_checkout = sys.argv[1:]
    found = measure(
        given_name,
        given_implementation,  # type: ignore[arg-type]
        int(given_steps),
        int(given_threads) or None,
        Path(given_checkout[0]) if given_checkout else None,
    )
    print(json.dumps(found.__dict__))
