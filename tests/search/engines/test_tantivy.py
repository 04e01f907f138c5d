"""SparCode's lists in tantivy give the scores of the inverted index."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("tantivy")

from test_inverted_index import model, states

from workbench.search.engines.tantivy import TantivyIndex
from workbench.search.inverted_index import InvertedIndex


@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_the_engine_scores_as_the_index_does(tmp_path, sparsity):
    similarity = model()
    q, x = states(similarity, 12, 50)
    index = InvertedIndex.build(similarity, x, loosest=torch.inf)
    index = index.at(index.threshold_for(sparsity))
    engine = TantivyIndex.export(index, tmp_path / "engine")
    exclude = torch.randint(0, 51, (12, 4), generator=torch.Generator().manual_seed(0))
    for left_out in (None, exclude):
        expected, found = index.search(q, 20, left_out), engine.search(q, 20, left_out)
        some = expected.scores > 4 * engine.step
        torch.testing.assert_close(found.scores[some], expected.scores[some], rtol=1e-5, atol=3 * engine.step)
        clear = (expected.scores[:, :-1] - expected.scores[:, 1:]) > 6 * engine.step
        both = some[:, :-1] & clear & torch.nn.functional.pad(clear, (1, 0), value=True)[:, :-1]
        assert both.float().mean() > 0.2
        assert torch.equal(found.ids[:, :-1][both], expected.ids[:, :-1][both])
        assert not found.exact.any()
    assert list((tmp_path / "engine").iterdir())


def test_bad_input_is_named(tmp_path):
    similarity = model()
    q, x = states(similarity, 2, 10)
    (tmp_path / "something").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        TantivyIndex.export(InvertedIndex.build(similarity, x), tmp_path)
    engine = TantivyIndex.export(InvertedIndex.build(similarity, x, threshold=-1e9))
    assert (engine.search(q, 3).ids == -1).all()
    with pytest.raises(ValueError, match="k is 11"):
        engine.search(q, 11)
    with pytest.raises(ValueError, match="takes SparCodeQueries"):
        engine.search(replace(q, codes=None), 1)
