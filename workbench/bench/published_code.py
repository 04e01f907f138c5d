"""A training step of the published RAILS code, run from the user's checkout of it; nothing of it is part of this package.

It is built as the checkout's own `train.py` builds it, from the checkout's own configuration, on a CPU and without its data.
"""

import hashlib
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from workbench import runtime
from workbench.contracts import SequenceBatch

COMMIT = "30b1da9"
"""The commit of the published repository whose files `FILES` are."""
FILES = {
    "train.py": "205557cc8c1e35cfe604cbb8533936a0255f5c0cb1a9699e50ad435f7e3a681a",
    "modeling/sequential/hstu.py": "84ceef8772147cd1fd9f32f6c8908341b7b7478f4ad7cdfebce61ebf93d57523",
    "modeling/sequential/sasrec.py": "90d94a19552e837176d7bdf7b5ef62bf3afff6394bda5e7dd63d5612355d9591",
    "modeling/sequential/encoder_utils.py": "4ae96acc309ecaa3337d374ea64a7e0456bebaea8cfec6e4d41bf6847a76842f",
    "modeling/sequential/losses/sampled_softmax.py": "655021a3ad4a7401cbf2c388e08a1d8fa1eee8b94a2aca3a5027acd5aa39a730",
    "rails/similarities/mol/similarity_fn.py": "a99e49fecf623204dde939b802e7bc038831acd4c239d4dc4147a0e128532790",
}
"""SHA-256 of the files that a step is made of."""
CONFIGS = {
    "ml-1m/sasrec-dot": "sasrec-sampled-softmax-n128-final",
    "ml-1m/sasrec-mol": "sasrec-mol-sampled-softmax-n128-8x4x64-rails-final",
    "ml-1m/hstu-dot": "hstu-sampled-softmax-n128-rails-final",
    "ml-1m/hstu-mol": "hstu-mol-sampled-softmax-n128-8x4x64-rails-final",
}
"""The configuration in `configs/ml-1m` that a preset has the settings of."""
SLOTS = 11
"""What the published code pads each history by: ten output slots and the target."""


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Raises FileNotFoundError if `folder` has not all of the files, ValueError if one has not its SHA-256: another version."""
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: give a checkout of the published RAILS code at commit {COMMIT}"
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(
                f"{path} is not that of commit {COMMIT} of the published RAILS code, which this bench can run: check it out"
            )


def check_checkout(folder: Path, presets: list[str]) -> None:
    """Raises FileNotFoundError if `folder` is no checkout of the published code, or not a whole one; ValueError if it is one of
    another version, or if a preset has no configuration there; and ImportError if a package that it needs is not installed."""
    check_files(folder, FILES)
    for preset in presets:
        if preset not in CONFIGS:
            raise ValueError(
                f"the published code is timed for {', '.join(CONFIGS)}, not {preset}: leave out --reference, or that preset"
            )
        if not (config := _config(folder, preset)).is_file():
            raise FileNotFoundError(f"there is no {config}: the checkout is not whole")
    for module in ("gin", "fbgemm_gpu"):
        runtime.require(module)


def published_step(
    folder: Path, preset: str, items: int, users_at_once: int
) -> Callable[[SequenceBatch], None]:
    """A function that takes one training step of the published code on a batch, `users_at_once` of its users after the other.

    Imports the modules of the checkout, so that it belongs into a process of its own.
    """
    check_checkout(folder, [preset])
    sys.path.insert(0, str(folder))
    gin, train = runtime.require("gin"), importlib.import_module("train")
    gin.parse_config_file(str(_config(folder, preset)))

    def given(name: str, default: Any = None) -> Any:
        try:
            return gin.query_parameter(f"train_fn.{name}")
        except ValueError:
            return default

    dim, length = given("item_embedding_dim"), given("max_sequence_length")
    ids = list(range(1, items + 1))
    embedding = train.LocalEmbeddingModule(num_items=items, item_embedding_dim=dim)
    interaction, _ = train.get_similarity_function(
        module_type=given("interaction_module_type"), query_embedding_dim=dim, item_embedding_dim=dim
    )
    normed = given("user_embedding_norm") == "l2_norm"
    output = train.L2NormEmbeddingPostprocessor if normed else train.LayerNormEmbeddingPostprocessor
    model = train.get_sequential_encoder(
        module_type=given("main_module"),
        max_sequence_length=length,
        max_output_length=SLOTS,
        embedding_module=embedding,
        interaction_module=interaction,
        input_preproc_module=train.LearnablePositionalEmbeddingInputFeaturesPreprocessor(
            max_sequence_len=length + SLOTS, embedding_dim=dim, dropout_rate=given("dropout_rate")
        ),
        output_postproc_module=output(embedding_dim=dim, eps=1e-6),
        verbose=False,
    ).train()
    loss_of = train.SampledSoftmaxLoss(
        num_to_sample=given("num_negatives"),
        softmax_temperature=given("temperature"),
        model=model,
        activation_checkpoint=given("loss_activation_checkpoint", False),
    )
    sampler = train.LocalNegativesSampler(
        num_items=items,
        item_emb=model._embedding_module._item_emb,
        all_item_ids=ids,
        l2_norm=given("item_l2_norm"),
        l2_norm_eps=given("l2_norm_eps"),
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), given("learning_rate"), (0.9, 0.98), weight_decay=given("weight_decay")
    )
    weights = given("loss_weights", {})

    def step(batch: SequenceBatch) -> None:
        optimizer.zero_grad()
        for first in range(0, len(batch), users_at_once):
            part = batch[torch.arange(first, min(first + users_at_once, len(batch)))]
            loss, others = _loss(train, model, loss_of, sampler, part)
            train.get_weighted_loss(loss, others, weights=weights).backward()
        optimizer.step()

    return step


def _loss(
    train: Any, model: Any, loss_of: Any, sampler: Any, batch: SequenceBatch
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The published loss of a batch and its auxiliary losses, as in the loop of `train.py`."""
    row = {
        "history_lengths": batch.lengths,
        "historical_ids": batch.item_ids,
        "historical_ratings": batch.ratings.long(),
        "historical_timestamps": batch.timestamps,
        "target_ids": batch.need("target_ids"),
        "target_ratings": torch.zeros_like(batch.lengths),
        "target_timestamps": batch.need("target_timestamps"),
        "user_id": batch.need("user_ids"),
    }
    features, targets, _ = train.movielens_seq_features_from_row(
        row, device=torch.device("cpu"), max_output_length=SLOTS
    )
    ids = features.past_ids.scatter(1, features.past_lengths.view(-1, 1), targets.view(-1, 1))
    embedded = model.get_item_embeddings(ids)
    outputs = model(
        past_lengths=features.past_lengths,
        past_ids=ids,
        past_embeddings=embedded,
        past_payloads=features.past_payloads,
    )
    loss, others = loss_of(
        lengths=features.past_lengths,
        output_embeddings=outputs[:, :-1, :],
        supervision_ids=ids[:, 1:],
        supervision_embeddings=embedded[:, 1:, :],
        supervision_weights=(ids[:, 1:] != 0).float(),
        negatives_sampler=sampler,
        **features.past_payloads,
    )
    return loss, others


def _config(folder: Path, preset: str) -> Path:
    return folder / "configs" / "ml-1m" / f"{CONFIGS[preset]}.gin"
