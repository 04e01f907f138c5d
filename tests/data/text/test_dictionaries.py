"""WordNet and GCIDE as published, and the two tasks that are made from them."""

import gzip
from collections import Counter
from pathlib import Path

import pytest
from dictionaries import GCIDE, WORDNET, write_gcide, write_wordnet

from workbench.data import DataError
from workbench.data.text.gcide import read_gcide
from workbench.data.text.reverse_dictionary import reverse_dictionary, split_of, wordnet_examples
from workbench.data.text.wordnet import read_wordnet


def test_every_synset_of_wordnet_is_read(tmp_path: Path) -> None:
    synsets = {synset.id: synset for synset in read_wordnet(write_wordnet(tmp_path))}
    assert list(synsets) == [
        "n00001740",
        "n07347000",
        "n05718556",
        "n02772480",
        "v01356370",
        "a00014358",
        "r00001740",
    ]
    noise = synsets["n07347000"]
    assert noise.text == "noise, racket: sound of any kind (especially unintelligible or dissonant sound)"
    assert noise.examples == (
        "he enjoyed the street noises",
        "they heard indistinct noises of people talking",
    )
    assert synsets["v01356370"].lemmas == ("anchor", "cast anchor")
    assert synsets["a00014358"].lemmas == ("abounding", "galore")
    assert synsets["a00014358"].part_of_speech == "a"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"00001740 03 n 01 entity 0 000 no bar\n", "no synset"),
        (b"00001740 03 n 05 entity 0 000 | four words are missing\n", "promises 5 words"),
        (b"00001740 03 n 01 entity 0 000 | caf\xe9\n", "not UTF-8"),
    ],
)
def test_a_broken_line_of_wordnet_is_named(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = write_wordnet(tmp_path) / "data.adv"
    path.write_bytes(WORDNET["data.adv"].encode() + line)
    with pytest.raises(DataError, match=rf"data\.adv, line 2.*{complaint}"):
        read_wordnet(tmp_path)


def test_a_missing_file_of_either_dictionary_is_named(tmp_path: Path) -> None:
    (write_wordnet(tmp_path) / "data.adj").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data\.adj"):
        read_wordnet(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks gcide\.dict\.dz, gcide\.index"):
        list(read_gcide(tmp_path))


def test_definitions_of_gcide_without_etymology_quotation_and_synonyms(tmp_path: Path) -> None:
    senses = list(read_gcide(write_gcide(tmp_path)))
    assert [(s.headword, s.part_of_speech, s.source) for s in senses] == [
        ("Noise", "n", "1913 Webster"),
        ("Noise", "n", "1913 Webster"),
        ("Noise", "n", "WordNet 1.5"),
        ("Anchor", "v", "1913 Webster"),
        ("Anchor", "v", "1913 Webster"),
        ("Anchoret", "n", "1913 Webster"),
    ]
    assert senses[0].text.startswith("(Acoustics) Sound of any kind; a loud racket; as,")
    assert not any("nausea" in s.text or "great noise" in s.text or "outcry" in s.text for s in senses)


def test_an_entry_that_is_not_utf_8_is_read_as_windows_1252(tmp_path: Path) -> None:
    write_gcide(
        tmp_path, {"Facade": "Facade \\Fa*cade\\, n.\n   The fa?ade of a house.\n   [1913 Webster]\n"}
    )
    raw = gzip.decompress((tmp_path / "gcide.dict.dz").read_bytes()).replace(b"?", b"\xe7")
    (tmp_path / "gcide.dict.dz").write_bytes(gzip.compress(raw))
    assert [sense.text for sense in read_gcide(tmp_path)] == ["The façade of a house."]


@pytest.mark.parametrize("line", ["Noise\tA", "Noise\tA\t?", "Noise\tA\tZZZZZ"])
def test_a_broken_line_of_the_index_is_named(tmp_path: Path, line: str) -> None:
    write_gcide(tmp_path)
    with (tmp_path / "gcide.index").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=rf"gcide\.index, line {2 * len(GCIDE) + 2}"):
        list(read_gcide(tmp_path))


def test_a_dictionary_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = write_gcide(tmp_path) / "gcide.dict.dz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"gcide\.dict\.dz is damaged"):
        list(read_gcide(tmp_path))


def test_queries_are_definitions_and_answers_share_lemma_and_part_of_speech(tmp_path: Path) -> None:
    synsets = read_wordnet(write_wordnet(tmp_path))
    collection = reverse_dictionary(read_gcide(write_gcide(tmp_path)), synsets)
    queries = collection.queries.set_index("text")
    assert list(queries.index) == [
        "Sound of any kind; a loud racket",
        "Loud and senseless talking, the work of …",  # noisers: a form of the headword
        "To hold a ship fast",
    ]
    assert [bool(x) for x in queries["names_answer"]] == [True, False, False]
    assert list(queries["answers"]) == [2, 2, 1]
    answers = collection.relevance.groupby("query_id")["document_id"].agg(list)
    assert answers["q0"] == ["n07347000", "n05718556"]
    assert answers["q2"] == ["v01356370"]
    assert [step.queries for step in collection.steps] == [6, 5, 5, 5, 4, 4, 3, 3, 3]


def test_example_sentences_lead_to_their_own_synset_and_are_not_in_its_document(tmp_path: Path) -> None:
    collection = wordnet_examples(read_wordnet(write_wordnet(tmp_path)))
    assert len(collection.queries) == 4
    texts = collection.documents.set_index("document_id")["text"]
    merged = collection.queries.merge(collection.relevance)
    assert not any(
        query in texts[document]
        for query, document in zip(merged["text"], merged["document_id"], strict=True)
    )


def test_a_word_is_in_one_split_and_eight_tenths_train() -> None:
    counts = Counter(split_of(f"word {number}") for number in range(5000))
    assert split_of("Anchor") == split_of("anchor")
    assert abs(counts["train"] / 5000 - 0.8) < 0.02 and abs(counts["test"] / 5000 - 0.1) < 0.02
