"""From a text to an embedding, one file an encoder, and a cache of encodings. May import contracts, runtime, paths, files."""

from collections.abc import Callable

from workbench.text_encoders.base import TextEncoder
from workbench.text_encoders.bert import BertConfig, BertEncoder, save_encoder
from workbench.text_encoders.cache import encode_cached, encode_tokens_cached
from workbench.text_encoders.encoded import EncodedTexts, PaddedTokens, TokenStates
from workbench.text_encoders.wordllama import WordLlamaEncoder

__all__ = [
    "ENCODERS",
    "BertConfig",
    "BertEncoder",
    "EncodedTexts",
    "PaddedTokens",
    "TextEncoder",
    "TokenStates",
    "WordLlamaEncoder",
    "encode_cached",
    "encode_tokens_cached",
    "load",
    "save_encoder",
]

ENCODERS: dict[str, Callable[[], TextEncoder]] = {
    "wordllama": WordLlamaEncoder,
    "minilm": lambda: BertEncoder(BertConfig()),
    "minilm-bfloat16": lambda: BertEncoder(BertConfig(precision="bfloat16")),
}
"""Encoders whose weights are part of an installed package, by name."""


def load(name: str) -> TextEncoder:
    """The encoder `wordllama`, `minilm` or `minilm-bfloat16`, or an encoder of transformers by folder or hub's name.

    Raises ImportError that names the install command, and OSError if there is no such model.
    """
    return ENCODERS[name]() if name in ENCODERS else BertEncoder(BertConfig(model=name))
