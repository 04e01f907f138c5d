# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     notebook_metadata_filter: kernelspec,jupytext,workbench,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Scaling
#
# **Question.** What does a larger corpus cost in time and memory, what would a billion items need, and which engine can hold
# them? The same trained similarity is searched over corpora of growing size. You will see latencies on logarithmic axes with
# fitted **exponents**, the memory per item, an extrapolation that states its assumptions, and one checkpoint behind several
# **engines**.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
corpus = 1_000_000_000
view = ""

# %% [markdown]
# ## First, by hand
#
# A Mixture-of-Logits keeps, for each item, $P_x$ vectors of width $d$ and $P$ numbers of the gate, four bytes each.

# %%
import torch

from workbench.course import check

groups, width, gate = 4, 64, 32
kept_of_one = (torch.empty(groups, width), torch.empty(gate))
per_item = sum(part.nbytes for part in kept_of_one)
print(f"{per_item:,} bytes for an item, {per_item * 1e9 / 2**40:.1f} TiB for a billion items")

# %%
import pandas as pd

from workbench import data, paths
from workbench.bench import growth, plans, tables
from workbench.bench.run import run
from workbench.bench.workloads import Trained, build
from workbench.explore import findings
from workbench.explore import search_figures as figures
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import CurveExplorer
from workbench.explore.tables import table
from workbench.models.model_store import load_or_train
from workbench.reporting import record
from workbench.search import Approximate
from workbench.search.engines.catalog import ENGINES
from workbench.studies.engines import EnginesStudy, compare, installed
from workbench.training.presets import lineup

# %% [markdown]
# ## Corpora from small to large
#
# Each corpus is the trained catalogue inflated with noisy copies of its items (or a part of the catalogue, for the smallest).
# The queries are the same throughout. Each method has one setting here; **07_recall_latency** has the whole grid.

# %%
sequences = data.load(dataset)
trained = load_or_train(lineup(profile, dataset)["HSTU + MoL"], sequences, seed=seed)
plan = plans.growth_of_profile(profile, str(trained.folder), title=dataset)
raw = run(plan, fresh=profile == "quick", progress=False)
measured = tables.summary(raw)
(queries,), (k,) = plan.batch_sizes, plan.ks
print(f"{len(plan.workloads)} corpora; each call finds the best {k} items of {queries} queries")

# %% [markdown]
# By hand, for the trained model: its state of one item, next to what the library counts for the whole catalogue (which also
# keeps an id of eight bytes for each item).

# %%
state = trained.retriever().item_state()
_, groups, width = state.components.shape
per_item = groups * width * 4 + state.gate.shape[1] * 4
assert state.nbytes() == len(state) * (per_item + 8)
print(f"{per_item} bytes and an id for each of {len(state):,} items: {state.nbytes():,} bytes")

# %% [markdown]
# ## How latency grows
#
# The table shows the median latency of a call, in milliseconds.

# %%
latencies = measured.pivot(index="label", columns="items", values="p50_ms").loc[measured["label"].unique()]
latencies.columns = [f"{items:,} items" for items in latencies.columns]
record("median latency in ms", latencies.reset_index())
table(latencies)

# %% [markdown]
# A method that scores every item has exponent 1 once the corpus is large; below that, fixed costs dominate and the line is
# flat. An exponent well below 1 at the right end would mean that an index really skips items.

# %%
fits = growth.exponents(measured)
record("exponents", fits)
latency = f"ms per call of {queries} queries"
figures.growth(measured, fits).update_yaxes(title_text=latency)

# %% [markdown]
# With few corpora the intervals are wide: they show how far the points deviate from a single straight line, fixed costs
# included.

# %%
table(fits[["label", "points", "exponent", "low", "high"]])

# %% [markdown]
# Move along the corpora, and read off what a call costs at each size.

# %%
grown = measured.rename(columns={"label": "curve", "items": "x", "p50_ms": "y"})
axes = Axes("items in the corpus", latency, unit="items", log_y=True, y_unit="ms")
CurveExplorer(
    "Grow the corpus", grown, axes, "items", "Size of the corpus", start=int(measured["items"].max())
).at(view)

# %% [markdown]
# **To answer with the table.** A method that scores every item must have exponent 1. Why is brute force below that here?
#
# <details><summary>An answer</summary>
#
# Look at the latencies: over the small corpora they hardly grow, since the fixed cost of a call exceeds the cost of its items.
# The straight line through all points mixes both. The slope at the right of the figure, between the two largest corpora, is the
# one to read, and even there fixed costs remain: compare *fixed ms* below with the latency.
#
# </details>
#
# ## What happens to recall?
#
# *Recall* is the share of the true best that a search finds. At the same setting, a larger corpus has more items that compete
# for the candidate list. An index that looks at a fixed share of its cells sees few items of a small corpus, too few to fill
# its list.

# %%
recall = measured.pivot(index="label", columns="items", values="recall").loc[measured["label"].unique()]
recall.columns = [f"{items:,} items" for items in recall.columns]
table(recall)

# %%
findings.recall_by_size(measured)

# %% [markdown]
# `workbench bench search --preset books` measures larger corpora, up to the size of the published Amazon Books corpus, with a
# mixture of published size. Its table, if it was run, shows the largest corpus: *speed-up* is over the reference
# implementation, *items scored* the share whose full score was computed, *index MB* what a searcher keeps beyond the item
# state. The exponents are those of the growth up to this corpus, of the milliseconds of a call and of the items scored; 0 is no
# growth at all.

# %%
stored = paths.reports() / "tables" / "search-books.csv"
books = pd.read_csv(stored) if stored.is_file() else None
print("It was not run." if books is None else growth.books_line(books))
table(growth.readme_books(books)) if books is not None else None

# %% [markdown]
# ## Memory per item
#
# The item state holds $P_x$ components of width $d$ and the item's part of the gate; searching does not need the item
# embedding. A searcher adds what its index stores.

# %%
kept = growth.per_item(measured, raw.shapes)
figures.memory_per_item(kept)

# %% [markdown]
# ## A billion items
#
# Bytes per item are those measured at the largest corpus. For time, a straight line is fitted through all corpora: a **fixed**
# part per call, and some nanoseconds per **item** for each of its queries. Both are extrapolated to `corpus` items, with as
# many queries per call as above; *seconds per query* is a call's time over its queries. The extrapolation ignores what is lost
# once a corpus exceeds the caches or the memory, and what is gained by an index that looks at a decreasing share of items. If
# the fixed part still dominates at the largest corpus, the cell is empty: nothing can be extrapolated. Expect orders of
# magnitude, not exact numbers.

# %%
needs = growth.needed(measured, corpus)
record("needs of a billion items", needs)
table(needs)

# %% [markdown]
# **To answer with a parameter.** How many items fit into the memory of your machine? Set `corpus`.
#
# <details><summary>An answer</summary>
#
# *state GB* grows in proportion: 16 GB hold 16/*state GB* billion items, a few hundred million with the small model of the
# embedded data. Time may be the tighter limit: compare *seconds per query*, and what a tenth of it would be.
#
# </details>
#
# The first remedy is to store the components in fewer bits. The state of `corpus` items at this size, in GB:

# %%
embedding = 4 * trained.retriever().config.dim
print(
    f"An item's state takes {state.nbytes() / len(state):.0f} bytes, its embedding of the encoder {embedding}."
)
table(growth.state_sizes(raw.shapes, corpus))

# %% [markdown]
# ## Which engine holds the items?
#
# The vectors can stay in an engine that you already run. It does not need the similarity: it lists candidates by the
# **average component**, one inner product per item, and these are scored in full. By hand, for the first four queries, and as
# the library does it:

# %%
workload = build(Trained(str(trained.folder)), 64, seed, torch.device("cpu"))
mol, items, asked = workload.similarity, workload.items, workload.queries[:4]
k = min(10, len(items))
n2 = max(k, len(items) // 4)
average = mol.query_components(asked).sum(1) @ mol.item_components(items).mean(1).T  # (B, N)
listed = average.topk(n2).indices
scores = mol.score_candidates(asked, items, listed)
by_hand = items.ids[listed.gather(1, scores.topk(k).indices)]
by_library = Approximate.of(mol, items, n2=n2).search(asked, k).ids
assert torch.equal(by_hand, by_library)
print(f"{n2:,} candidates of {len(items):,} items; the best {k} of the first query")
print(f"by hand:    {by_hand[0].tolist()}\nby library: {by_library[0].tolist()}")

# %% [markdown]
# So the same candidates give the same lists, whichever engine holds the vectors. *overlap* is the share of the lists of our own
# scan ("flat"), *recall* that of the true best. The graph walks by the learned score itself and has candidates of its own.
# Engines that are not installed are left out.

# %%
engines = installed([ENGINES[name] for name in EnginesStudy.engines], print)
carried = compare(workload, engines, n2, ef=n2, k=k)
record("engines", carried)
table(
    carried[["engine", "version", "candidates", "overlap", "recall", "ms_per_query", "build_s", "files_mb"]]
)

# %% [markdown]
# An overlap of 1.000 means that the choice is one of operations: memory, files, updates. usearch walks a graph, which is exact
# only if it keeps more items on the way than it lists: four times as many here. tantivy is left out, since it holds terms (the
# codes of **08_sparcode**) and no vectors. `workbench study run engines` makes this table for MovieLens 1M.
#
# ## Who carries it
#
# Vectors and searches need not stay in this process:
#
# - `workbench index build MODEL --engine usearch --out INDEX` keeps the vectors in the files of an engine, and
#   `workbench serve INDEX` answers from it over HTTP.
# - `workbench index build MODEL --engine milvus --set uri=http://localhost:19530 --out INDEX` keeps them on a cluster of
#   Milvus; the token is read from `WORKBENCH_MILVUS_TOKEN`. This was tried with milvus-lite alone, not with a cluster.
# - `workbench recommend ml-1m-cpu-hstu-mol --all --partitions 8 --on ray --out all.parquet` lets Ray's workers search parts
#   of the corpus and merges what they find. In Python, `workbench.search.Sharded` does so for processes and GPUs.
# - `workbench model export ml-1m-cpu-hstu-mol --vespa --out APP` writes an application of Vespa: schema, gate and feed.
# - `workbench bench gpu` measures kernels, search, training and large corpora on a GPU.

# %% [markdown]
# ## Exercise
#
# The same with components of fewer bits. The gate's part stays at 32 bits.


# %%
def item_bytes(groups, width, gate, bits):
    "Bytes stored per item: components of `bits` bits, the gate's numbers of 32."


check("bytes", item_bytes)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def item_bytes(groups, width, gate, bits):
#     return groups * width * bits / 8 + gate * 4
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - Exact search with a learned similarity is linear in the corpus; methods differ in the constant.
# - On small corpora fixed costs dominate, and an exponent fitted there says little.
# - At a billion items both memory and time matter: compare *state GB* and *seconds per query* with what a machine has and what
#   a reader waits for. Beyond one machine the corpus is sharded: each shard is searched separately, and merging the lists is
#   exact.
#
# **To try.** `workbench bench search --preset growth` goes up to a million items. At which size does the first stage of each
# approximate method pay for itself?
# `workbench bench search --items 100000 --searcher "graph ef=400" --searcher "cascade n2=8000"` measures a walk by the score
# itself next to a list that a linear gate cuts: which needs fewer scores?
