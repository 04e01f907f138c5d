"""From a definition of the 1913 Webster to a sense of WordNet; and from an example sentence to its sense.

The task is that of Hill et al., "Learning to Understand Phrases by Embedding the Dictionary" (2016, arXiv 1504.00548), over two
dictionaries that were written independently of each other.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable

import pandas as pd

from workbench.data.text.collection import Step, TextCollection
from workbench.data.text.gcide import Sense
from workbench.data.text.wordnet import Synset

MASK = "…"
MIN_WORDS = 3
_ACCENT = re.compile(r"(?<=\w)\[([^\]\s]{1,4})\]|\[([^\]\s]{1,4})\](?=\w)")
_SYLLABLES = re.compile(r"(?<=\w)[\"`*](?=\w)")
_LABEL = re.compile(r"^(?:\([^)]*\)[,;]?\s*)+")
_TAIL = re.compile(
    r"\s*(?:--|;\s+as,|[;,]\s+as:|(?:(?<=[.;,])\s*|^)"
    r"(?:See|Cf\.|Called also|Also called|Same as|Written also|Spelled also|Spelt also|Opposed to|Specif)\b).*$",
    re.IGNORECASE,
)
_ENDINGS = r"(?:'s|s|es|ed|ers?|ings?|ly|ness)?"
_ENDINGS_OF_E = r"(?:e(?:'s|s|d|rs?|ly|ness)?|ings?)"


def reverse_dictionary(senses: Iterable[Sense], synsets: list[Synset]) -> TextCollection:
    """Queries: definitions with the headword masked; documents: the synsets; answers: the synsets with that lemma as that part
    of speech.

    `names_answer` marks queries that hold another lemma of an answer, `answers` counts the answers. The MD5 of the headword
    decides the split: 8 of 10 train, 1 validation, 1 test.
    """
    answers = _by_lemma(synsets)
    lemmas = {synset.id: synset.lemmas for synset in synsets}
    steps: list[Step] = []
    rows = [(s.headword.lower(), s.part_of_speech, s.text, s.source) for s in senses]
    table = pd.DataFrame(rows, columns=["group", "part_of_speech", "text", "source"])

    def keep(name: str, chosen: pd.Series | None = None) -> None:
        nonlocal table
        table = table if chosen is None else table[chosen]
        steps.append(Step(name, len(table), table["group"].nunique()))

    keep("senses of GCIDE")
    keep("not marked as WordNet's", ~table["source"].str.contains("WordNet"))
    keep("marked as of 1913", table["source"].str.contains("1913"))
    keep("with a part of speech", table["part_of_speech"].notna())
    keep("not of a phrase under the headword", ~table["text"].str.startswith("{"))
    table = table.assign(text=table["text"].map(clean))
    keep(f"{MIN_WORDS} words or more once cleaned", _words(table["text"]) >= MIN_WORDS)
    keys = list(zip(table["group"], table["part_of_speech"], strict=True))
    keep(
        "the word is in WordNet as this part of speech", pd.Series([k in answers for k in keys], table.index)
    )
    masked = [mask(text, word) for text, word in zip(table["text"], table["group"], strict=True)]
    table = table.assign(
        names_headword=[m != t for m, t in zip(masked, table["text"], strict=True)], text=masked
    )
    left = _words(table["text"].str.replace(MASK, "")) >= MIN_WORDS
    keep(f"{MIN_WORDS} words or more once the headword is masked", left)
    keep("different", ~table.duplicated(["group", "part_of_speech", "text"]))
    table = table.reset_index(drop=True)
    keys = list(zip(table["group"], table["part_of_speech"], strict=True))
    queries = pd.DataFrame(
        {
            "query_id": [f"q{row}" for row in range(len(table))],
            "text": table["text"],
            "split": table["group"].map(split_of),
            "group": table["group"],
            "part_of_speech": table["part_of_speech"],
            "answers": [len(answers[key]) for key in keys],
            "names_answer": [
                _names(text, {lemma for answer in answers[key] for lemma in lemmas[answer]})
                for text, key in zip(table["text"], keys, strict=True)
            ],
            "names_headword": table["names_headword"],
        }
    )
    pairs = ((q, answer) for q, key in zip(queries["query_id"], keys, strict=True) for answer in answers[key])
    return _collection("reverse-dictionary", synsets, queries, pairs, tuple(steps))


def wordnet_examples(synsets: list[Synset]) -> TextCollection:
    """Queries: WordNet's example sentences, word for word; documents: the synsets without their examples; the answer: the
    synset of the sentence. The MD5 of the synset's first lemma decides the split."""
    rows = [(s.lemmas[0], s.part_of_speech, text, s.id) for s in synsets for text in s.examples]
    table = pd.DataFrame(rows, columns=["group", "part_of_speech", "text", "answer"])
    steps = [Step("example sentences", len(table), table["group"].nunique())]
    table = table[~table.duplicated(["text", "answer"])].reset_index(drop=True)
    steps.append(Step("different", len(table), table["group"].nunique()))
    queries = pd.DataFrame(
        {
            "query_id": [f"q{row}" for row in range(len(table))],
            "text": table["text"],
            "split": table["group"].map(split_of),
            "group": table["group"],
            "part_of_speech": table["part_of_speech"],
            "answers": 1,
        }
    )
    pairs = zip(queries["query_id"], table["answer"], strict=True)
    return _collection("wordnet-examples", synsets, queries, pairs, tuple(steps))


def clean(text: str) -> str:
    """A definition without labels, usage marks, citations, cross-references and examples.

    >>> clean('(Naut.) Held by an {anchor}; at anchor; as, an anchored bark. [Obs.] --Spenser.')
    'Held by an anchor; at anchor'
    >>> clean('A person of r[^o]le. See {Role}.')
    'A person of role'
    """
    text = _ACCENT.sub(lambda found: "".join(filter(str.isalpha, found[1] or found[2])), text)
    text = re.sub(r"\[[^\]]*\]|\"[^\"]{40,}\"", " ", text)
    text = _SYLLABLES.sub("", text)
    text = _LABEL.sub("", " ".join(text.replace("{", "").replace("}", "").split()))
    return " ".join(_TAIL.sub("", text).split()).strip(" .,;:")


def mask(text: str, headword: str) -> str:
    """The text with the headword, and the forms that add an ending to it, replaced by "…".

    >>> mask("One who nettles; a nettler of men", "nettle")
    'One who …; a … of men'
    """
    stem = headword.removesuffix("e")
    forms = re.escape(stem) + (_ENDINGS if stem == headword else _ENDINGS_OF_E)
    return re.sub(rf"\b{forms}\b", MASK, text, flags=re.IGNORECASE)


def split_of(word: str) -> str:
    """train, validation or test, by the MD5 of the lower-case word.

    >>> [split_of(word) for word in ("anchor", "zebra", "zymosis", "range")]
    ['train', 'train', 'train', 'train']
    """
    tenth = int(hashlib.md5(word.lower().encode(), usedforsecurity=False).hexdigest(), 16) % 10
    return {8: "validation", 9: "test"}.get(tenth, "train")


def _words(texts: pd.Series) -> pd.Series:
    return texts.map(lambda text: len(text.split()))


def _by_lemma(synsets: list[Synset]) -> dict[tuple[str, str | None], list[str]]:
    found: defaultdict[tuple[str, str | None], list[str]] = defaultdict(list)
    for synset in synsets:
        for lemma in dict.fromkeys(lemma.lower() for lemma in synset.lemmas):
            found[lemma, synset.part_of_speech].append(synset.id)
    return dict(found)


def _names(text: str, lemmas: set[str]) -> bool:
    lowered = text.lower()
    return any(
        lemma.lower() in lowered and re.search(rf"\b{re.escape(lemma.lower())}\b", lowered) is not None
        for lemma in lemmas
    )


def _collection(
    name: str,
    synsets: list[Synset],
    queries: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    steps: tuple[Step, ...],
) -> TextCollection:
    documents = pd.DataFrame(
        {
            "document_id": [s.id for s in synsets],
            "text": [s.text for s in synsets],
            "word": [s.lemmas[0] for s in synsets],
        }
    )
    return TextCollection(
        name, documents, queries, pd.DataFrame(pairs, columns=["query_id", "document_id"]), steps
    )
