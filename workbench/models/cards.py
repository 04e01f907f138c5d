"""The model card of a checkpoint."""

import json
from typing import Any

import pandas as pd

from workbench.data import Sequences
from workbench.encoders import ENCODERS
from workbench.evaluation.protocol import STRICT
from workbench.models import measurements
from workbench.similarities import SIMILARITIES
from workbench.training.config import TrainingConfig

SHOWN = ("HR@1", "HR@10", "HR@50", "HR@200", "NDCG@10", "MRR")
"""The metrics of a card, and of tables that compare models."""


def card(
    name: str, metadata: dict[str, Any], history: pd.DataFrame, metrics: pd.DataFrame, sequences: Sequences
) -> str:
    """The model card: the model, its training data and settings, its metrics, and its limits."""
    training = TrainingConfig.from_dict(metadata["training"])
    config = metadata["retriever"]
    encoder, similarity = (
        parts[config[part]["kind"]].title
        for part, parts in (("encoder", ENCODERS), ("similarity", SIMILARITIES))
    )
    shown = metrics[metrics["metric"].isin(SHOWN)]
    rows = "\n".join(
        f"| {r.metric} | {r.value:.4f} | {r.low:.4f} to {r.high:.4f} |" for r in shown.itertuples()
    )
    origin = "".join(
        f"- {k}: {metadata[k]}\n"
        for k in ("preset", "source", "commit", "machine", "command")
        if k in metadata
    )
    if dtype := metadata.get("stored_dtype"):
        origin += f"- stored as {dtype}, which leaves the metrics below as those of float32, to four digits\n"
    settings = json.dumps({"retriever": config, "training": metadata["training"]}, indent=1)
    return f"""# {name}

{encoder} with {similarity}, embedding width {config["dim"]}, histories of
up to {config["max_length"]} items.

- data: {sequences.name}, {sequences.num_users:,} users, {sequences.num_items:,} items,
  {len(sequences.item_ids):,} interactions (fingerprint {metadata["fingerprint"]}); the data is not part of this checkpoint
- trained: {len(history)} epochs, {history["seconds"].sum() / 60:.0f} minutes; epoch {metadata["best_epoch"]} chosen by
  {training.metric} on the {training.choose_on} part; seed {training.seed}
{origin}
Measured on {metrics["users"].iloc[0]:,} users by {metrics[measurements.MEASURED_BY].iloc[0]},
with 95 % bootstrap intervals; the protocol:
{STRICT.on(sequences).chosen_on(training.choose_on)}.

| metric | value | interval |
| --- | --- | --- |
{rows}

For research and teaching on the same data. It has no items or users beyond its table, and repeats the popularity and
selection biases of its data.

<details><summary>All settings</summary>

```json
{settings}
```
</details>
"""
