"""Complete settings by name: the twelve published RAILS configurations, and smaller ones that fit other machines.

`ml-1m/hstu-mol` names dataset, encoder and similarity as published; `cpu/…` are the settings of the shipped MovieLens 1M
checkpoints (two cores, under an hour each), `fair/…` the published sizes under the strict protocol, `visible/…` some of those
with the time of the target visible, `quick/…` those of the quick notebooks on the embedded dataset, `book-crossing/…` those of
a dataset without times. Each `…/hstu-mol` has a sister `…/hstu-mol-unbalanced`, trained without the load-balancing loss and
otherwise the same; each dot product and Mixture-of-Logits of `cpu/…` one that is trained twice as long, `…-longer`; the
published MoL of MovieLens 1M one whose item dropout is drawn as there, `…-dropout-per-candidate`, and one that is trained for
half as long, `…-50-epochs`. For comparison there are the encoder `esasrec`, and dot products of `fair/…` with other losses,
`…-gbce` and `…-full-softmax`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from workbench.encoders import EncoderConfig, ESASRecConfig, HSTUConfig, SASRecConfig
from workbench.registry import did_you_mean, load_entry_points
from workbench.retriever import RetrieverConfig
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, SimilarityConfig
from workbench.training.book_presets import BOOKS
from workbench.training.config import TrainingConfig
from workbench.training.losses import LossConfig
from workbench.training.path_presets import HALVES, PATHS_OF_HUNDREDS, PATHS_OF_THOUSANDS
from workbench.training.preset import Preset, longer
from workbench.training.sparcode_presets import SPARCODE

RAILS = "published RAILS configuration"


@dataclass(frozen=True)
class _Published:
    """What the four configurations of a dataset share."""

    dataset: str
    dim: int
    max_length: int
    epochs: int
    negatives: int
    precision: str
    sasrec: SASRecConfig
    hstu: HSTUConfig
    mol: MoLConfig
    decayed: tuple[str, ...]  # configurations with weight decay 1e-3; the others have none


PUBLISHED = (
    _Published(
        "ml-1m", 50, 200, 101, 128, "fp32",
        SASRecConfig(2, 1, 50, 0.2),
        HSTUConfig(8, 2, 25, 25, 0.2),
        MoLConfig(8, 4, 64, user_tables=(6040,), user_dropout=0.5),
        ("hstu-dot", "hstu-mol"),
    ),
    _Published(
        "ml-20m", 256, 200, 151, 128, "fp32",
        SASRecConfig(4, 4, 256, 0.2),
        HSTUConfig(16, 8, 32, 32, 0.2),
        MoLConfig(8, 4, 128, user_tables=(16384,), user_dropout=0.8),
        ("hstu-mol",),
    ),
    _Published(
        "amazon-books", 64, 50, 201, 512, "bf16",
        SASRecConfig(4, 4, 64, 0.5),
        HSTUConfig(16, 8, 8, 8, 0.5),
        MoLConfig(8, 8, 32),
        ("hstu-mol",),
    ),
)  # fmt: skip


def _published() -> dict[str, Preset]:
    presets = {}
    for p in PUBLISHED:
        encoders: dict[str, EncoderConfig] = {"sasrec": p.sasrec, "hstu": p.hstu}
        similarities: dict[str, SimilarityConfig] = {"dot": DotConfig(), "mol": p.mol}
        for encoder, similarity in ((e, s) for e in encoders for s in similarities):
            name = f"{encoder}-{similarity}"
            training = TrainingConfig(
                epochs=p.epochs,
                weight_decay=1e-3 if name in p.decayed else 0.0,
                loss=LossConfig(count=p.negatives),
                precision="bf16" if p.precision == "bf16" and encoder == "hstu" else "fp32",
                choose_on="test",
            )
            config = RetrieverConfig(encoders[encoder], similarities[similarity], p.dim, p.max_length)
            full = f"{p.dataset}/{name}"
            presets[full] = Preset(full, p.dataset, config, training, RAILS)
    return presets


def _cpu() -> dict[str, Preset]:
    """MovieLens 1M on two cores: shallower encoders, a smaller MoL without user ids, no request time (it would reveal when
    the target was chosen), a sample of positions per step."""
    source = "the published ML-1M settings, made smaller: see the fields"
    training = TrainingConfig(epochs=24, batch_size=64, positions_per_step=2048, validate_every=3)
    encoders: dict[str, EncoderConfig] = {
        "sasrec": SASRecConfig(2, 1, 50, 0.2),
        "hstu": HSTUConfig(2, 1, 50, 50, 0.2, request_time=False),
    }
    similarities: dict[str, SimilarityConfig] = {
        "dot": DotConfig(),
        "mol": MoLConfig(4, 4, 32, query_hidden=256, gate_query=64, gate_item=64, gate_pair=64),
        "maxsim": MaxSimConfig(4, 4, 32, query_hidden=256),
        "deep-retrieval": PATHS_OF_THOUSANDS,
    }
    return {
        f"cpu/{e}-{s}": Preset(
            f"cpu/{e}-{s}", "ml-1m", RetrieverConfig(encoder, similarity, 50, 200), training, source
        )
        for e, encoder in encoders.items()
        for s, similarity in similarities.items()
    }


def _fair() -> dict[str, Preset]:
    """The published MovieLens 1M models on equal terms: the same loss, negatives, weight decay and epochs for all similarities.

    The epoch is chosen on validation targets, training ends after 12 epochs without a better one, and the time of the target
    is hidden. The published mixture has a component of user ids, which a dot product does not have: "fair/hstu-mol-no-user"
    leaves it out, and "fair/hstu-dot-user" adds one of the same width and dropout to the dot product. "dot-wide" has as many
    floats per item as the mixture stores: its components and its part of the gate. All have the published temperature of .05;
    that of "dot-temperature-0.1" and "mol-temperature-0.1" is in their names, for what suits one need not suit the other.
    eSASRec has its own blocks in the sizes of the published SASRec.
    """
    published = next(p for p in PUBLISHED if p.dataset == "ml-1m")
    training = TrainingConfig(
        epochs=published.epochs, weight_decay=1e-3, loss=LossConfig(count=published.negatives), patience=12
    )
    encoders: dict[str, EncoderConfig] = {
        "sasrec": published.sasrec,
        "esasrec": ESASRecConfig(
            published.sasrec.blocks, published.sasrec.heads, dropout=published.sasrec.dropout
        ),
        "hstu": replace(published.hstu, request_time=False),
    }
    similarities: dict[str, SimilarityConfig] = {
        "dot": DotConfig(),
        "dot-wide": DotConfig(),
        "dot-user": DotConfig(
            user_rows=published.mol.user_tables[0],
            user_dim=published.mol.component_dim,
            user_dropout=published.mol.user_dropout,
            user_norm_weight=published.mol.user_norm_weight,
        ),
        "mol": published.mol,
        "mol-no-user": replace(published.mol, user_tables=()),
        "dot-temperature-0.1": DotConfig(temperature=0.1),
        "mol-temperature-0.1": replace(published.mol, temperature=0.1),
    }
    stored = published.mol.item_groups * published.mol.component_dim + published.mol.components
    sources = {
        "esasrec": "the blocks of eSASRec, of the published SASRec's sizes, trained like the published ML-1M models"
    }
    return {
        f"fair/{e}-{s}": Preset(
            f"fair/{e}-{s}", published.dataset,
            RetrieverConfig(encoder, similarity, stored if s == "dot-wide" else published.dim, published.max_length),
            training, sources.get(e, "the published ML-1M models under the strict protocol, trained in the same way"),
        )
        for e, encoder in encoders.items()
        for s, similarity in similarities.items()
    }  # fmt: skip


def _quick() -> dict[str, Preset]:
    """The embedded dataset in well under a minute a model on two cores.

    Of the dot products the plain one: on these data it does better than the normalised one in as many steps. The mixture's gate
    has no part that reads component scores, and 150 times the published weight of the load-balancing loss: chosen for what it
    shows. In a dozen epochs such a gate decides, so that components specialise and lists can be proved; the published gate and
    weight keep all weights near 1/4. MaxSim has the mixture's query components, and two of an item: with one it would be a dot
    product. "dot-wide" has as many floats per item as this mixture stores, 8 of its component and 4 of the gate, and about as
    many weights in all.
    """
    source = "chosen on the validation part of the embedded dataset"
    training = TrainingConfig(
        epochs=12, batch_size=16, learning_rate=0.01, loss=LossConfig(count=64), validate_every=3
    )
    encoders: dict[str, EncoderConfig] = {
        "sasrec": SASRecConfig(1, 1, 64, 0.0),
        "hstu": HSTUConfig(1, 1, 16, 16, 0.0, request_time=False),
    }
    small = {"query_hidden": 64, "gate_query": 16, "gate_item": 16, "gate_pair": None, "balance_weight": 0.15}
    similarities: dict[str, SimilarityConfig] = {
        "dot": DotConfig(normalize=False, temperature=1.0),
        "dot-wide": DotConfig(normalize=False, temperature=1.0),
        "mol": MoLConfig(4, 1, 8, item_dropout=0.0, gate_dropout=0.0, **small),  # type: ignore[arg-type]
        "maxsim": MaxSimConfig(4, 2, 8, query_hidden=64, item_dropout=0.0),
        "deep-retrieval": PATHS_OF_HUNDREDS,
    }
    sources = {"mol": f"{source}; the gate and its load-balancing loss, for a gate that decides"}
    return {
        f"quick/{e}-{s}": Preset(
            f"quick/{e}-{s}", "embedded-small", RetrieverConfig(encoder, similarity, 12 if s == "dot-wide" else 8, 60),
            training, sources.get(s, source),
        )
        for e, encoder in encoders.items()
        for s, similarity in similarities.items()
    }  # fmt: skip


def _sister(chosen: Preset, suffix: str, difference: str, **changes: Any) -> Preset:
    """The preset with these fields changed; its name ends with the suffix, its source with the difference in words."""
    return replace(chosen, name=f"{chosen.name}-{suffix}", source=f"{chosen.source}; {difference}", **changes)


def _without_balance(chosen: Preset) -> Preset:
    mol = chosen.retriever.similarity
    if not isinstance(mol, MoLConfig):
        raise ValueError(f"{chosen.name} is no Mixture-of-Logits: it has no load-balancing loss to leave out")
    config = replace(chosen.retriever, similarity=replace(mol, balance_weight=0.0))
    return _sister(chosen, "unbalanced", "without the load-balancing loss", retriever=config)


def _dropout_as_published(chosen: Preset) -> Preset:
    mol = chosen.retriever.similarity
    if not isinstance(mol, MoLConfig):
        raise ValueError(f"{chosen.name} is no Mixture-of-Logits: its items have no dropout")
    config = replace(chosen.retriever, similarity=replace(mol, dropout_per_candidate=True))
    difference = "item dropout drawn for each candidate, as there"
    return _sister(chosen, "dropout-per-candidate", difference, retriever=config)


def _with_full_softmax(chosen: Preset) -> Preset:
    """A dot product affords all items as negatives: one matrix product."""
    training = replace(chosen.training, loss=LossConfig("full softmax"))
    difference = "softmax over all items in the place of sampled negatives"
    return _sister(chosen, "full-softmax", difference, training=training)


def _with_gbce(chosen: Preset) -> Preset:
    training = replace(chosen.training, loss=replace(chosen.training.loss, kind="gbce"))
    difference = "generalised binary cross-entropy (gSASRec) in the place of a softmax"
    return _sister(chosen, "gbce", difference, training=training)


def _with_visible_time(chosen: Preset) -> Preset:
    """The protocol of the highest open rows: stable order of ties, epoch chosen on validation, time of the target visible."""
    encoder = chosen.retriever.encoder
    if not isinstance(encoder, HSTUConfig):
        raise ValueError(f"{chosen.name}: only HSTU reads the time of the target")
    config = replace(chosen.retriever, encoder=replace(encoder, request_time=True))
    name = chosen.name.replace("fair/", "visible/")
    return replace(
        chosen, name=name, retriever=config, source=f"{chosen.source}; the time of the target visible"
    )


def _in_fewer_epochs(chosen: Preset, epochs: int = 50) -> Preset:
    training = replace(chosen.training, epochs=epochs)
    return _sister(
        chosen, f"{epochs}-epochs", f"{epochs} epochs of {chosen.training.epochs}", training=training
    )


def _in_bf16(chosen: Preset) -> Preset:
    return _sister(chosen, "bf16", "in bf16", training=replace(chosen.training, precision="bf16"))


_LINED_UP = _published() | _cpu() | _fair() | _quick()
_DOTS = [_LINED_UP[f"fair/{encoder}-dot"] for encoder in ("sasrec", "esasrec", "hstu")]
_DENSE = [_with_full_softmax(p) for p in _DOTS]
_VARIED = (
    *_DENSE,
    *(_with_gbce(p) for p in _DOTS),
    *(_with_visible_time(p) for p in (_DOTS[-1], _DENSE[-1], _LINED_UP["fair/hstu-mol"])),
    *(
        _in_bf16(_LINED_UP[name])
        for name in ("cpu/hstu-mol", "fair/hstu-mol", "ml-1m/hstu-mol", "ml-1m/sasrec-mol")
    ),
    *(_in_fewer_epochs(_LINED_UP[f"ml-1m/{encoder}-mol"]) for encoder in ("sasrec", "hstu")),
)
PRESETS: dict[str, Preset] = (
    _LINED_UP
    | SPARCODE
    | BOOKS
    | HALVES
    | {varied.name: varied for varied in _VARIED}
    | {
        sister.name: sister
        for sister in (_without_balance(p) for name, p in _LINED_UP.items() if name.endswith("/hstu-mol"))
    }
    | {
        sister.name: sister
        for sister in (_dropout_as_published(_LINED_UP[f"ml-1m/{e}-mol"]) for e in ("sasrec", "hstu"))
    }
    | {
        sister.name: sister
        for sister in (longer(_LINED_UP[f"cpu/{e}-{s}"]) for e in ("sasrec", "hstu") for s in ("dot", "mol"))
    }
)


def preset(name: str) -> Preset:
    """The preset of that name; ValueError that lists close names, or the families, if there is none."""
    if name not in PRESETS:
        load_entry_points()
    if name not in PRESETS:
        raise ValueError(
            f"no preset {name!r}{did_you_mean(name, PRESETS)}; `workbench model list` lists them"
        )
    return PRESETS[name]


_OWN: set[str] = set()
"""The names that `add_preset` has added."""


def add_preset(new: Preset) -> Preset:
    """List a preset of your own under its name, in place of an earlier one of yours (a cell may run again with other settings).

    Raises ValueError if a preset of the workbench has that name, and other settings.
    """
    if new.name not in _OWN and PRESETS.get(new.name, new) != new:
        raise ValueError(f"there is a preset {new.name!r} of other settings already: choose another name")
    _OWN.add(new.name)
    PRESETS[new.name] = new
    return new


Profile = Literal["quick", "standard", "full"]
LINEUPS: dict[Profile, str] = {"quick": "quick", "standard": "cpu", "full": "ml-1m"}
"""Which family of presets a profile of the notebooks compares; "full" takes the published ones of the dataset."""


def lineup(profile: Profile, dataset: str) -> dict[str, Preset]:
    """The presets that the notebooks compare, by method ("HSTU + MoL"); a family "full" of `dataset` if it has one."""
    if profile not in LINEUPS:
        raise ValueError(f"no profile {profile!r}; there are {', '.join(LINEUPS)}")
    family = dataset if profile == "full" and f"{dataset}/sasrec-dot" in PRESETS else LINEUPS[profile]
    methods = {
        "SASRec + dot": "sasrec-dot",
        "SASRec + MoL": "sasrec-mol",
        "HSTU + dot": "hstu-dot",
        "HSTU + MoL": "hstu-mol",
    }
    return {method: preset(f"{family}/{name}") for method, name in methods.items()}


def late_interaction(profile: Profile) -> dict[str, Preset]:
    """The preset of MaxSim, by method, behind the encoder of `lineup`'s HSTU; it is not published."""
    if profile not in LINEUPS:
        raise ValueError(f"no profile {profile!r}; there are {', '.join(LINEUPS)}")
    return {"HSTU + MaxSim": preset(f"{'quick' if profile == 'quick' else 'cpu'}/hstu-maxsim")}


def learned_indexes(profile: Profile) -> dict[str, Preset]:
    """The presets of methods that learn their own index, by method, behind the encoders of `lineup`; none is published.

    SparCode's has a smaller budget than the others: shorter histories, fewer positions per step.
    """
    if profile not in LINEUPS:
        raise ValueError(f"no profile {profile!r}; there are {', '.join(LINEUPS)}")
    family = "quick" if profile == "quick" else "cpu"
    sparcode = "sparcode-quick/sa-sparcode" if profile == "quick" else "sparcode-ladder/sparcode-warm"
    return {
        "SASRec + SparCode": preset(sparcode),
        "HSTU + Deep Retrieval": preset(f"{family}/hstu-deep-retrieval"),
    }
