"""The study of published runs: the same settings trained here, under the protocol that they were published with."""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import pandas as pd

from workbench.data import load
from workbench.evaluation.protocol import RAILS, STRICT, Protocol, summarize
from workbench.evaluation.published import comparable, published
from workbench.evaluation.retrievers import rank_users
from workbench.models.model_store import PUBLISHED_TABLE
from workbench.studies.study import Models, PresetsOnDataset, none_trained, register
from workbench.training.presets import preset


class Origin(NamedTuple):
    """Where figures were published: the source, the name that each method has there by the end of its preset's name (apart from
    one of `CHEAPER`), and the protocol they were measured by."""

    source: str
    methods: dict[str, str]
    protocol: Protocol


SETTINGS = Origin(
    PUBLISHED_TABLE,
    {"sasrec-dot": "SASRec", "sasrec-mol": "SASRec+MoL", "hstu-dot": "HSTU", "hstu-mol": "HSTU+MoL"},
    RAILS,
)
"""Of the presets of published settings."""
HIGHEST = Origin(
    "RecTools", {"hstu-dot": "HSTU-large"}, replace(STRICT, name="time visible", request_time=True)
)
"""Of the presets "visible/…": the highest open row of MovieLens 1M."""
CHEAPER = ("-bf16", "-50-epochs")
"""Suffixes of presets that cost less than the published runs and are compared with the same figures."""
MARGIN = 0.005
"""How far HR@10 may be from the published one to count as the same result."""


@register
@dataclass(frozen=True)
class Published(PresetsOnDataset):
    """Models of published settings, measured as published and strictly, next to the published figures.

    `dataset`: the data; `models`: its presets of published settings, or of the protocol of the highest open rows ("visible/…").
    Each is trained once, with seed 0.
    """

    name: ClassVar[str] = "published"
    question: ClassVar[str] = "Do the published settings, trained here, give the published figures?"
    minutes: ClassVar[float] = 600
    models: tuple[str, ...] = ("ml-1m/sasrec-dot", "ml-1m/sasrec-mol", "ml-1m/hstu-dot", "ml-1m/hstu-mol")

    def __post_init__(self) -> None:
        strange = [name for name in self.models if _method(name) is None]
        if strange:
            raise ValueError(
                f"no published settings: {', '.join(strange)}; these have some: {', '.join(SETTINGS.methods)} of a"
                f" dataset, visible/{', visible/'.join(HIGHEST.methods)}"
            )

    def table(self, models: Models) -> pd.DataFrame:
        """One row per preset and metric that was published for it.

        `value`, `low` and `high`: the metric and its 95 % interval over users by the protocol `protocol`, the published one;
        `strict`: of the same weights with the time hidden and the whole history left out; `published`; `epochs` trained,
        `chosen` of these.
        """
        sequences = load(self.dataset)
        rows = []
        for name in self.models:
            if (model := models.find(preset(name), sequences)) is None:
                continue
            retriever, rules = model.retriever(), _origin(name).protocol.on(sequences)
            found, strict = (
                summarize(rank_users(retriever, sequences, protocol), protocol).set_index("metric")
                for protocol in (rules, STRICT.on(sequences))
            )
            theirs = comparable(published(self.dataset, [str(_method(name))], source=_origin(name).source))
            facts = {
                "model": name,
                "protocol": str(rules),
                "epochs": len(model.history),
                "chosen": int(model.metadata["best_epoch"]),
            }
            for metric, figure in zip(theirs["metric"], theirs["value"], strict=True):
                measured = found.loc[metric, ["value", "low", "high"]].to_dict()
                row = facts | {"metric": metric} | measured
                rows.append(row | {"strict": strict["value"][metric], "published": figure})
        if not rows:
            raise none_trained(self.models)
        return pd.DataFrame(rows)


def _origin(preset: str) -> Origin:
    return HIGHEST if preset.startswith("visible/") else SETTINGS


def _method(preset: str) -> str | None:
    """Its published name; None if it has none."""
    method = preset.rpartition("/")[2]
    for end in CHEAPER:
        method = method.removesuffix(end)
    return _origin(preset).methods.get(method)


def format_published(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `Published` as text: three rows per model (here, published, here by the strict protocol)."""
    rows = []
    for model, found in table.groupby("model", sort=False):
        one = found.iloc[0]
        cells = found.set_index("metric")
        here = {m: f"{r['value']:.4f} ({r['low']:.4f} to {r['high']:.4f})" for m, r in cells.iterrows()}
        epochs = f"{one['chosen']} of {one['epochs']}"
        rows.append({"model": str(model), "whose": "here", "epoch": epochs} | here)
        rows.append({"model": "", "whose": "published"} | cells["published"].map("{:.4f}".format).to_dict())
        rows.append({"model": "", "whose": "here, strict"} | cells["strict"].map("{:.4f}".format).to_dict())
    return pd.DataFrame(rows).fillna("")


def as_published(table: pd.DataFrame) -> str:
    """Which models reach the published HR@10, as a sentence.

    >>> as_published(pd.DataFrame({"model": ["a", "b"], "metric": "HR@10", "value": [0.33, 0.31], "published": 0.331}))
    'HR@10 is within .005 of the published one for a (-0.0010), and not for b (-0.0210).'
    """
    ten = table[table["metric"] == "HR@10"]
    off = dict(zip(ten["model"], ten["value"] - ten["published"], strict=True))
    within, beyond = (
        ", ".join(f"{name} ({gap:+.4f})" for name, gap in off.items() if (abs(gap) <= MARGIN) == wanted)
        for wanted in (True, False)
    )
    head = "HR@10 is within .005 of the published one"
    if not within:
        return f"{head} for none: {beyond}."
    return f"{head} for {within}" + (f", and not for {beyond}." if beyond else ".")


def lead(mixture: pd.DataFrame, dot: pd.DataFrame) -> str:
    """How far the first model of one table is ahead of the first of another in HR@10, here and as published.

    >>> mixture = pd.DataFrame({"model": ["a"], "metric": "HR@10", "value": [0.33], "published": [0.35]})
    >>> lead(mixture, pd.DataFrame({"model": ["b"], "metric": "HR@10", "value": [0.31], "published": [0.34]}))
    'HR@10 of a minus that of b is +0.0200 here, +0.0100 as published.'
    """
    ahead, behind = (table[table["metric"] == "HR@10"].iloc[0] for table in (mixture, dot))
    here, published = (ahead[column] - behind[column] for column in ("value", "published"))
    return f"HR@10 of {ahead['model']} minus that of {behind['model']} is {here:+.4f} here, {published:+.4f} as published."
