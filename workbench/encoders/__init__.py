"""From a history to a query embedding, one file an encoder. May import contracts, registry, runtime, kernels."""

from workbench.contracts import Encoder
from workbench.encoders.bert4rec import BERT4Rec, BERT4RecConfig
from workbench.encoders.esasrec import ESASRec, ESASRecConfig
from workbench.encoders.gru4rec import GRU4Rec, GRU4RecConfig
from workbench.encoders.hstu import HSTU, HSTUConfig
from workbench.encoders.registry import ENCODERS, register
from workbench.encoders.sasrec import SASRec, SASRecConfig
from workbench.encoders.two_tower import TwoTower, TwoTowerConfig
from workbench.registry import Settings as EncoderConfig

__all__ = [
    "ENCODERS",
    "HSTU",
    "BERT4Rec",
    "BERT4RecConfig",
    "ESASRec",
    "ESASRecConfig",
    "EncoderConfig",
    "GRU4Rec",
    "GRU4RecConfig",
    "HSTUConfig",
    "SASRec",
    "SASRecConfig",
    "TwoTower",
    "TwoTowerConfig",
    "build",
    "register",
]


def build(config: EncoderConfig, dim: int, max_length: int) -> Encoder:
    """The encoder that `config` describes, of width `dim`, for histories of up to `max_length` items."""
    encoder: Encoder = ENCODERS.build(config, dim=dim, max_length=max_length)
    return encoder
