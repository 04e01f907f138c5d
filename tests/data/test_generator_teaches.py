"""On the embedded dataset a mixture of logits beats the dot product of the same width, over three seeds."""

from dataclasses import replace

import pytest
import torch

from workbench.data import load
from workbench.evaluation.protocol import HONEST, summarize
from workbench.retriever import Retriever
from workbench.training.loop import train
from workbench.training.presets import preset
from workbench.training.validation import rank_users


@pytest.mark.slow
def test_mol_beats_dot_on_held_out_items_over_three_seeds(tmp_path, monkeypatch, request) -> None:
    """The quick presets of HSTU, with half of their epochs: same encoder, width, negatives and steps."""
    threads = torch.get_num_threads()
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    torch.set_num_threads(1)  # the models are so small that a second thread only waits
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    sequences = load("embedded-small")
    found: dict[str, list[float]] = {"dot": [], "mol": []}
    for similarity, values in found.items():
        chosen = preset(f"quick/hstu-{similarity}")
        for seed in range(3):
            folder = tmp_path / f"{similarity}-{seed}"
            training = replace(chosen.training, seed=seed, epochs=6)
            train(sequences, chosen.retriever, training, folder, device="cpu", progress=False)
            ranks = rank_users(Retriever.load(folder), sequences, HONEST)
            metrics = summarize(ranks, HONEST, resamples=10).set_index("metric")["value"]
            values.append(metrics["NDCG@10"])
    assert min(found["mol"]) > 1.1 * max(found["dot"]), found
