"""Loading by name: generated datasets are made once per seed, and again when their generator changes."""

import importlib.util

import pytest

from workbench import data
from workbench.data import storage

GENERATOR = """
import pandas as pd
from workbench.data.interactions import Interactions

calls = []

def generate(size, seed):
    calls.append((size, seed))
    rows = {"user_id": [1, 1, 2], "item_id": [10 + seed, 11, 11], "timestamp": [5, 6, 7]}
    return Interactions.complete(pd.DataFrame(rows))
"""


@pytest.fixture
def generator(root, tmp_path, monkeypatch):
    """A generator that counts its calls, in the place of the real one; called with a text, it changes."""

    def install(source):
        path = tmp_path / f"generator_{abs(hash(source))}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(data, "generator", module, raising=False)
        return module

    return install


def test_a_generated_dataset_is_made_once_per_seed(generator, root):
    module = generator(GENERATOR)
    first, again, other = (data.load("embedded-tiny", seed=seed) for seed in (0, 0, 4))
    assert module.calls == [("tiny", 0), ("tiny", 4)]
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert other.items["item_id"].tolist() == [11, 14]
    assert first.name == other.name == "embedded-tiny"
    assert data.prepared_names() == ["embedded-tiny-seed0", "embedded-tiny-seed4"]


def test_it_is_made_again_when_the_generator_changes_or_the_folder_is_damaged(generator, root):
    generator(GENERATOR)
    data.load("embedded-small")
    changed = generator(GENERATOR + "\n# another process\n")
    data.load("embedded-small")
    assert changed.calls == [("small", 0)]
    (root / "data" / "embedded-small-seed0" / "users.parquet").write_bytes(b"")
    assert data.load("embedded-small").num_users == 2
    (root / "data" / "embedded-small-seed0" / storage.META).write_text("{")
    assert data.load("embedded-small").num_users == 2
    assert changed.calls == [("small", 0)] * 3
