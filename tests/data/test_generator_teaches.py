"""On the embedded dataset a mixture of logits beats the dot product of the same width; `make matrix`: over three seeds."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest


def measured(similarity: str, seed: int, folder: Path) -> float:
    """The test NDCG@10 of a quick preset of HSTU after half of its epochs.

    Called in a process of its own, where calls are not checked and one thread computes: the models are so small that a
    second one only waits.
    """
    import torch

    from workbench.data import load
    from workbench.evaluation.protocol import STRICT, summarize
    from workbench.evaluation.retrievers import rank_users
    from workbench.retriever import Retriever
    from workbench.training.loop import train
    from workbench.training.presets import preset

    torch.set_num_threads(1)
    sequences = load("embedded-small")
    chosen = preset(f"quick/hstu-{similarity}")
    training = replace(chosen.training, seed=seed, epochs=6)
    train(sequences, chosen.retriever, training, folder, device="cpu", progress=False)
    ranks = rank_users(Retriever.load(folder), sequences, STRICT)
    return float(summarize(ranks, STRICT, resamples=10).set_index("metric")["value"]["NDCG@10"])


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.matrix)])
def test_mol_beats_dot_on_held_out_items(seeds, tmp_path, monkeypatch) -> None:
    """Same encoder, width, negatives and steps; with every seed of one against every seed of the other."""
    from workbench.data import load

    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    load("embedded-small")  # which writes it, before two processes look for it
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        found = {
            similarity: [
                processes.submit(measured, similarity, seed, tmp_path / f"{similarity}-{seed}")
                for seed in range(seeds)
            ]
            for similarity in ("mol", "dot")  # the longer ones first
        }
        reached = {similarity: [run.result() for run in runs] for similarity, runs in found.items()}
    assert min(reached["mol"]) > 1.1 * max(reached["dot"]), reached
