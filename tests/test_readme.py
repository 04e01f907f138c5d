"""The numbers in the README are those that its commands print."""

from pathlib import Path

import pandas as pd
import pytest

from workbench.bench.growth import readme_growth
from workbench.bench.tables import readme, readme_sizes
from workbench.bench.training import summary
from workbench.models.model_store import TrainedModel, beside, markdown
from workbench.studies.seeds import format_seeds

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("ml-1m-sasrec-dot", "ml-1m-sasrec-mol", "ml-1m-hstu-dot", "ml-1m-hstu-mol")


def test_the_table_of_results_is_what_compare_prints() -> None:
    table = beside([TrainedModel.load(ROOT / "ckpts" / name) for name in MODELS])
    assert markdown(table) in (ROOT / "README.md").read_text()
    stored = pd.read_csv(ROOT / "reports" / "tables" / "ml-1m.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)


@pytest.mark.parametrize("first", ["hstu-dot", "hstu-dot-longer"])
def test_the_tables_of_seeds_are_what_the_stored_seeds_say(first: str) -> None:
    table = pd.read_csv(ROOT / "reports" / "tables" / f"seeds-ml-1m-{first}.csv")
    assert markdown(format_seeds(table)) in (ROOT / "README.md").read_text()


def test_the_table_of_training_speed_is_what_the_stored_steps_say() -> None:
    table = summary(pd.read_csv(ROOT / "reports" / "tables" / "bench-train.csv"))
    for column, digits in (("median", 2), ("min", 2), ("max", 2), ("speed-up", 2), ("memory_gib", 1)):
        table[column] = table[column].map(f"{{:.{digits}f}}".format)
    assert markdown(table) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("workload", "run"),
    [
        ("ml-1m-hstu-mol", "standard"),
        ("ml-1m-hstu-mol, 100,000 items", "standard"),
        ("ml-1m-hstu-mol, 695,762 items", "sizes"),
    ],
)
def test_the_tables_of_search_are_what_the_stored_run_says(workload: str, run: str) -> None:
    table = pd.read_csv(ROOT / "reports" / "tables" / f"search-{run}.csv")
    assert markdown(readme(table, workload)) in (ROOT / "README.md").read_text()
    assert (table["false_certificates"].dropna() == 0).all()


def test_the_tables_of_published_sizes_and_of_growth_are_what_the_stored_runs_say() -> None:
    sizes, growth = (
        pd.read_csv(ROOT / "reports" / "tables" / f"search-{run}.csv") for run in ("sizes", "growth")
    )
    text = (ROOT / "README.md").read_text()
    assert markdown(readme_sizes(sizes)) in text
    assert markdown(readme_growth(growth)) in text


@pytest.mark.movielens
def test_a_shipped_checkpoint_still_measures_what_its_card_says(
    movielens_1m: Path, tmp_path, monkeypatch
) -> None:
    """The ranks of 6,040 users, measured anew from the raw files."""
    from workbench.data.build import build
    from workbench.evaluation.protocol import STRICT, summarize
    from workbench.evaluation.retrievers import rank_users

    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    shelved = TrainedModel.load(ROOT / "ckpts" / "ml-1m-sasrec-dot")
    sequences = build("ml-1m", movielens_1m).sequences
    assert sequences.fingerprint() == shelved.metadata["fingerprint"]
    found = summarize(rank_users(shelved.retriever(), sequences, STRICT), STRICT).set_index("metric")["value"]
    stored = shelved.metrics.set_index("metric")["value"]
    for metric in ("HR@10", "NDCG@10", "MRR"):
        assert found[metric] == pytest.approx(stored[metric], abs=2e-4)
