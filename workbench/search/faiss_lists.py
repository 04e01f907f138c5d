"""Candidates from faiss: flat, IVF, HNSW and IVF-PQ indexes of inner products, on a CPU or a GPU.

faiss is optional. Where it is not installed an ImportError says how to install it; `candidates.Scan` gives exact lists with
torch alone.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM
from workbench.runtime import OPTIONAL, optional
from workbench.search.candidates import CandidateSource, Lists, SourceBuilder, leave_out, product_error
from workbench.search.indexes import (
    HNSW,
    IVF,
    IVFPQ,
    Flat,
    IndexKind,
    built_with,
    check_size,
    digests,
    fingerprint,
)
from workbench.search.topk import NO_SCORE, CorpusRows

GPU_LONGEST_LIST = 2048
"""Results that faiss gives per query on a GPU at most."""

BITMAP_SPREAD = 64
"""A filter is a bitmap over ids where the largest id is at most this many times the corpus, a hash set otherwise."""

UNKNOWN = float("inf")


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

    On a GPU where the vectors are there and faiss and the kind of index can be (flat, IVF, IVF-PQ; not HNSW): then at most
    2,048 candidates per query, history left out included. A flat index is exact but for the rounding of float32, which
    `beyond` makes up for; of all others `beyond` is +inf. A vector that is not finite is kept beside the index,
    which would pass over it, and is a candidate of every query.

    Training and search use as many threads as torch. An HNSW graph built by several threads is not the same twice.
    Raises ImportError without faiss, and ValueError where the kind does not suit the vectors.
    """

    def __init__(
        self, kind: IndexKind, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]
    ) -> None:
        self._take(kind, name, ids, vectors)
        faiss = _faiss()
        array = _array(vectors[self._finite])
        check_size(kind, len(array), array.shape[1])
        self._index = _untrained(faiss, kind, array.shape[1])
        if len(array):
            self._index.train(array)
            self._index.add_with_ids(array, ids[self._finite].cpu().numpy())
        self._place()

    def _take(self, kind: IndexKind, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> None:
        """Keep what is needed of the corpus beside the index."""
        self.kind, self.name = kind, name
        self._width, self._device = vectors.shape[1], vectors.device
        self._rows = CorpusRows(ids)
        self._ids = ids
        self._digests = digests(vectors)
        self._finite = vectors.float().isfinite().all(1)
        self._apart = vectors[~self._finite].detach()
        self._norm = _largest_norm(vectors[self._finite])

    @property
    def place(self) -> torch.device:
        """Where the index is searched."""
        return self._place_of_index

    @property
    def fingerprint(self) -> str:
        """What identifies the items and vectors in the index: it is written beside it, and compared on loading."""
        return fingerprint(self._ids, self._digests, self._width)

    def _place(self) -> None:
        """Copy the index to the GPU of the vectors, where there is one; the index on the CPU stays the one that changes."""
        faiss = _faiss()
        on_gpu = self._device.type == "cuda" and faiss.get_num_gpus() > 0 and not isinstance(self.kind, HNSW)
        self._place_of_index = self._device if on_gpu else torch.device("cpu")
        if isinstance(self.kind, IVF | IVFPQ):
            self._index.nprobe = self.kind.nprobe
        self._searched = self._index
        if on_gpu:
            self._resources = faiss.StandardGpuResources()
            self._searched = faiss.index_cpu_to_gpu(self._resources, self._device.index or 0, self._index)

    def tune(self, kind: IndexKind) -> None:
        """Search with other parameters from now on (nprobe, ef_search); ValueError where `kind` would need another index."""
        if built_with(kind) != built_with(self.kind):
            raise ValueError(f"the index was built as {self.kind}; {kind} needs another")
        self.kind = kind
        self._place()

    def lists(
        self,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> Lists:
        """See `CandidateSource.lists`; ValueError too where a GPU is asked for more than 2,048 candidates."""
        gpu = self._place_of_index.type == "cuda"
        if gpu and count > min(GPU_LONGEST_LIST, len(self._ids)):
            raise ValueError(
                f"faiss lists at most {GPU_LONGEST_LIST} items per query on a GPU, not {count};"
                " ask for fewer, or keep the vectors on the CPU"
            )
        if vectors.shape[1] != self._width:
            raise ValueError(f"{self.name} holds vectors of width {self._width}, not {vectors.shape[1]}")
        if exclude is None:
            exclude = torch.empty(len(vectors), 0, dtype=torch.int64, device=vectors.device)
        if allowed is not None and bool(allowed.all()):
            allowed = None
        fetched = count + exclude.shape[1] + 1
        if gpu:  # which cannot leave items out while it searches
            fetched = GPU_LONGEST_LIST if allowed is not None else min(fetched, GPU_LONGEST_LIST)
        found = self._search(vectors, min(fetched, self._index.ntotal), None if gpu else allowed)
        if gpu and allowed is not None:
            listed = found.rows >= 0
            listed &= allowed[found.rows]
            found = found._replace(
                scores=found.scores.where(listed, NO_SCORE), rows=found.rows.where(listed, NO_ITEM)
            )
        found = leave_out(found, exclude, count)
        found = self._with_apart(found, vectors, exclude, allowed, count)
        short = min(count, len(self._ids)) - found.rows.shape[1]
        if short > 0:
            found = found._replace(
                scores=torch.nn.functional.pad(found.scores, (0, short), value=NO_SCORE),
                rows=torch.nn.functional.pad(found.rows, (0, short), value=NO_ITEM),
            )
        return found._replace(beyond=self._with_rounding(found.beyond, vectors))

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
                    parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=self.kind.ef_search)
        products, keys = self._searched.search(_array(vectors), fetched, params=parameters)
        ids = torch.from_numpy(keys).to(vectors.device)
        rows = self._rows.of(ids)
        scores = torch.from_numpy(products).to(vectors.device).masked_fill(rows < 0, NO_SCORE)
        # Fewer than were asked for: there are no others. As many as there are: none either.
        beyond = torch.full_like(scores[:, -1], NO_SCORE) if fetched == self._index.ntotal else scores[:, -1]
        return Lists(scores, rows, beyond)

    def _selector(self, faiss: ModuleType, allowed: Bool[Tensor, "N"]) -> Any:
        ids = self._ids[allowed].cpu().numpy()
        largest = int(self._ids.max())
        if largest > BITMAP_SPREAD * len(self._ids):
            return faiss.IDSelectorBatch(ids)
        chosen = np.zeros(largest + 1, dtype=bool)
        chosen[ids] = True
        return faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))

    def _with_apart(
        self,
        lists: Lists,
        vectors: Float[Tensor, "Q d"],
        exclude: Int[Tensor, "Q H"],
        allowed: Bool[Tensor, "N"] | None,
        count: int,
    ) -> Lists:
        """The first `count` with the items that are not in the index: NaN first, though it be masked, to be reported."""
        if not len(self._apart):
            return lists
        rows = (~self._finite).nonzero().flatten().expand(len(vectors), -1)  # (Q, A)
        out = (rows[:, :, None] == exclude[:, None, :]).any(2)
        if allowed is not None:
            out |= ~allowed[rows]
        products = torch.minimum((vectors @ self._apart.T).float(), torch.where(out, NO_SCORE, -NO_SCORE))
        rows = rows.masked_fill(products == NO_SCORE, NO_ITEM)
        scores, order = torch.cat([lists.scores, products], 1).sort(dim=1, descending=True)
        rows = torch.cat([lists.rows, rows], 1).gather(1, order)
        cut = scores[:, count] if scores.shape[1] > count else torch.full_like(lists.beyond, NO_SCORE)
        return Lists(scores[:, :count], rows[:, :count], torch.maximum(lists.beyond, cut))

    def _with_rounding(self, beyond: Float[Tensor, "Q"], vectors: Float[Tensor, "Q d"]) -> Float[Tensor, "Q"]:
        """What no item outside a list exceeds in exact arithmetic, of what it does not exceed in faiss's."""
        if not isinstance(self.kind, Flat):
            return torch.full_like(beyond, UNKNOWN)
        norms = vectors.float().norm(dim=1)
        # Two roundings more than those of the products: of the vectors, where they came in float64.
        error = product_error(norms, self._norm.to(norms.device), self._width + 2, torch.float32)
        raised = torch.where(beyond > NO_SCORE, beyond + error, beyond)
        # Where products may overflow, or a query is not finite, faiss leaves items out for no good reason.
        return torch.where(error.isfinite() & ~raised.isnan(), raised, UNKNOWN)

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`: an HNSW graph takes new items only. The cells of IVF stay those it was built with."""
        rows = self._rows.of(ids)
        known = rows >= 0
        if isinstance(self.kind, HNSW) and known.any():
            raise NotImplementedError(
                f"item {int(ids[known][0])} is in the HNSW graph, which cannot replace items; build it anew"
            )
        if vectors.shape[1] != self._width:
            raise ValueError(f"{self.name} holds vectors of width {self._width}, not {vectors.shape[1]}")
        faiss = _faiss()
        put_ids = torch.cat([self._ids, ids[~known]])
        self._rows = CorpusRows(put_ids)
        if known.any():
            self._index.remove_ids(faiss.IDSelectorBatch(ids[known].cpu().numpy()))
        fine = vectors.float().isfinite().all(1)
        if fine.any():
            self._index.add_with_ids(_array(vectors[fine]), ids[fine].cpu().numpy())
        apart = self._ids[~self._finite]
        stays = ~torch.isin(apart, ids)
        apart_ids = torch.cat([apart[stays], ids[~fine]])
        kept_apart = torch.cat([self._apart[stays], vectors[~fine].detach().to(self._apart.dtype)])
        self._digests = self._digests.index_copy(0, rows[known], digests(vectors[known]))
        self._digests = torch.cat([self._digests, digests(vectors[~known])])
        self._norm = torch.maximum(self._norm, _largest_norm(vectors[fine]))
        self._hold(put_ids, apart_ids, kept_apart)

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`; NotImplementedError from an HNSW graph."""
        if isinstance(self.kind, HNSW):
            raise NotImplementedError("an HNSW graph cannot lose items; build it anew from those that remain")
        kept = ~torch.isin(self._ids, ids)
        self._rows = CorpusRows(self._ids[kept])
        self._index.remove_ids(_faiss().IDSelectorBatch(ids.cpu().numpy()))
        apart = self._ids[~self._finite]
        stays = ~torch.isin(apart, ids)
        self._digests = self._digests[kept]
        self._hold(self._ids[kept], apart[stays], self._apart[stays])

    def _hold(self, ids: Int[Tensor, "N"], apart_ids: Int[Tensor, "A"], apart: Float[Tensor, "A d"]) -> None:
        self._ids = ids
        self._finite = ~torch.isin(ids, apart_ids)
        order = self._rows.of(apart_ids).argsort()  # as the rows come
        self._apart = apart[order]
        self._place()

    def save(self, path: Path) -> None:
        """Write the index, its kind and the fingerprint of its vectors: under a temporary name, then renamed.

        Raises OSError that names the file where it cannot be written.
        """
        content = {"index": torch.from_numpy(_faiss().serialize_index(self._index))}
        described = {
            "record": type(self).__name__,
            "built_with": json.dumps(built_with(self.kind)),
            "fingerprint": self.fingerprint,
        }
        temporary = path.with_name(path.name + ".partial")
        try:
            safetensors.torch.save_file(content, temporary, metadata=described)
            temporary.replace(path)
        except safetensors.SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)

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

        Raises FileNotFoundError where there is no file, and ValueError that names the file where it is cut short or
        damaged, is no index, is one of another kind, or was built of other vectors.
        """
        index = _read(path, kind, fingerprint(ids, digests(vectors), vectors.shape[1]))
        lists = cls.__new__(cls)
        lists._take(kind, name, ids, vectors)
        if (index.d, index.ntotal) != (vectors.shape[1], int(lists._finite.sum())):
            raise ValueError(
                f"{path} holds {index.ntotal} vectors of width {index.d}: it is damaged; build it anew"
            )
        lists._index = index
        lists._place()
        return lists


def faiss_lists(kind: IndexKind, folder: Path | None = None) -> SourceBuilder:
    """Makes sources of candidates from faiss; with a `folder`, loads `NAME.faiss` from there, or builds and saves it.

    Raises what `FaissLists.load` does where a file is there but not of these vectors: it is never written over.
    """

    def build(name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> CandidateSource:
        if folder is None:
            return FaissLists(kind, name, ids, vectors)
        path = folder / f"{name}.faiss"
        if path.is_file():
            return FaissLists.load(path, kind, name, ids, vectors)
        lists = FaissLists(kind, name, ids, vectors)
        folder.mkdir(parents=True, exist_ok=True)
        lists.save(path)
        return lists

    return build


def _largest_norm(vectors: Float[Tensor, "M d"]) -> Float[Tensor, ""]:
    norms = vectors.detach().float().norm(dim=1)
    return norms.amax() if len(norms) else norms.new_zeros(())


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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            content = file.get_tensor("index") if described.get("record") == FaissLists.__name__ else None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is cut short or no index that was saved here: {error}") from error
    if content is None:
        raise ValueError(
            f"{path} holds a {described.get('record', 'file without a record name')}, not an index"
        )
    if json.loads(described["built_with"]) != built_with(kind):
        raise ValueError(f"{path} was built with {described['built_with']}, not as {kind}; name another file")
    if described["fingerprint"] != expected:
        raise ValueError(
            f"{path} was built of other vectors: of another model or corpus, or of these before they were computed"
            " anew (keep item states with ItemState.save); delete it or name another file"
        )
    try:
        return _faiss().deserialize_index(content.numpy())
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
