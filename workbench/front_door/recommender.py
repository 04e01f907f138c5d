"""A trained model with the user's own ids: recommend, explain, index, evaluate."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from workbench import files
from workbench.anatomy import component_names, dissect_pairs
from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Searcher, SequenceBatch, TopK
from workbench.data import CATALOG, DataError, Sequences
from workbench.data import load as load_prepared
from workbench.evaluation.protocol import STRICT, summarize
from workbench.evaluation.retrievers import check_same_items, own_index, rank_users
from workbench.front_door import user_base
from workbench.front_door.index import Index
from workbench.front_door.user_base import On, Request
from workbench.models import training_data
from workbench.models.catalogue import ITEMS, Catalogue
from workbench.models.model_store import folder_of
from workbench.models.query_table import QueryTable, as_vectors
from workbench.registry import Settings
from workbench.retriever import OWN_KEYS, Retriever, read_metadata
from workbench.search import BruteForce, registry
from workbench.similarities import MixtureOfLogits

ADDED = "added_items"
"""The key of a model's metadata with the ids and titles of items that its data does not have."""

EXPLAINED = 20
"""The number of latest items of a history whose effect an explanation shows."""


@dataclass(frozen=True)
class Explanation:
    """Why an item has its score.

    `rank` is its place (from 1) among all items outside the history. `components`, for similarities of component scores:
    `component`, `score`, and for a Mixture-of-Logits the gate's `weight` and their `product`, which sum to the score.
    `history`: the latest items (`item_id`, `title`) with the `effect` of each: by how much the score falls without it. A
    history of one item has no row.
    """

    item_id: object
    title: str
    score: float
    rank: int
    history: pd.DataFrame
    components: pd.DataFrame | None = None


@dataclass(frozen=True, eq=False)
class Recommender:
    """A `retriever` with the `catalogue` of its items and, if it is at hand, the `data` with its users' histories.

    `queries`: embeddings of users or queries, from which the model recommends instead of from histories.
    Raises ValueError if the retriever and the catalogue differ in their number of items, or `queries` have another width.
    """

    name: str
    retriever: Retriever
    catalogue: Catalogue
    data: Sequences | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    queries: QueryTable | None = None

    def __post_init__(self) -> None:
        if self.retriever.num_items != len(self.catalogue):
            raise ValueError(
                f"{self.name} has {self.retriever.num_items:,} items and {self.catalogue.name} {len(self.catalogue):,}:"
                " it was trained on other data"
            )
        if self.queries is not None:
            self._check_width(self.queries.vectors)
        self.retriever.eval()

    def __repr__(self) -> str:
        encoder, similarity = self.retriever.config.encoder.kind, self.retriever.config.similarity.kind
        return f"Recommender({self.name!r}: {encoder} + {similarity}, {len(self.catalogue):,} items)"

    @classmethod
    def load(cls, model: str | Path, data: Sequences | None = None, device: str = "cpu") -> "Recommender":
        """A saved model, by its folder or its name in `ckpts/`.

        Its ids come from `data`, else from its folder (a model of your own data), else from the prepared dataset that it was
        trained on, or a copy of it with the same items and users. Raises FileNotFoundError if there is no such model, or its
        ids are nowhere; ValueError if it is damaged, or `data` has other items or users.
        """
        folder = folder_of(model)
        metadata = read_metadata(folder)
        dataset = metadata.get("dataset")
        if data is not None and not training_data.have_same_ids(metadata, data):
            fingerprint = metadata.get("fingerprint")
            raise ValueError(f"{folder} was trained on {dataset} ({fingerprint}), not on this {data.name}")
        if data is None and dataset is not None:
            data = _prepared(str(dataset), metadata)
        if data is None and not (folder / ITEMS).is_file():
            raise FileNotFoundError(
                f"{folder} has no item ids, and its dataset {dataset} is not prepared here as it was trained on: run"
                f" `workbench data prepare {dataset}`, or give the data (wb.load(…, data=…))"
            )
        if data is None:
            catalogue = Catalogue.load(folder, str(dataset or folder.name))
        else:
            catalogue = Catalogue.of(data).extended(pd.DataFrame(metadata.get(ADDED, {})))
        queries = QueryTable.load(folder, catalogue.name)
        return cls(folder.name, Retriever.load(folder, device), catalogue, data, metadata, queries)

    def save(self, folder: Path | str) -> None:
        """Write the model into `folder`, with its ids unless the licence of its data forbids it."""
        described = {k: v for k, v in self.metadata.items() if k not in OWN_KEYS}
        self.retriever.save(Path(folder), **described)
        if self.data is None or self.catalogue.name not in CATALOG:
            self.catalogue.save(Path(folder))
        if self.queries is not None:
            self.queries.save(Path(folder))

    def fingerprint(self) -> str:
        """A digest of the configuration and the weights."""
        digest = hashlib.sha256(json.dumps(self.retriever.config.to_dict(), sort_keys=True).encode())
        for name, value in self.retriever.state_dict().items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.cpu().numpy()).data)
        return digest.hexdigest()[:16]

    @cached_property
    def item_state(self) -> ItemState:
        """The item side of all N items, computed once."""
        with torch.no_grad():
            return self.retriever.item_state()

    @cached_property
    def _searcher(self) -> Searcher:
        similarity = self.retriever.similarity
        return own_index(similarity, self.item_state) or BruteForce(similarity, self.item_state)

    def recommend(
        self,
        history: Iterable[object] | None = None,
        user: object = None,
        k: int = 10,
        *,
        timestamps: Sequence[int] | None = None,
        exclude_history: bool = True,
    ) -> pd.DataFrame:
        """The best `k` items now, after the whole history: `rank` (from 1), `item_id`, `title`, `score`, `exact`.

        `history`: item ids of the source, oldest first; without it the data's history of `user` (an id of the source), or, if
        the model has a table of queries, the embedding of the query `user`, which has no history to exclude.
        `timestamps`: seconds since 1970, one per item of `history`, for encoders that read them; without them all count as
        simultaneous. The request is made right after the last interaction. `exact`: whether the list is proved to be the best.
        Raises ValueError if there is neither a history nor a known user, no item of the history is known, or the model
        needs something that is not given. Unknown items are left out, with a warning that counts them.

        >>> import workbench as wb
        >>> model = wb.from_embeddings([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], ids=["a", "b", "c"])
        >>> model.recommend(["a"], k=2)["item_id"].tolist()
        ['b', 'c']
        """
        if history is None and self.queries is not None and user is not None:
            row = self.queries.lookup.to_dense([user])
            return self.catalogue.table(self._best(self.embedded(self.queries.vectors[row]), k, None))
        dense, times, known = self._request(history, user, timestamps)
        batch = self.batch([dense], None if times is None else [times], None if known is None else [known])
        exclude = self.exclusion([dense]) if exclude_history else None
        return self.catalogue.table(self._best(self.query_state(batch), k, exclude))

    def recommend_all(
        self,
        users: Iterable[object] | None = None,
        k: int = 10,
        path: Path | str = "recommendations.parquet",
        *,
        batch_size: int = 256,
        exclude_history: bool = True,
        partitions: int | None = None,
        on: On = "here",
        progress: bool = True,
    ) -> Path:
        """Write the best `k` items of `users` (ids of the source; default: all of the data, or all queries) to a file.

        A CSV file if `path` ends in .csv, else Parquet, with a row per user and place: `user_id`, `rank`, `item_id`, `title`,
        `score`, `exact`. The corpus is searched in `partitions`, here one after the other (default: 1), or all at once by the
        workers of Ray (default: one per core); the lists are the same. Memory holds a few batches at a time; nothing is at
        `path` until all is written. Raises ValueError if there are no users, one is unknown, or there is a file at `path`
        already, OSError if it cannot be written, and what `user_base.partitions` raises.
        """
        known = (
            self.queries.lookup if self.queries is not None else self._need_data("recommend_all").user_lookup
        )
        target = Path(path)
        files.check_file(target)
        if target.exists():
            raise ValueError(f"{target} exists: name another file, or delete it")
        dense = np.arange(len(known.ids)) if users is None else known.to_dense(users)
        if not len(dense):
            raise ValueError("there are no users to recommend to")
        parts = [dense[start : start + batch_size] for start in range(0, len(dense), batch_size)]
        requests = (self._request_of_users(part, exclude_history) for part in parts)
        with (
            files.atomic_write(target) as temporary,
            user_base.partitions(self.retriever, self.item_state, partitions, on) as cut,
            ExitStack() as closing,
        ):
            writer: pyarrow.parquet.ParquetWriter | pyarrow.csv.CSVWriter | None = None
            make = pyarrow.csv.CSVWriter if target.suffix == ".csv" else pyarrow.parquet.ParquetWriter
            found = tqdm(
                user_base.answers(cut, requests, k),
                "recommending",
                len(parts),
                unit="batch",
                disable=None if progress else True,
            )
            for part, lists in zip(parts, found, strict=True):
                rows = self.catalogue.tables(lists)
                rows.insert(0, "user_id", pd.Series(known.to_source(part))[rows.pop("query")].to_numpy())
                table = pa.Table.from_pandas(rows, preserve_index=False)
                writer = writer or closing.enter_context(make(temporary, table.schema))
                writer.write_table(table)
        return target

    def _request_of_users(self, users: NDArray[np.int64], exclude_history: bool) -> Request:
        """What is searched for some rows of the query table, or for some users of the data, by dense id."""
        if self.queries is not None:
            return Request(None, self.queries.vectors[users].to(self.retriever.device), None)
        data = self._need_data("recommend_all")
        histories, times = zip(*(_of_user(data, int(user)) for user in users), strict=True)
        batch = self.batch(histories, times, users.tolist())
        return Request(batch, None, self.exclusion(histories) if exclude_history else None)

    def similar_items(self, item: object, k: int = 10) -> pd.DataFrame:
        """The `k` items whose embeddings have the largest cosine with that of `item`: `rank`, `item_id`, `title`, `score`.

        Raises ValueError if the item is unknown, with similar ids.

        >>> import workbench as wb
        >>> model = wb.from_embeddings([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], ids=["a", "b", "c"])
        >>> model.similar_items("c", k=1)["item_id"].tolist()
        ['b']
        """
        row = int(self.catalogue.lookup.to_dense([item])[0]) - 1
        if not 1 <= k < len(self.catalogue):
            raise ValueError(f"k must lie in 1..{len(self.catalogue) - 1}, not {k}")
        vectors = torch.nn.functional.normalize(self.retriever.item_table.weight.detach()[1:], dim=-1)
        cosines = vectors @ vectors[row]
        cosines[row] = -torch.inf
        order = torch.sort(cosines, descending=True, stable=True).indices[:k].cpu().numpy()
        shown = self.catalogue.items[["item_id", "title"]].iloc[order].reset_index(drop=True)
        shown.insert(0, "rank", np.arange(1, k + 1))
        return shown.assign(score=cosines.cpu().numpy()[order])

    def explain(
        self,
        item: object,
        history: Iterable[object] | None = None,
        user: object = None,
        *,
        timestamps: Sequence[int] | None = None,
    ) -> Explanation:
        """Why `item` has its score after a history: its components and gate, and what each item of the history adds.

        Arguments and errors are those of `recommend`; ValueError too if the item is unknown.
        """
        row = int(self.catalogue.lookup.to_dense([item])[0]) - 1
        dense, times, known = self._request(history, user, timestamps)
        similarity, items = self.retriever.similarity, self.item_state
        places = np.arange(len(dense))
        latest = places[-EXPLAINED:] if len(dense) > 1 else places[:0]
        kept = [
            places,
            *(np.delete(places, place) for place in latest),
        ]  # the history, and it without each item
        queries = self.query_state(
            self.batch(
                [dense[rows] for rows in kept],
                None if times is None else [times[rows] for rows in kept],
                None if known is None else [known] * len(kept),
            )
        )
        with torch.no_grad():
            scores = similarity.score(queries[:1], items)[0]
            without = similarity.score(queries[1:], items[row : row + 1])[:, 0] if len(latest) else scores[:0]
        unseen = torch.ones_like(scores, dtype=torch.bool)
        unseen[torch.from_numpy(dense - 1).to(scores.device)] = False
        table = self.catalogue.items[["item_id", "title"]].iloc[dense[latest] - 1].reset_index(drop=True)
        chosen = self.catalogue.items.iloc[row]
        return Explanation(
            chosen["item_id"],
            str(chosen["title"]),
            float(scores[row]),
            1 + int((scores[unseen] > scores[row]).sum()),
            table.assign(effect=(scores[row] - without).cpu().numpy()),
            self._components(queries[:1], items[row : row + 1]),
        )

    def _components(self, queries: QueryState, item: ItemState) -> pd.DataFrame | None:
        similarity = self.retriever.similarity
        if not isinstance(similarity, ComponentSimilarity):
            return None
        if isinstance(similarity, MixtureOfLogits):
            parts = dissect_pairs(similarity, queries, item)
            values = (parts.logits[0], parts.weights[0], parts.products[0])
            score, weight, product = (v.float().cpu().numpy() for v in values)
            columns = {"component": component_names(similarity), "score": score, "weight": weight}
            return pd.DataFrame(columns | {"product": product})
        with torch.no_grad():
            scores = similarity.component_logits(queries, item)[0, 0].float().cpu().numpy()
        return pd.DataFrame({"component": np.arange(1, len(scores) + 1), "score": scores})

    def index(self, searcher: str | Settings | None = None, **parameters: int | float | str) -> Index:
        """An index of all items: `searcher` by name with its `parameters`, or its settings; default: the best with a proof.

        `registry.SEARCHERS` lists the names. Raises ValueError if there is no such searcher or parameter, or it does not suit
        the similarity; ImportError if it needs a package that is not installed.
        """
        settings = self.searcher_settings(searcher, **parameters)
        built = registry.build(settings, self.retriever.similarity, self.item_state)
        return Index(self, settings, built, self.item_state)

    def extended(
        self, ids: Sequence[object], embeddings: Any, titles: Sequence[str] | None = None
    ) -> "Recommender":
        """The model with further items, or other embeddings of known ones; `embeddings` (M, D), `titles` by default the ids.

        Raises ValueError if an id repeats or is of another type than the model's, the embeddings do not fit, or the model
        learned something of every item besides its embedding.
        """
        vectors = as_vectors(embeddings, "item embeddings")
        given = list(ids)
        if len(given) != len(vectors) or (titles is not None and len(titles) != len(vectors)):
            raise ValueError(
                f"{len(vectors):,} embeddings and {len(given):,} ids: give one id, and one title, for each"
            )
        if vectors.shape[1] != (width := self.retriever.config.dim):
            raise ValueError(
                f"item embeddings have {vectors.shape[1]} numbers each, the model's have {width}"
            )
        if len({str(item) for item in given}) != len(given):
            raise ValueError("the items to add repeat an id; give each once")
        known = self.catalogue.lookup.find(given)
        table = pd.DataFrame({"item_id": given, "title": [str(t) for t in titles or given]})[known < 1]
        catalogue = self.catalogue.extended(table)
        dense = torch.from_numpy(catalogue.lookup.to_dense(given))
        weights = dict(self.retriever.state_dict())
        old = weights["item_table.weight"]
        grown = torch.cat([old, old.new_zeros(len(catalogue) + 1 - len(old), width)])
        grown[dense] = vectors.to(grown)
        weights["item_table.weight"] = grown
        try:
            larger = Retriever.of_weights(self.retriever.config, len(catalogue), weights, self.name)
        except ValueError as error:
            kind = self.retriever.config.similarity.kind
            raise ValueError(
                f"{self.name} cannot take new items: its {kind} has learned something of each ({error}); train it again"
            ) from None
        before = pd.DataFrame(self.metadata.get(ADDED, {}))
        added = pd.concat([before, catalogue.items.iloc[len(self.catalogue) :][["item_id", "title"]]])
        described = self.metadata | {ADDED: {name: added[name].tolist() for name in ("item_id", "title")}}
        return replace(
            self, retriever=larger.to(self.retriever.device), catalogue=catalogue, metadata=described
        )

    def searcher_settings(
        self, searcher: str | Settings | None = None, **parameters: int | float | str
    ) -> Settings:
        """The settings that `index` with the same arguments builds with. Raises ValueError if there is no such searcher."""
        if searcher is None:
            searcher = registry.default(self.retriever.similarity)
        if isinstance(searcher, str):
            settings: Settings = registry.SEARCHERS.from_dict({"kind": searcher, **parameters})
            return settings
        if parameters:
            raise ValueError("parameters go with a searcher's name; settings have their own")
        return searcher

    def evaluate(
        self, data: Sequences | None = None, part: Literal["validation", "test"] = "test"
    ) -> pd.DataFrame:
        """HR@k, NDCG@k and MRR of the held-out items over the whole corpus (the strict protocol): `metric`, `value`, `low`,
        `high` (95 % bootstrap interval), `users`.

        `data` is by default what the model was trained on. Raises ValueError if there is none, or it has other items.
        """
        sequences = self._need_data("evaluate") if data is None else data
        if data is None and not training_data.have_same_order(self.metadata, sequences):
            raise ValueError(
                f"{self.name} was trained on another {sequences.name}, in which users have their items in another order: it"
                " may have seen targets. Give the data (evaluate(data)) to measure it all the same"
            )
        check_same_items(self.retriever, sequences)
        rules = replace(STRICT, part=part).on(sequences)
        return summarize(rank_users(self.retriever, sequences, rules), rules)

    def batch(
        self,
        histories: Sequence[NDArray[np.int64]],
        timestamps: Sequence[NDArray[np.int64]] | None = None,
        users: Sequence[int] | None = None,
    ) -> SequenceBatch:
        """A batch (B, L) of dense histories, each queried right after its last interaction, on the model's device."""
        made = SequenceBatch.of_histories(
            [h.tolist() for h in histories],
            self.retriever.config.max_length,
            timestamps=None if timestamps is None else [t.tolist() for t in timestamps],
            user_ids=users,
        )
        if timestamps is not None:
            made = made.at_last_interaction()
        return made.to(self.retriever.device)

    def query_state(self, batch: SequenceBatch) -> QueryState:
        """The query side of a batch."""
        with torch.no_grad():
            return self.retriever.query_state(batch)

    def embedded(self, vectors: Tensor) -> QueryState:
        """The query side of query embeddings (B, D); ValueError if they are of another width than the items'."""
        self._check_width(vectors)
        with torch.no_grad():
            return self.retriever.similarity.queries(vectors.to(self.retriever.device))

    def _check_width(self, vectors: Tensor) -> None:
        if vectors.shape[1] != (width := self.retriever.config.dim):
            raise ValueError(
                f"query embeddings have {vectors.shape[1]} numbers each, the items' have {width}"
            )

    def exclusion(self, histories: Sequence[NDArray[np.int64]]) -> Tensor:
        """Dense ids (B, H) of whole histories, padded with 0."""
        rows = [torch.from_numpy(history) for history in histories]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.retriever.device)

    def _best(self, queries: QueryState, k: int, exclude: Tensor | None) -> TopK:
        with torch.no_grad():
            return self._searcher.search(queries, k, exclude)

    def _need_data(self, purpose: str) -> Sequences:
        if self.data is None and self.queries is not None:
            raise ValueError(f"{purpose} needs a history: this model has the embeddings of its queries alone")
        if self.data is None:
            raise ValueError(
                f"{purpose} needs the histories of {self.catalogue.name}, which are not here: prepare that dataset, or load"
                " the model with them (wb.load(…, data=…))"
            )
        return self.data

    def _request(
        self, history: Iterable[object] | None, user: object, timestamps: Sequence[int] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, int | None]:
        """Dense history, its times, and the dense user; the last two are None if they are unknown."""
        known = None
        if user is not None and self.data is not None:
            found = int(self.data.user_lookup.find([user])[0])
            known = found if found >= 0 else None
        if history is not None:
            dense, times = self.catalogue.histories([history], None if timestamps is None else [timestamps])
            return dense[0], None if times is None else times[0], known
        if user is None:
            raise ValueError("give a history (item ids, oldest first) or a user of the data")
        data = self._need_data(f"user {user!r}")
        if known is None:
            try:
                data.user_lookup.to_dense([user])
            except DataError as error:
                raise ValueError(f"{error}; give a history for a user who is not in the data") from None
        assert known is not None
        dense_history, times_of_user = _of_user(data, known)
        return dense_history, times_of_user, known


def _of_user(data: Sequences, user: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    own = slice(data.offsets[user], data.offsets[user + 1])
    return data.item_ids[own], data.timestamps[own]


def _prepared(dataset: str, metadata: Mapping[str, Any]) -> Sequences | None:
    """The prepared dataset of that name if it is here and has the items and users of the model."""
    try:
        data = load_prepared(dataset)
    except (FileNotFoundError, DataError):
        return None
    return data if training_data.have_same_ids(metadata, data) else None
