"""The numbers in the README and on the page of results are those that their commands print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from workbench.bench.certificates import DEFECTS
from workbench.bench.growth import books_line
from workbench.models.measurements import MEASURED_BY
from workbench.models.model_store import TrainedModel, with_published
from workbench.studies.readme_lines import at_a_glance, fair_line, order_free_line, text_line
from workbench.studies.results import results_page
from workbench.studies.sections import SECTIONS
from workbench.studies.table_formats import markdown

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("ml-1m-cpu-sasrec-dot", "ml-1m-cpu-sasrec-mol", "ml-1m-cpu-hstu-dot", "ml-1m-cpu-hstu-mol")


def test_the_table_of_results_is_what_compare_prints() -> None:
    table = with_published([TrainedModel.load(ROOT / "ckpts" / name) for name in MODELS])
    stored = pd.read_csv(ROOT / "reports" / "tables" / "ml-1m.csv", dtype=str, keep_default_na=False)
    stored = stored.drop(columns=MEASURED_BY, errors="ignore")
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)


def test_the_page_of_results_is_what_the_stored_tables_say() -> None:
    page = (ROOT / "reports" / "results.md").read_text(encoding="utf-8")
    assert page == results_page(ROOT / "reports" / "tables"), "run `workbench study results`"


def test_the_table_at_a_glance_is_what_the_stored_seeds_say() -> None:
    assert markdown(at_a_glance(ROOT / "reports" / "tables")) in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_sentence_on_equal_terms_is_what_the_stored_table_says() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert fair_line(ROOT / "reports" / "tables") in readme


def test_the_sentence_on_data_without_order_is_what_the_stored_table_says() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert order_free_line(ROOT / "reports" / "tables") in readme


def test_the_sentence_on_text_is_what_the_stored_table_says() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert text_line(ROOT / "reports" / "tables") in readme


def test_the_sentence_on_the_largest_corpus_is_what_the_stored_table_says() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert books_line(pd.read_csv(ROOT / "reports" / "tables" / "search-books.csv")) in readme


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    environment = {**os.environ, "WORKBENCH_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sku-") == 20 and "exact" in done.stdout


def test_every_picture_of_the_readme_is_there() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)


def test_every_stored_table_is_on_the_page_of_results() -> None:
    shown = {section.file for sections in SECTIONS.values() for section in sections}
    stored = {path.stem for path in (ROOT / "reports" / "tables").glob("*.csv")}
    assert stored == shown


def test_no_stored_certificate_is_false() -> None:
    tables = {path.stem: pd.read_csv(path) for path in (ROOT / "reports" / "tables").glob("search-*.csv")}
    del tables["search-published"]  # next to the published code answers are compared, without certificates
    assert len(tables) > 5
    for name, table in tables.items():
        assert (table["false_certificates"].dropna() == 0).all(), name
    tried = pd.read_csv(ROOT / "reports" / "tables" / "certificates.csv")
    assert tried["tried"].sum() > 10_000 and not tried[list(DEFECTS)].to_numpy().any()


@pytest.mark.movielens
def test_a_shipped_checkpoint_still_measures_what_its_card_says(
    movielens_1m: Path, tmp_path, monkeypatch
) -> None:
    """The ranks of 6,040 users, measured again from the raw files."""
    from workbench.data.build import build
    from workbench.evaluation.protocol import STRICT, summarize
    from workbench.evaluation.retrievers import rank_users

    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    model = TrainedModel.load(ROOT / "ckpts" / "ml-1m-cpu-sasrec-dot")
    sequences = build("ml-1m", movielens_1m).sequences
    assert sequences.fingerprint() == model.metadata["fingerprint"]
    found = summarize(rank_users(model.retriever(), sequences, STRICT), STRICT).set_index("metric")["value"]
    stored = model.metrics.set_index("metric")["value"]
    for metric in ("HR@10", "NDCG@10", "MRR"):
        assert found[metric] == pytest.approx(stored[metric], abs=2e-4)
