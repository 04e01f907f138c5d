"""Candidates from faiss: flat, IVF, HNSW and IVF-PQ indexes of inner products, on a CPU or a GPU.

faiss is optional. If it is not installed, an ImportError names the install command; `candidates.Scan` gives exact lists with
torch alone.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import tensor_files
from workbench.runtime import OPTIONAL, optional
from workbench.search import stages
from workbench.search.candidates import CandidateSource, Lists, SourceBuilder, listed_among
from workbench.search.corpus_manifest import CorpusManifest, only
from workbench.search.indexes import (
    HNSW,
    IVF,
    IVFPQ,
    Flat,
    IndexKind,
    built_with,
    check_size,
)
from workbench.search.topk import NO_SCORE
from workbench.similarities.rounding import products_fit

ROWS_TOGETHER = 100_000
"""Vectors after which a build that is kept writes what it has."""

GPU_LONGEST_LIST = 2048
"""Results that faiss gives per query on a GPU at most."""

SPARE = 32
"""What is fetched beyond a list and a quarter of it, for what is excluded; where that is not enough, more is."""

BITMAP_SPREAD = 64
"""A filter is a bitmap over ids if the largest id is at most this many times the corpus, a hash set otherwise."""


def _faiss() -> ModuleType:
    module = optional("faiss")
    if module is None:
        raise ImportError(
            f"faiss is not installed; install it with: {OPTIONAL['faiss']};"
            " without it, workbench.search.candidates.Scan lists candidates with torch"
        )
    module.omp_set_num_threads(torch.get_num_threads())  # one setting for both, whatever they are compared on
    return module


def _array(vectors: Float[Tensor, "M d"]) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(vectors.detach().float().cpu().numpy())


class FaissLists(CandidateSource):
    """Candidates from an index of faiss with the metric "inner product".

    On a GPU if the vectors are there and faiss and the kind of index can be (flat, IVF, IVF-PQ; not HNSW): then at most
    2,048 candidates per query, with those that are left out. A flat index is exact but for the rounding of float32, which
    `outside_bound` makes up for; of all others it is +inf. A vector that is not finite stays out of the index, and then
    `outside_bound` is +inf too.

    What is excluded is left out of what the index lists. So slightly more is fetched than is requested, and only for the
    queries of whose lists more was excluded a second time, as much more: a long history costs little that is not listed.

    Training and search use as many threads as torch. An HNSW graph built by several threads is not the same twice.
    Raises ImportError without faiss, and ValueError if the kind does not suit the vectors, or their products may overflow and
    cells are to be found by them.
    """

    def __init__(
        self, kind: IndexKind, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]
    ) -> None:
        manifest = CorpusManifest.of(name, ids, vectors)
        check_size(kind, manifest.held, manifest.width)
        if isinstance(kind, IVF | IVFPQ):
            _check_products(manifest)
        of = f"{manifest.fingerprint}, {built_with(kind)}" if stages.keeping() else ""
        begun = stages.kept(f"faiss-{name}", of)
        if begun is None:
            index = _untrained(_faiss(), kind, manifest.width)
            if manifest.held:
                index.train(_array(vectors[manifest.finite]))
        else:
            index = _faiss().deserialize_index(begun.numpy())
        missing = manifest.finite.nonzero()[index.ntotal :, 0]
        for rows in missing.split(ROWS_TOGETHER):
            index.add_with_ids(_array(vectors[rows]), ids[rows].cpu().numpy())
            if stages.keeping():
                stages.keep(f"faiss-{name}", of, torch.from_numpy(_faiss().serialize_index(index)))
        self._hold(kind, manifest, index)

    def _hold(self, kind: IndexKind, manifest: CorpusManifest, index: Any) -> None:
        """Copy the index to the GPU of the items, if there is one; that on the CPU stays the one that changes."""
        faiss = _faiss()
        self.kind, self._manifest, self._index = kind, manifest, index
        on_gpu = (
            manifest.ids.device.type == "cuda" and faiss.get_num_gpus() > 0 and not isinstance(kind, HNSW)
        )
        self._place = manifest.ids.device if on_gpu else torch.device("cpu")
        if isinstance(kind, IVF | IVFPQ):
            index.nprobe = kind.nprobe
        self._searched = index
        if on_gpu:
            self._resources = faiss.StandardGpuResources()
            self._searched = faiss.index_cpu_to_gpu(self._resources, self._place.index or 0, index)

    @property
    def place(self) -> torch.device:
        """Where the index is searched."""
        return self._place

    @property
    def fingerprint(self) -> str:
        """What identifies the items and vectors in the index: it is written next to it, and compared on loading."""
        return self._manifest.fingerprint

    def tune(self, kind: IndexKind) -> None:
        """Search with other parameters from now on (nprobe, ef_search); ValueError if `kind` would need another index."""
        if built_with(kind) != built_with(self.kind):
            raise ValueError(f"the index was built as {self.kind}; {kind} needs another")
        self._hold(kind, self._manifest, self._index)

    def lists(
        self,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
        ordered: bool = True,
    ) -> Lists:
        """See `CandidateSource.lists`; ValueError also if more than 2,048 candidates are requested from a GPU."""
        gpu = self._place.type == "cuda"
        if gpu and min(count, len(self._manifest)) > GPU_LONGEST_LIST:
            raise ValueError(
                f"faiss lists at most {GPU_LONGEST_LIST} items per query on a GPU, not {count};"
                " request fewer, or keep the vectors on the CPU"
            )
        self._manifest.check_width(vectors)
        if exclude is None:
            exclude = torch.empty(len(vectors), 0, dtype=torch.int64, device=vectors.device)
        if allowed is not None and bool(allowed.all()):
            allowed = None
        most = count + exclude.shape[1] + 1
        if gpu:  # which cannot filter while it searches
            most = GPU_LONGEST_LIST if allowed is not None else min(most, GPU_LONGEST_LIST)
        most = min(most, self._manifest.held)
        fetched = most if gpu and allowed is not None else min(most, count + 1 + count // 4 + SPARE)
        asked = torch.arange(len(vectors), device=vectors.device)
        lists: Lists | None = None
        while True:
            found = self._search(vectors[asked], fetched, None if gpu else allowed)
            if gpu and allowed is not None:
                found = only(found, allowed)
            here = self._manifest.lists(
                found, vectors[asked], count, exclude[asked], isinstance(self.kind, Flat)
            )
            lists = here if lists is None else _replaced(lists, asked, here)
            if fetched == most:
                break
            hits = listed_among(found.rows, exclude[asked]).sum(1)
            short = (fetched - hits <= count) & (found.rows[:, -1] >= 0)
            if not bool(short.any()):
                break
            asked, fetched = asked[short], min(most, count + 1 + 2 * int(hits[short].max()))
        return lists._replace(error=None) if isinstance(self.kind, IVFPQ) else lists

    def compared(self, vectors: Float[Tensor, "Q d"]) -> Int[Tensor, "Q"]:
        """How many items each query is compared with by a flat or an IVF index; ValueError for other kinds."""
        if isinstance(self.kind, Flat):
            return torch.full((len(vectors),), self._manifest.held)
        if not isinstance(self.kind, IVF):
            raise ValueError(f"an index of kind {self.kind.name} does not say how many items it compares")
        lists = self._index.invlists
        sizes = torch.tensor([lists.list_size(cell) for cell in range(self.kind.nlist)])
        _, cells = self._index.quantizer.search(_array(vectors), self.kind.nprobe)
        return sizes[torch.from_numpy(cells)].sum(1)

    def _search(
        self, vectors: Float[Tensor, "Q d"], fetched: int, allowed: Bool[Tensor, "N"] | None
    ) -> Lists:
        """What the index gives, −1 and −inf past the end."""
        faiss = _faiss()
        if fetched == 0 or len(vectors) == 0:
            scores = torch.empty(len(vectors), fetched, device=vectors.device)
            nothing = torch.full((len(vectors),), NO_SCORE, device=vectors.device)
            return Lists(scores, scores.long(), nothing)
        selector = None if allowed is None else self._selector(faiss, allowed)
        parameters = None
        if self._searched is self._index:
            match self.kind:
                case Flat():
                    parameters = faiss.SearchParameters(sel=selector)
                case IVF() | IVFPQ():
                    parameters = faiss.SearchParametersIVF(sel=selector, nprobe=self.kind.nprobe)
                case HNSW():
                    # FAISS stops walking after efSearch steps, however long the list.
                    effort = max(self.kind.ef_search, fetched)
                    parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=effort)
        products, keys = self._searched.search(_array(vectors), fetched, params=parameters)
        ids = torch.from_numpy(keys).to(vectors.device)
        rows = self._manifest.rows.of(ids)
        scores = torch.from_numpy(products).to(vectors.device).masked_fill(rows < 0, NO_SCORE)
        # Fewer than were requested: there are no others. As many as there are: none either.
        outside_bound = (
            torch.full_like(scores[:, -1], NO_SCORE) if fetched == self._manifest.held else scores[:, -1]
        )
        return Lists(scores, rows, outside_bound)

    def _selector(self, faiss: ModuleType, allowed: Bool[Tensor, "N"]) -> Any:
        ids = self._manifest.ids[allowed].cpu().numpy()
        largest = int(self._manifest.ids.max())
        if largest > BITMAP_SPREAD * len(self._manifest):
            return faiss.IDSelectorBatch(ids)
        chosen = np.zeros(largest + 1, dtype=bool)
        chosen[ids] = True
        return faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`: an HNSW graph takes new items only. The cells of IVF stay those it was built with."""
        known = self._manifest.rows.of(ids) >= 0
        if isinstance(self.kind, HNSW) and known.any():
            raise NotImplementedError(
                f"item {int(ids[known][0])} is in the HNSW graph, which cannot replace items; rebuild it"
            )
        after, fine = self._manifest.upserted(ids, vectors), vectors.float().isfinite().all(1)
        changed = _faiss().clone_index(self._index)  # this one stays whole whatever happens
        if known.any():
            changed.remove_ids(_faiss().IDSelectorBatch(ids[known].cpu().numpy()))
        if fine.any():
            changed.add_with_ids(_array(vectors[fine]), ids[fine].cpu().numpy())
        self._hold(self.kind, after, changed)

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`; NotImplementedError from an HNSW graph."""
        if isinstance(self.kind, HNSW):
            raise NotImplementedError("an HNSW graph cannot lose items; rebuild it from those that remain")
        after, changed = self._manifest.without(ids), _faiss().clone_index(self._index)
        changed.remove_ids(_faiss().IDSelectorBatch(ids.cpu().numpy()))
        self._hold(self.kind, after, changed)

    def snapshot(self) -> Callable[[], None]:
        """See `CandidateSource.snapshot`."""
        kind, manifest, index = self.kind, self._manifest, self._index
        return lambda: self._hold(kind, manifest, index)

    def save_into(self, folder: Path) -> None:
        """See `candidates.Stored`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / f"{self._manifest.name}.faiss")

    def save(self, path: Path) -> None:
        """Write the index, its kind, the fingerprint of its vectors and a digest of all, whole or not at all.

        Raises OSError that names the file if it cannot be written.
        """
        described = {
            "record": type(self).__name__,
            "built_with": json.dumps(built_with(self.kind)),
            "fingerprint": self.fingerprint,
        }
        index = torch.from_numpy(_faiss().serialize_index(self._index))
        tensor_files.save({"index": index}, path, described)

    @classmethod
    def load(
        cls,
        path: Path,
        kind: IndexKind,
        name: str,
        ids: Int[Tensor, "N"],
        vectors: Float[Tensor, "N d"],
    ) -> "FaissLists":
        """Read an index written by `save` for these items and vectors; `kind` may have other parameters of search.

        Raises FileNotFoundError if there is no file, and ValueError that names the file if it is cut short or
        damaged, is no index, is one of another kind, or was built of other vectors.
        """
        manifest = CorpusManifest.of(name, ids, vectors)
        index = _read(path, kind, manifest.fingerprint)
        if (index.d, index.ntotal) != (manifest.width, manifest.held):
            raise ValueError(
                f"{path} holds {index.ntotal} vectors of width {index.d}: it is damaged; rebuild it"
            )
        lists = cls.__new__(cls)
        lists._hold(kind, manifest, index)
        return lists


def _replaced(whole: Lists, queries: Int[Tensor, "R"], part: Lists) -> Lists:
    """`whole` with the lists of some queries from `part`."""
    fields = (None if old is None or new is None else old.index_copy(0, queries, new)
              for old, new in zip(whole, part, strict=True))  # fmt: skip
    return Lists(*fields)  # type: ignore[arg-type]


def faiss_lists(kind: IndexKind, folder: Path | None = None) -> SourceBuilder:
    """Makes sources of candidates from faiss; with a `folder`, loads `NAME.faiss` from there, or builds and saves it.

    Raises what `FaissLists.load` does if a file is there but not of these vectors: it is never written over.
    """

    def build(name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> CandidateSource:
        if folder is None:
            return FaissLists(kind, name, ids, vectors)
        path = folder / f"{name}.faiss"
        if path.is_file():
            return FaissLists.load(path, kind, name, ids, vectors)
        lists = FaissLists(kind, name, ids, vectors)
        lists.save_into(folder)
        return lists

    return build


def _check_products(manifest: CorpusManifest) -> None:
    """Raise ValueError if products of vectors may overflow: faiss ends the process if its k-means meets that."""
    norm = float(manifest.norm)
    if not products_fit(norm, norm, torch.float32):
        raise ValueError(
            f"{manifest.name} has vectors of length {norm:.3g}: their products overflow in float32, so that there are no cells;"
            " divide them all by a number, or take a flat index"
        )


def _untrained(faiss: ModuleType, kind: IndexKind, width: int) -> Any:
    """An empty index that takes vectors together with their ids."""
    metric = faiss.METRIC_INNER_PRODUCT
    match kind:
        case Flat():
            return faiss.IndexIDMap(faiss.IndexFlatIP(width))
        case HNSW():
            graph = faiss.IndexHNSWFlat(width, kind.m, metric)
            graph.hnsw.efConstruction = kind.ef_construction
            return faiss.IndexIDMap(graph)
        case IVF():
            cells = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, kind.nlist, metric)
        case IVFPQ():
            cells = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, kind.nlist, kind.m, kind.bits, metric)
            cells.pq.cp.seed = kind.seed
            cells.pq.cp.min_points_per_centroid = 1
    cells.cp.seed = kind.seed
    cells.cp.min_points_per_centroid = (
        1  # no words on standard error; `check_size` refuses what cannot be trained
    )
    return cells


def _read(path: Path, kind: IndexKind, expected: str) -> Any:
    """The index in a file, checked to be of `kind` and of vectors with the fingerprint `expected`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no index at {path}")
    advice = "delete it and build it again"
    tensors, described = tensor_files.load(path, advice)
    if described.get("record") != FaissLists.__name__:
        raise ValueError(
            f"{path} holds a {described.get('record', 'file without a record name')}, not an index"
        )
    if lacking := {"built_with", "fingerprint"} - described.keys() or {"index"} - tensors.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(lacking))}; {advice}")
    if json.loads(described["built_with"]) != built_with(kind):
        raise ValueError(f"{path} was built with {described['built_with']}, not as {kind}; name another file")
    if described["fingerprint"] != expected:
        raise ValueError(
            f"{path} was built of other vectors: of another model or corpus, or of these before they were computed"
            " again (keep item states with ItemState.save); delete it or name another file"
        )
    try:
        return _faiss().deserialize_index(tensors["index"].numpy())
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
