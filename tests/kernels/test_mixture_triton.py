"""The Triton kernels, through triton's interpreter on a CPU and on a GPU where there is one; see triton_checks.py.

In processes of their own: whether triton interprets is settled when it is imported, and its kernels are read from their
source, which the import hook of these tests would wrap.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.kernels import mixture
from workbench.runtime import optional

COMPILED = Path(__file__).with_name("triton_compiled.py")
CHECKS = Path(__file__).with_name("triton_checks.py")
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(optional("triton") is None, reason="triton is not installed"),
]


def printed_by(script: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """What a script prints on its last line."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module", params=DEVICES)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the checks found on a device."""
    interpreted = {"TRITON_INTERPRET": "1"} if request.param == "cpu" else {}
    return printed_by(CHECKS, request.param, **interpreted)


@pytest.mark.parametrize("check", ["gates", "three_tf32", "shapes", "candidates"])
def test_float32_scores_agree_with_float64(found, check):
    assert found[check] <= 2e-5


def test_a_candidate_outside_the_corpus_is_an_error(found):
    assert found["no_such_row"] == 2 * ["a candidate is no row of the corpus: rows must lie in 0..74"]


def test_products_of_bfloat16_stay_within_the_stated_tolerance(found):
    assert 0 < found["half"] <= 0.5


def test_an_undefined_score_is_that_of_its_item_alone(found):
    assert found["undefined"] == [7]


@pytest.mark.parametrize("check", ["best", "stretches"])
def test_the_fused_best_are_those_of_sorting(found, check):
    assert found[check] is True


def test_equal_scores_keep_the_order_of_rows(found):
    assert found["ties"] == [[0, 1, 2, 3, 4], [1, 3, 5, 7, 9]]


def test_nan_comes_first_whatever_is_left_out(found):
    assert found["nan_first"] == [True, False, False, False, False]


def test_brute_force_uses_it_on_a_gpu(found):
    assert found.get("searched", True) is True


@pytest.mark.parametrize("check", ["losses", "loss_shapes"])
def test_the_loss_and_its_gradient_agree_with_float64(found, check):
    assert found[check] <= 2e-5


def test_a_loss_of_bfloat16_stays_within_the_stated_tolerance(found):
    assert 1e-4 < found["loss_in_half"] <= 0.1


def test_what_the_loss_cannot_read_is_an_error(found):
    assert found["no_such_candidate"] == [
        *2 * ["a candidate is no row of the items: rows must lie in 0..4"],
        "item_components must be of shape (5, 1, 4), not (5, 1, 3)",
    ]


def test_training_uses_it_on_a_gpu(found):
    assert found.get("trained", True) is True


def test_every_kernel_compiles_for_a_gpu(tmp_path):
    code = printed_by(COMPILED, TRITON_CACHE_DIR=str(tmp_path))
    assert len(code) == 19
    assert min(code.values()) > 1000


def test_without_a_gpu_it_is_not_used():
    f, g = torch.randn(2, 2, 4), torch.randn(5, 3, 4)
    assert not mixture.fuses_top_k(f, g, 3)
    with pytest.raises(ValueError, match="the fused top k needs a GPU"):
        mixture.top_k(f, None, g, None, mixture.MixtureGate((), "sum"), 3)
