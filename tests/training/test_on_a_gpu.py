"""Training, evaluation and each kind of search on a GPU, held to the same weights on the CPU."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import ITEMS, KINDS, USERS, cyclic, retriever_config, training_config

from workbench.evaluation.protocol import STRICT, summarize
from workbench.evaluation.retrievers import rank_users
from workbench.models.recommend import own_index, queries
from workbench.retriever import Retriever
from workbench.search import BruteForce
from workbench.training import loop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch warns about its choice of attention kernel, cuBLAS about an option; neither is ours.
    pytest.mark.filterwarnings("default"),
]


def trained(folder, kind, **changes):
    config = replace(training_config(), **changes)
    return loop.train(cyclic(), retriever_config(kind), config, folder, device="cuda", progress=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trained_on_a_gpu_ranks_the_same_on_both_devices(tmp_path, kind):
    run = trained(tmp_path, kind, epochs=2)
    assert all(math.isfinite(value) for value in run.history.iloc[-1])
    users = np.arange(USERS)
    found = {}
    for device in ("cpu", "cuda"):
        retriever = Retriever.load(run.folder, torch.device(device))
        assert retriever.device.type == device
        metrics = summarize(rank_users(retriever, cyclic(), STRICT), STRICT).set_index("metric")["value"]
        with torch.no_grad():
            items, asked = retriever.item_state(), queries(retriever, cyclic(), users)
            exclude = torch.from_numpy(cyclic().history(users)).to(device)
            index = own_index(retriever.similarity, items) or BruteForce(retriever.similarity, items)
            found[device] = metrics["NDCG@10"], index.search(asked, 5, exclude)
    (here, on_cpu), (there, on_gpu) = found["cpu"], found["cuda"]
    assert there == pytest.approx(here, abs=0.05)
    assert on_gpu.ids.device.type == "cuda"
    scores = on_gpu.scores.cpu()
    same = torch.isclose(scores, on_cpu.scores, atol=1e-3, rtol=1e-3)
    assert same.float().mean() > 0.95  # a path or a code may tip over by rounding
    assert (on_gpu.ids.cpu() <= ITEMS).all()


@pytest.mark.parametrize("kind", ["sasrec-dot", "hstu-mol"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls(tmp_path, kind, precision):
    changes = {"warmup_steps": 0, "positions_per_step": None, "learning_rate": 0.02, "precision": precision}
    run = trained(tmp_path, kind, epochs=10, **changes)
    assert run.history["loss"].iloc[-1] < 0.7 * run.history["loss"].iloc[0]


def test_a_run_goes_on_from_its_last_state(tmp_path):
    trained(tmp_path, "hstu-mol", epochs=2)
    run = trained(tmp_path, "hstu-mol", epochs=4)
    assert run.history["epoch"].tolist() == [1, 2, 3, 4]
