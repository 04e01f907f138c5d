import dataclasses

import pytest

from workbench.data import EMBEDDED
from workbench.data.catalog import CATALOG


@pytest.mark.parametrize("dataset", CATALOG.values(), ids=CATALOG.keys())
def test_an_entry_is_complete(dataset):
    assert dataset.addresses[0].startswith("https://")
    assert len(set(dataset.addresses)) == len(dataset.addresses) >= 2
    assert all(address.endswith("/" + dataset.archive) for address in dataset.addresses)
    assert (
        dataset.checksum or dataset.checksum_address or dataset.name == "book-crossing"
    )  # none is published
    assert dataset.files
    assert (dataset.size or 0) < dataset.unpacked
    for text in (dataset.title, dataset.homepage, dataset.licence, dataset.terms, dataset.citation):
        assert text.strip()
    assert all("{" not in text for text in (dataset.terms, dataset.citation))
    for published in dataset.published:
        counts = dataclasses.astuple(published)[2:]
        assert any(counts), "a published row without a count is empty"
        assert published.source


def test_names_are_distinct_and_fit_for_folders():
    assert not set(CATALOG) & set(EMBEDDED)
    assert all(name == name.lower() and "/" not in name for name in CATALOG)
    assert set(CATALOG) >= {"ml-latest-small", "ml-1m", "ml-10m", "ml-20m", "ml-1b", "amazon-books"}


def test_the_corpus_sizes_of_the_published_runs_are_there():
    sizes = {
        name: [entry.catalogue for entry in CATALOG[name].published if entry.source == "published RAILS code"]
        for name in ("ml-1m", "ml-20m", "amazon-books")
    }
    assert sizes == {"ml-1m": [3_883], "ml-20m": [27_278], "amazon-books": [695_762]}


def test_datasets_with_restricted_licences_say_so():
    for name in ("ml-1m", "ml-10m"):
        assert "do not redistribute" in CATALOG[name].terms
