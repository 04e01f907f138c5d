"""Candidates from Milvus: a file on this machine (milvus-lite) or a cluster at its address, by the same calls.

pymilvus is optional, and milvus-lite too, which the embedded engine is; an ImportError names the install command. Lists and
changes were measured on milvus-lite alone; of a cluster, that the address and the token arrive is tested.
"""

import json
import logging
import os
import re
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from workbench.loading import one_line
from workbench.runtime import require
from workbench.search import stages
from workbench.search.candidates import CandidateSource, Lists, SourceBuilder
from workbench.search.corpus_manifest import CorpusManifest, only
from workbench.search.indexes import HNSW, IVF, IVFPQ, Flat, IndexKind, built_with, check_size
from workbench.search.topk import NO_SCORE

TOKEN = "WORKBENCH_MILVUS_TOKEN"
"""The environment variable with the token of a cluster: it is stored nowhere."""

LONGEST_LIST = 16_384
"""Results per query that a server gives at most."""

BATCH_BYTES = 8 * 2**20
"""Vectors sent together: a server refuses messages above 64 MB."""

KEPT_AFTER = 100_000
"""Vectors after which a build that is kept notes how far it is."""

HITS_TOGETHER = 500_000
"""Results per request, over all queries: a server refuses answers above 100 MB."""

IDS_TOGETHER = 10_000
"""Items deleted together."""

FILTERED_IDS = 100_000
"""Ids that a filter names at most; a filter that would need more is applied to the results."""

PROBES = 3
"""Vectors of the corpus whose own lists are compared with torch's, before a flat index is taken for exact."""

_users: Counter[str] = Counter()
"""How many objects of this process use each file: the last one lets go of it."""

ITEM, VECTOR = "item_id", "vector"
BUILT_WITH, FINGERPRINT = "workbench.built_with", "workbench.fingerprint"


class Milvus:
    """A Milvus that holds the vectors of a corpus: one collection for each source, named `prefix_NAME`.

    `address` is a file that ends in .db, for the engine that runs in this process, or the `http://host:port` of a cluster,
    with its `token` if it requires one. `kind` is the index of every collection; Milvus has no seed among its parameters.
    `lists` is what a searcher takes as its maker of sources:

        with Milvus(Path("corpus.db")) as milvus:
            searcher = Approximate.of(similarity, items, n1=100, source=milvus.lists)

    A file is open in one process at a time. Raises ImportError without pymilvus or milvus-lite, ValueError for an address of
    neither form, a prefix that is no name, an index that milvus-lite has not, or a file that is damaged or of another kind,
    OSError if it cannot be written, and ConnectionError if another process uses it or nothing answers within `timeout` seconds.
    """

    def __init__(
        self,
        address: str | Path,
        kind: IndexKind | None = None,
        prefix: str = "workbench",
        token: str = "",
        timeout: float = 10.0,
        progress: bool = False,
    ) -> None:
        self.kind: IndexKind = Flat() if kind is None else kind
        self.prefix, self.progress = prefix, progress
        self.embedded = "://" not in str(address)
        self.address = str(Path(address).expanduser().resolve()) if self.embedded else str(address)
        if not re.fullmatch(r"[A-Za-z_]\w{0,99}", prefix, re.ASCII):
            raise ValueError(f"prefix must be letters, digits and _, and begin with no digit, not {prefix!r}")
        self._pymilvus = require("pymilvus")
        if self.embedded:
            require("milvus_lite")
            logging.getLogger("grpc._server").addFilter(_is_implemented)
            if not self.address.endswith(".db"):
                raise ValueError(
                    f"{address} is neither a file that ends in .db nor an address like http://host:19530"
                )
            if isinstance(self.kind, IVFPQ):
                raise ValueError(
                    "milvus-lite has no IVF-PQ index; take IVF or HNSW, or the address of a cluster"
                )
            _prepare_place(Path(self.address))
        with _engine_errors() as errors:
            try:
                self.client: Any = self._pymilvus.MilvusClient(self.address, token=token, timeout=timeout)
            except self._pymilvus.MilvusException as error:
                if self.embedded:
                    raise _not_opened(self.address, errors[-1] if errors else error) from error
                raise ConnectionError(
                    f"no Milvus answers at {address}: {one_line(error.message)}; start a server, or give a file that ends"
                    " in .db to run without one"
                ) from error
        _users[self.address] += 1
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection, and of the file if no other object of this process uses it."""
        if not self._open:
            return
        self._open = False
        self.client.close()
        _users[self.address] -= 1
        if self.embedded and not _users[self.address]:
            require("milvus_lite.server_manager").server_manager_instance.release_server(self.address)

    def collection(self, name: str) -> str:
        """The name of the collection of a source."""
        return f"{self.prefix}_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"

    def drop(self, name: str) -> None:
        """Delete the collection of a source, whatever is in it."""
        self.client.drop_collection(self.collection(name))

    def lists(self, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> CandidateSource:
        """The source `name` of these items: opened if its collection is there, else built and filled.

        Raises ValueError if the collection is damaged, or not of this corpus and index: it is never written over.
        """
        try:
            return MilvusLists(self, name, ids, vectors)
        except (self._pymilvus.MilvusException, LookupError, json.JSONDecodeError) as error:
            raise ValueError(
                f"the collection {self.collection(name)} in {self.address} is damaged, or Milvus failed ({one_line(error)});"
                f" drop it (Milvus.drop({name!r})) and build it again, or take another prefix"
            ) from error


def milvus_lists(folder: Path | None = None, uri: str = "") -> SourceBuilder:
    """Makes sources of candidates from the file `milvus.db` in `folder`, opened or built; in a temporary one if it is None.

    With a `uri` they are on the cluster there, reached with the token in WORKBENCH_MILVUS_TOKEN: in a collection of these very
    vectors, whose name has their fingerprint, so that the same corpus finds it again and a changed one gets another.
    File and connection are let go of with the source.
    """

    def build(name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> CandidateSource:
        place = None if folder or uri else TemporaryDirectory(prefix="workbench-milvus-")
        if uri:
            prefix = f"workbench_{CorpusManifest.of(name, ids, vectors).fingerprint[:16]}"
            milvus = Milvus(uri, prefix=prefix, token=os.environ.get(TOKEN, ""))
        else:
            milvus = Milvus((Path(place.name) if place else folder or Path()) / "milvus.db")

        def let_go() -> None:
            milvus.close()
            if place is not None:
                place.cleanup()

        try:
            lists = milvus.lists(name, ids, vectors)
        except BaseException:
            let_go()
            raise
        weakref.finalize(lists, let_go)
        return lists

    return build


def _prepare_place(path: Path) -> None:
    """Make the folder of the database `path`; ValueError if `path` is a file of another kind, OSError if that fails."""
    if path.is_file():
        with path.open("rb") as file:
            old = file.read(15) == b"SQLite format 3"
        kind = "a database of an earlier milvus-lite" if old else "not a database of milvus-lite"
        raise ValueError(f"{path} is {kind} (today's are folders); give another name, and it is built there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_opened(str(path), error) from error


def _not_opened(address: str, error: Exception) -> Exception:
    """What to raise if milvus-lite does not open a database because of `error`."""
    if type(error).__name__ == "DataDirLockedError":
        return ConnectionError(
            f"{address} is in use by another process; close it there, or give another file"
        )
    if isinstance(error, OSError):
        return OSError(
            f"{address} cannot be written ({error.strerror or one_line(error)}); give a file in a folder of your own"
        )
    return ValueError(
        f"{address} is damaged ({one_line(error)}); restore it, or remove it, and it is built again"
    )


def _is_implemented(record: logging.LogRecord) -> bool:
    """No log of a call that milvus-lite does not have: its client gets a status that says so, and raises if it matters.

    Servers of others log what they did before.
    """
    if not (record.exc_info and isinstance(record.exc_info[1], NotImplementedError)):
        return True
    *_, (frame, _) = traceback.walk_tb(record.exc_info[2])
    return not frame.f_globals.get("__name__", "").startswith(("pymilvus", "milvus_lite"))


@contextmanager
def _engine_errors() -> Iterator[list[Exception]]:
    """What milvus-lite fails on in the block: it logs errors with their tracebacks, and reports them nowhere else."""
    errors: list[Exception] = []

    def note(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], Exception):
            errors.append(record.exc_info[1])
            return False
        return True

    logger = logging.getLogger("milvus_lite.server_manager")
    logger.addFilter(note)
    try:
        yield errors
    finally:
        logger.removeFilter(note)


class MilvusLists(CandidateSource):
    """Candidates from a collection of Milvus with the metric "inner product"; see `Milvus`.

    `outside_bound` is finite only if the index is flat: its scores are those of every vector, in float32, which is checked
    on a few vectors when the collection is opened. At most 16,384 candidates per query, history left out included.

    The collection carries a fingerprint of its items and vectors, empty while it is written to: one that was left half built
    or half changed, or is of other vectors, is refused. A build whose stages are kept (`stages.kept_in`) continues it.
    """

    def __init__(
        self, milvus: Milvus, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]
    ) -> None:
        self.name, self.kind = name, milvus.kind
        self.collection = milvus.collection(name)
        self._client, self._pymilvus = milvus.client, milvus._pymilvus
        self._progress = milvus.progress
        self._manifest, self._settled = CorpusManifest.of(name, ids, vectors), True
        check_size(self.kind, self._manifest.held, self._manifest.width)
        if self._client.has_collection(self.collection) and not (
            stages.keeping() and self._left_half_built()
        ):
            self._check_kin()
        else:
            self._build(ids, vectors)
        self._client.load_collection(self.collection)
        self._check_held()
        if isinstance(self.kind, Flat):
            self._check_scores(vectors)

    def _left_half_built(self) -> bool:
        return not self._client.describe_collection(self.collection).get("properties", {}).get(FINGERPRINT)

    def _build(self, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> None:
        """Fill a new collection, or, if its stages are kept, continue one that an interrupted build left."""
        of = f"{self._manifest.fingerprint}, {built_with(self.kind)}" if stages.keeping() else ""
        reached = stages.kept(f"milvus-{self.collection}", of)
        if reached is None:
            self._client.drop_collection(self.collection)
            self._create()
        rows = self._manifest.finite.nonzero()[0 if reached is None else int(reached) :, 0]
        done = self._manifest.held - len(rows)
        for part in rows.split(KEPT_AFTER):
            self._put(ids[part], vectors[part])
            done += len(part)
            if stages.keeping():  # what is flushed is on the disk
                self._client.flush(self.collection)
                stages.keep(f"milvus-{self.collection}", of, torch.tensor(done))
        self._client.flush(self.collection)
        if not self._client.list_indexes(self.collection):
            self._index()
        self._client.alter_collection_properties(self.collection, {FINGERPRINT: self._manifest.fingerprint})

    def _create(self) -> None:
        types = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ITEM, types.INT64, is_primary=True)
        schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=self._manifest.width)
        self._client.create_collection(
            self.collection,
            schema=schema,
            consistency_level="Strong",  # what was written is found
            properties={BUILT_WITH: json.dumps(built_with(self.kind)), FINGERPRINT: ""},
        )

    def _index(self) -> None:
        match self.kind:
            case Flat():
                name, parameters = "FLAT", {}
            case IVF():
                name, parameters = "IVF_FLAT", {"nlist": self.kind.nlist}
            case HNSW():
                name, parameters = "HNSW", {"M": self.kind.m, "efConstruction": self.kind.ef_construction}
            case IVFPQ():
                name = "IVF_PQ"
                parameters = {"nlist": self.kind.nlist, "m": self.kind.m, "nbits": self.kind.bits}
        index = self._client.prepare_index_params()
        # Under a key "params" of their own, which clusters accept too: milvus-lite ignores those next to the metric.
        index.add_index(VECTOR, index_type=name, metric_type="IP", params={"params": parameters})
        self._client.create_index(self.collection, index)

    def _check_kin(self) -> None:
        """Raise ValueError if the collection that is there is not the one to build."""
        described = self._client.describe_collection(self.collection)
        found = described.get("properties", {})
        widths = [f["params"]["dim"] for f in described["fields"] if "dim" in f["params"]]
        advice = f"drop it (Milvus.drop({self.name!r})) or take another prefix"
        if BUILT_WITH not in found:
            raise ValueError(f"the collection {self.collection} was not made here; take another prefix")
        if [int(width) for width in widths] != [self._manifest.width]:
            raise ValueError(
                f"the collection {self.collection} holds vectors of width {widths[0]}, not {self._manifest.width}:"
                f" another model's; {advice}"
            )
        if not found.get(FINGERPRINT):
            raise ValueError(
                f"the collection {self.collection} was left half built or half changed; {advice}"
            )
        if json.loads(found[BUILT_WITH]) != built_with(self.kind):
            raise ValueError(
                f"the collection {self.collection} was built with {found[BUILT_WITH]}, not as {self.kind}; {advice}"
            )
        if found[FINGERPRINT] != self._manifest.fingerprint:
            raise ValueError(
                f"the collection {self.collection} is of other vectors: of another model or corpus, or of these before"
                f" they were computed again (keep item states with ItemState.save); {advice}"
            )

    def _check_held(self) -> None:
        held = self._client.query(self.collection, filter="", output_fields=["count(*)"])[0]["count(*)"]
        if held != self._manifest.held:
            raise ValueError(
                f"the collection {self.collection} holds {held} vectors, not {self._manifest.held}: it was changed elsewhere;"
                f" drop it (Milvus.drop({self.name!r})) and rebuild it"
            )

    def _check_scores(self, vectors: Float[Tensor, "N d"]) -> None:
        """Raise ValueError if the engine's best scores are not those of the vectors: nothing could be proved by them."""
        own = vectors[self._manifest.finite].detach().float()
        probes = own[:: max(1, -(-len(own) // PROBES))]
        count = min(len(own), LONGEST_LIST)
        if count == 0:
            return
        expected = (probes @ own.T).topk(count, dim=1).values
        answered = self._search(probes, count, None).scores
        error = 2 * self._manifest.rounding(probes)[:, None]
        if bool(((answered - expected).abs() > error).any()):
            raise ValueError(
                f"the collection {self.collection} answers with other inner products than its vectors have:"
                " it was changed elsewhere, or its engine computes in lower precision"
            )

    def lists(
        self,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
        ordered: bool = True,
    ) -> Lists:
        """See `CandidateSource.lists`; ValueError too if more than 16,384 candidates are requested.

        Raises RuntimeError if a change of the collection failed half way.
        """
        self._check_settled()
        if min(count, len(self._manifest)) > LONGEST_LIST:
            raise ValueError(
                f"Milvus lists at most {LONGEST_LIST} items per query, not {count}; request fewer"
            )
        self._manifest.check_width(vectors)
        if exclude is None:
            exclude = torch.empty(len(vectors), 0, dtype=torch.int64, device=vectors.device)
        if allowed is not None and bool(allowed.all()):
            allowed = None
        filtered = allowed is None or min(int(allowed.sum()), int((~allowed).sum())) <= FILTERED_IDS
        fetched = count + exclude.shape[1] + 1 if filtered else LONGEST_LIST
        fetched = min(fetched, LONGEST_LIST, self._manifest.held)
        found = self._search(vectors, fetched, allowed if filtered else None)
        if allowed is not None and not filtered:
            found = only(found, allowed)
        lists = self._manifest.lists(found, vectors, count, exclude, isinstance(self.kind, Flat))
        return lists._replace(error=None) if isinstance(self.kind, IVFPQ) else lists

    def _search(
        self, vectors: Float[Tensor, "Q d"], fetched: int, allowed: Bool[Tensor, "N"] | None
    ) -> Lists:
        """What the engine gives, −1 and −inf past the end."""
        scores = torch.full((len(vectors), fetched), NO_SCORE)
        ids = torch.zeros((len(vectors), fetched), dtype=torch.int64)
        together = max(1, min(LONGEST_LIST, HITS_TOGETHER // max(1, fetched)))
        asked = vectors.detach().float().cpu()
        for start in range(0, len(vectors) if fetched else 0, together):
            answers = self._client.search(
                self.collection,
                data=list(asked[start : start + together].numpy()),
                anns_field=VECTOR,
                limit=fetched,
                filter=self._filter(allowed),
                output_fields=[ITEM],  # milvus-lite sends the vectors too if nothing is named
                search_params={"metric_type": "IP", "params": self._effort(fetched)},
            )
            for row, hits in enumerate(answers, start):
                scores[row, : len(hits)] = torch.tensor(hits.distances)
                ids[row, : len(hits)] = torch.tensor(hits.ids, dtype=torch.int64)
        rows = self._manifest.rows.of(ids.to(vectors.device))
        scores = scores.to(vectors.device).masked_fill(rows < 0, NO_SCORE)
        nothing = torch.full((len(vectors),), NO_SCORE, device=vectors.device)
        outside_bound = nothing if fetched in (0, self._manifest.held) else scores[:, -1]
        return Lists(scores, rows, outside_bound)

    def _effort(self, fetched: int) -> dict[str, int]:
        match self.kind:
            case IVF() | IVFPQ():
                return {"nprobe": self.kind.nprobe}
            case HNSW():  # Milvus refuses an ef below the length of the list
                return {"ef": max(self.kind.ef_search, fetched)}
            case Flat():
                return {}

    def _filter(self, allowed: Bool[Tensor, "N"] | None) -> str:
        """The items that may be found, by whichever is shorter: those that may, or those that may not."""
        if allowed is None:
            return ""
        word, named = ("in", allowed) if int(allowed.sum()) * 2 <= len(allowed) else ("not in", ~allowed)
        return f"{ITEM} {word} {self._manifest.ids[named].tolist()}"

    def _put(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """Send vectors that are finite, in batches."""
        finite = vectors.float().isfinite().all(1)
        keys, array = ids[finite].tolist(), vectors[finite].detach().float().cpu().numpy()
        batch = max(1, BATCH_BYTES // (4 * self._manifest.width))
        with tqdm(
            total=len(keys), desc=self.collection, unit="items", disable=None if self._progress else True
        ) as bar:
            for start in range(0, len(keys), batch):
                rows = [
                    {ITEM: key, VECTOR: vector}
                    for key, vector in zip(
                        keys[start : start + batch], array[start : start + batch], strict=True
                    )
                ]
                self._client.upsert(self.collection, rows)
                bar.update(len(rows))

    def _delete(self, ids: Int[Tensor, "M"]) -> None:
        for part in _parts(ids.tolist(), IDS_TOGETHER):
            self._client.delete(self.collection, ids=part)

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`."""
        after = self._manifest.upserted(ids, vectors)
        lost = ~vectors.float().isfinite().all(1)
        self._unsettle()
        self._delete(ids[lost])
        self._put(ids, vectors)
        self._settle(after)

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`."""
        after = self._manifest.without(ids)
        self._unsettle()
        self._delete(ids)
        self._settle(after)

    def snapshot(self) -> Callable[[], None]:
        """See `CandidateSource.snapshot`: the engine keeps no earlier vectors, so a change cannot be undone."""
        before = self._manifest

        def restore() -> None:
            if self._manifest is not before:
                self._unsettle()
            self._check_settled()

        return restore

    def _unsettle(self) -> None:
        """From here to `_settle` the collection is of no corpus, here and for all who open it."""
        self._settled = False
        self._client.alter_collection_properties(self.collection, {FINGERPRINT: ""})

    def _settle(self, after: CorpusManifest) -> None:
        self._client.alter_collection_properties(self.collection, {FINGERPRINT: after.fingerprint})
        self._manifest, self._settled = after, True

    def _check_settled(self) -> None:
        if not self._settled:
            raise RuntimeError(
                f"the collection {self.collection} was left half changed: drop it (`Milvus.drop`) and build it again"
            )


def _parts(values: list[int], length: int) -> Iterator[list[int]]:
    for start in range(0, len(values), length):
        yield values[start : start + length]
