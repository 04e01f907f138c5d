"""What the notebooks measure follows the size of the catalogue in the quick profile."""

import pytest

from workbench.bench import plans
from workbench.bench.workloads import Trained


@pytest.mark.parametrize(
    ("catalogue", "corpus", "largest"),
    [(30, 1_000, 30_000), (160, 3_200, 30_000), (1_024, 20_000, 100_000), (3_706, 20_000, 100_000)],
)
def test_a_small_catalogue_is_inflated_to_few_copies(
    monkeypatch: pytest.MonkeyPatch, checkpoint: str, catalogue: int, corpus: int, largest: int
) -> None:
    monkeypatch.setattr(Trained, "num_items", lambda self: catalogue)
    (workload,) = plans.of_profile("quick", checkpoint).workloads
    assert workload.num_items() == corpus
    corpora = [spec.num_items() for spec in plans.growth_of_profile("quick", checkpoint).workloads]
    assert corpora[-1] == largest and len(corpora) >= 3
