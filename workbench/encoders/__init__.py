"""From a history to a query embedding, one file an encoder. May import contracts, runtime, kernels."""

from workbench.contracts import Encoder
from workbench.encoders.bert4rec import BERT4Rec, BERT4RecConfig
from workbench.encoders.gru4rec import GRU4Rec, GRU4RecConfig
from workbench.encoders.hstu import HSTU, HSTUConfig
from workbench.encoders.sasrec import SASRec, SASRecConfig
from workbench.encoders.two_tower import TwoTower, TwoTowerConfig

EncoderConfig = SASRecConfig | HSTUConfig | GRU4RecConfig | BERT4RecConfig | TwoTowerConfig
CONFIGS: dict[str, type[EncoderConfig]] = {
    c.kind: c for c in (SASRecConfig, HSTUConfig, GRU4RecConfig, BERT4RecConfig, TwoTowerConfig)
}


def build(config: EncoderConfig, dim: int, max_length: int) -> Encoder:
    """The encoder that `config` describes, of width `dim`, for histories of up to `max_length` items."""
    match config:
        case SASRecConfig():
            return SASRec(config, dim, max_length)
        case HSTUConfig():
            return HSTU(config, dim, max_length)
        case GRU4RecConfig():
            return GRU4Rec(config, dim, max_length)
        case BERT4RecConfig():
            return BERT4Rec(config, dim, max_length)
        case TwoTowerConfig():
            return TwoTower(config, dim, max_length)
