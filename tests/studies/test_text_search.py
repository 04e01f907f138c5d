"""Answers for one text, and the parts of a mixture's scores, against the similarity itself."""

import pytest
import torch

from workbench.data.text import generator
from workbench.models.text_heads import EncodedCollection
from workbench.studies.text_search import TextSearch
from workbench.training.text_heads import HeadConfig, TextHead

pytest.importorskip("wordllama")

from workbench.text_encoders import WordLlamaEncoder


@pytest.fixture
def search(tmp_path, monkeypatch: pytest.MonkeyPatch) -> TextSearch:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    encoder = WordLlamaEncoder()
    encoded = EncodedCollection(generator.generate(seed=0, words=3), encoder, progress=False)
    kinds = {"cosine": HeadConfig(kind="zero-shot"), "mixture": HeadConfig(tokens="query")}
    return TextSearch(encoded, {name: TextHead(config, encoder.dim).eval() for name, config in kinds.items()})


def test_a_document_finds_itself_first_by_every_head(search: TextSearch) -> None:
    answers = search.answers("a whale in the harbour", k=3)
    assert len(answers) == 6
    first = answers[answers["place"] == 1].set_index("way")["document"]
    assert first.to_dict() == dict.fromkeys(("cosine", "mixture"), "a whale in the harbour")
    assert len(search.answers("a whale", k=1000)) == 800  # all documents, of each head


def test_parts_add_up_to_the_score_and_weights_to_one(search: TextSearch) -> None:
    parts = search.components("the old whale", "mixture", k=4)
    best = search.answers("the old whale", k=4)
    scores = best[best["way"] == "mixture"]["score"].to_numpy()
    sums = parts.groupby("document", sort=False)[["weight", "share"]].sum()
    torch.testing.assert_close(
        torch.tensor(sums["share"].to_numpy()), torch.tensor(scores), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(torch.tensor(sums["weight"].to_numpy()), torch.ones(4, dtype=torch.double))
    assert list(parts["component"].unique()) == ["q1·d1", "q1·d2", "q2·d1", "q2·d2"]


def test_each_group_spreads_its_attention_over_the_tokens(search: TextSearch) -> None:
    looks = search.attention("the old whale", "mixture")
    assert search.attentive == ("mixture",)
    assert looks.groupby("group")["weight"].sum().tolist() == pytest.approx([1, 1])
    assert looks["weight"].tolist() == pytest.approx(
        [1 / len(looks) * 2] * len(looks)
    )  # even, before training
    assert "".join(looks[looks["group"] == "q1"]["token"]).replace("▁", " ").split() == [
        "the",
        "old",
        "whale",
    ]
    with pytest.raises(ValueError, match="cosine looks at no tokens"):
        search.attention("a whale", "cosine")


def test_what_cannot_be_searched_is_refused(search: TextSearch) -> None:
    with pytest.raises(ValueError, match="is empty"):
        search.answers("  ")
    with pytest.raises(ValueError, match="is no mixture"):
        search.components("a whale", "cosine")
    with pytest.raises(ValueError, match="at least one head"):
        TextSearch(search.encoded, {})
    assert search.mixtures == ("mixture",)
