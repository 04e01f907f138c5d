"""Means and deviations over seeds, and differences on the same seeds."""

from dataclasses import dataclass, field

import pandas as pd
import pytest

from workbench.models.cards import SHOWN
from workbench.studies import seed_studies
from workbench.studies.seed_studies import Seeds
from workbench.studies.seeds import over_seeds

DOT = pd.DataFrame({"HR@10": [0.1, 0.2, 0.3], "MRR": [0.5, 0.5, 0.5]})
MOL = pd.DataFrame({"HR@10": [0.2, 0.3, 0.7], "MRR": [0.4, 0.5, 0.6]})


def test_a_row_for_each_method_and_metric():
    table = over_seeds({"dot": DOT, "MoL": MOL}).set_index(["method", "metric"])
    assert table["mean"].tolist() == pytest.approx([0.2, 0.5, 0.4, 0.5])
    assert table.loc[("MoL", "HR@10"), "std"] == pytest.approx(0.07**0.5)
    assert table["over_first"].tolist() == pytest.approx([0, 0, 0.2, 0])
    assert table.loc[("MoL", "HR@10"), "difference_std"] == pytest.approx(0.03**0.5)
    assert set(table["seeds"]) == {3}


def test_one_seed_has_no_deviation():
    table = over_seeds({"dot": DOT[:1], "MoL": MOL[:1]})
    assert table["std"].isna().all() and table["mean"].notna().all()


@pytest.mark.parametrize("values", [{}, {"dot": DOT[:0]}, {"dot": DOT, "MoL": MOL[:2]}])
def test_seeds_that_do_not_match_are_an_error(values):
    with pytest.raises(ValueError, match="seed"):
        over_seeds(values)


@dataclass
class Trained:
    """Models whose metrics are their seed, trained with the `threads` of their preset and seed."""

    threads: dict[tuple[str, int], str]
    notes: list[str] = field(default_factory=list)

    def require(self, chosen, _, seed):
        metrics = pd.DataFrame({"metric": SHOWN, "value": float(seed)})
        return type("Model", (), {"metrics": metrics, "threads": self.threads.get((chosen.name, seed), "2")})

    def note(self, line):
        self.notes.append(line)


@pytest.mark.parametrize(
    ("threads", "dot", "mol"),
    [
        ({}, "2", "2"),
        ({("quick/hstu-mol", 1): "1"}, "2", "2, 1"),
        ({("quick/hstu-dot", s): "unknown" for s in (0, 1)}, "unknown", "2"),
    ],
)
def test_the_threads_of_the_trainings_are_stored_and_a_mixture_is_reported(monkeypatch, threads, dot, mol):
    monkeypatch.setattr(seed_studies, "load", lambda name: None)
    models = Trained(threads)
    table = Seeds(models=("quick/hstu-dot", "quick/hstu-mol"), seeds=2).table(models)
    assert table.groupby("method")["threads"].unique().map(list).to_dict() == {
        "quick/hstu-dot": [dot],
        "quick/hstu-mol": [mol],
    }
    assert len(models.notes) == bool(threads)
    assert all("not trained with the same number of threads" in note for note in models.notes)
