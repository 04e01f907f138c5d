"""One trained retriever under every choice of protocol: what each choice is worth, apart from the model."""

from dataclasses import replace
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from workbench.contracts import ItemState
from workbench.data import Batches, Sequences
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import MEANINGS, STRICT, Protocol, effective_ranks
from workbench.evaluation.ranks import found_ranks, joined, ranks_of_scores, table_of
from workbench.evaluation.retrievers import EVALUATION_BATCH, check_same_items, own_index
from workbench.retriever import Retriever
from workbench.search.tiles import score_block, tiling

SWITCHES: dict[str, tuple[Any, ...]] = {
    name: tuple(MEANINGS[name]) for name in ("part", "request_time", "history_mask", "corpus")
}
"""The settings of a protocol that can be changed without training again, and their values."""
AS_STRICT = "as strict"
"""The value of the column `training` of models that were trained as `STRICT` wants; others name what was chosen otherwise."""
KS = (10, 50)
SHOWN = ("HR@10", "HR@50", "NDCG@10", "MRR")


def protocols() -> list[Protocol]:
    """Every combination of `SWITCHES`, the others as in `STRICT`."""
    return [
        replace(STRICT, name="switchboard", **dict(zip(SWITCHES, values, strict=True)))
        for values in product(*SWITCHES.values())
    ]


def switchboard(retriever: Retriever, sequences: Sequences) -> pd.DataFrame:
    """The metrics of a retriever under every protocol of `protocols`: one row each, columns `SWITCHES`, `users` and `SHOWN`.

    Scores are computed once for each part and time, and ranked under every mask and corpus. Deep Retrieval is ranked by its
    own index.
    Raises ValueError if the retriever has another number of items than the dataset.
    """
    check_same_items(retriever, sequences)
    was_training = retriever.training
    retriever.eval()
    try:
        with torch.no_grad():
            items = retriever.item_state()
            rows: list[dict[str, Any]] = []
            for part, visible in product(SWITCHES["part"], SWITCHES["request_time"]):
                asked = [p for p in protocols() if (p.part, p.request_time) == (part, visible)]
                rows += _measured(retriever, items, sequences, asked)
    finally:
        retriever.train(was_training)
    return pd.DataFrame(rows)


def _measured(
    retriever: Retriever, items: ItemState, sequences: Sequences, asked: list[Protocol]
) -> list[dict[str, Any]]:
    """The rows of protocols that share part and time."""
    first = asked[0]
    rated = torch.zeros(len(items), dtype=torch.bool, device=retriever.device)
    rated[torch.from_numpy(sequences.item_ids).unique() - 1] = True
    frames: dict[Protocol, list[pd.DataFrame]] = {protocol: [] for protocol in asked}
    index = own_index(retriever.similarity, items)
    for batch in Batches(sequences, first.part, EVALUATION_BATCH, retriever.config.max_length):
        batch = batch.to(retriever.device)
        queries = retriever.query_state(batch if first.request_time else batch.at_last_interaction())
        targets = batch.need("target_ids")
        scores = _scores(retriever, queries, items) if index is None else None
        history = sequences.history(batch.need("user_ids").cpu().numpy(), first.part)
        whole = torch.from_numpy(history).to(retriever.device)
        for protocol in asked:
            excluded = protocol.exclude(lambda _, whole=whole: whole)(batch)  # type: ignore[misc]
            allowed = rated if protocol.corpus == "rated" else None
            if scores is None:
                assert index is not None
                found = found_ranks(index, len(items), queries, targets, excluded, allowed)
            else:
                among = scores.clone() if allowed is None else scores.masked_fill(~allowed, float("-inf"))
                found = ranks_of_scores(among, targets - 1, None if excluded is None else excluded - 1)
            frames[protocol].append(table_of(batch, found))
    rows = []
    for protocol, parts in frames.items():
        values = metrics(effective_ranks(joined(parts)), ks=KS)
        switches = {name: getattr(protocol, name) for name in SWITCHES}
        users = {"users": sum(map(len, parts))}
        rows.append(switches | users | {name: values[name] for name in SHOWN})
    return rows


def _scores(retriever: Retriever, queries: Any, items: ItemState) -> Tensor:
    """The scores of all items, (B, N), computed in tiles."""
    cut = tiling(retriever.similarity.pair_bytes, len(queries), len(items), items.ids.device, whole_rows=True)
    parts = [queries[start : start + cut.queries] for start in range(0, len(queries), cut.queries)]
    return torch.cat([score_block(retriever.similarity, part, items, cut.tile) for part in parts])


def one_switch(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What each setting does alone: from `STRICT`, one switch at a time.

    `table` has the rows of `switchboard` and a column `method`, and may have `training` (see `AS_STRICT`). One row per changed
    setting: `switch`, `value`, and for each method the difference of `metric` to its value under `STRICT`; the first row has
    those values.

    >>> rows = [("a", "all", .5), ("a", "none", .4)]
    >>> made = pd.DataFrame(rows, columns=["method", "history_mask", "MRR"]).assign(
    ...     part="test", request_time=False, corpus="catalogue")
    >>> one_switch(made, "MRR").values.tolist()[1:]
    [['history mask', 'none', -0.1]]
    """
    base = under(table, {}).set_index("method")[metric]
    rows = [{"switch": "strict", "value": "", **base}]
    for switch, values in switches_of(table).items():
        for value in values:
            changed = under(table, {switch: value})
            if value != strict_value(switch) and len(changed):
                difference = (changed.set_index("method")[metric] - base).round(12)
                rows.append({"switch": word(switch), "value": word(value), **difference})
    return pd.DataFrame(rows)


def under(table: pd.DataFrame, changed: dict[str, Any]) -> pd.DataFrame:
    """The rows of `table` under `STRICT` but for the changed settings."""
    for name in switches_of(table):
        table = table[table[name] == changed.get(name, strict_value(name))]
    return table


def switches_of(table: pd.DataFrame) -> dict[str, tuple[Any, ...]]:
    """`SWITCHES`, and the column `training` if the table has one, with its values."""
    if "training" not in table:
        return SWITCHES
    return SWITCHES | {"training": (AS_STRICT, *(v for v in table["training"].unique() if v != AS_STRICT))}


def strict_value(switch: str) -> Any:
    """The value of a switch under `STRICT`."""
    return AS_STRICT if switch == "training" else getattr(STRICT, switch)


def word(setting: Any) -> str:
    """A switch or one of its values as a reader sees it.

    >>> word("request_time"), word(False), word("all")
    ('target time', 'hidden', 'all')
    """
    return _WORDS.get(setting, str(setting))


_WORDS = {
    True: "visible",
    False: "hidden",
    "request_time": "target time",
    "history_mask": "history mask",
    "part": "targets",
}
