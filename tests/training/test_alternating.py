"""Alternating training: what the loop requires of such a similarity, and that a resumed run takes the same steps."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from worlds import DIM, ENCODERS, LENGTH, SIMILARITIES, cyclic, training_config

from workbench.evaluation.protocol import STRICT_VALIDATION, effective_ranks
from workbench.evaluation.retrievers import rank_users
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DeepRetrieval, DeepRetrievalConfig
from workbench.training import loop

PATHS = SIMILARITIES["paths"]
assert isinstance(PATHS, DeepRetrievalConfig)
VARIANTS = {
    "afresh": replace(PATHS, decay=0.0),
    "stream": replace(PATHS, updates="stream", refresh=3, decay=0.9),
    "joint, then alone": replace(PATHS, output_table=True, joint_epochs=2),
}


def trained(folder: Path, similarity: DeepRetrievalConfig, epochs: int) -> loop.Run:
    config = training_config(epochs)
    retriever = RetrieverConfig(ENCODERS["gru4rec"], similarity, DIM, LENGTH)
    return loop.train(cyclic(), retriever, config, folder, device="cpu", progress=False)


@pytest.mark.parametrize("similarity", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_run_that_goes_on_ends_with_the_paths_of_one_that_was_not_stopped(tmp_path, similarity):
    trained(tmp_path / "parts", similarity, 2)
    parts, whole = trained(tmp_path / "parts", similarity, 4), trained(tmp_path / "whole", similarity, 4)
    one, other = (
        safetensors.torch.load_file(run.folder / "epoch-0004" / "model.safetensors") for run in (parts, whole)
    )
    assert one.keys() == other.keys() >= {"similarity.paths", "similarity.list_scores"}
    assert all(torch.equal(one[name], other[name]) for name in one)
    columns = ["structure", "stability", "paths in use", "path objective"]
    assert parts.history[columns].equals(whole.history[columns])


def test_after_the_joint_epochs_only_the_output_table_moves(tmp_path):
    run = trained(tmp_path / "run", VARIANTS["joint, then alone"], 3)
    before = trained(tmp_path / "joint", VARIANTS["joint, then alone"], 2)
    early, late = (
        safetensors.torch.load_file(folder / "model.safetensors")
        for folder in (before.folder / "epoch-0002", run.folder / "epoch-0003")
    )
    moved = {name for name in early if not torch.equal(early[name], late[name])}
    assert moved == {"similarity.output.weight"}
    assert run.history["structure"].notna().tolist() == [True, True, False]
    assert run.history["stability"].notna().tolist() == [True, True, False]


def test_a_history_covers_both_turns(tmp_path):
    run = trained(tmp_path, VARIANTS["afresh"], 4)
    assert run.history["structure"].iloc[-1] < run.history["structure"].iloc[0]
    assert run.history["stability"].between(0, 1).all()
    assert (run.history["largest path"] <= 25).all() and (run.history["paths in use"] <= 16).all()
    assert math.isfinite(run.best_metric)


def test_deep_retrieval_is_ranked_by_what_its_beam_reaches(tmp_path):
    retriever = Retriever.load(trained(tmp_path, VARIANTS["afresh"], 4).folder)
    assert isinstance(retriever.similarity, DeepRetrieval)
    own = rank_users(retriever, cyclic(), STRICT_VALIDATION)
    whole = rank_users(retriever, cyclic(), STRICT_VALIDATION, brute_force=True)
    assert own["user_id"].equals(whole["user_id"])
    missed = own["rank"] == retriever.num_items + 1
    assert missed.any() and not (whole["rank"] == retriever.num_items + 1).any()
    # Among fewer candidates a target that is found cannot come out further down.
    assert (effective_ranks(own)[~missed] <= effective_ranks(whole)[~missed]).all()
    assert (own["candidates"] < whole["candidates"]).any()
