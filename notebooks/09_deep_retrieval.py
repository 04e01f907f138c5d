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
# # 09 · Deep Retrieval: learning the index itself
#
# **Question.** Can an index be *learned* together with the model, so that a query finds its items without looking at most of
# the corpus, and what does that cost in quality? You will see the two alternating steps that learn the index, look at **paths**
# (which items share one, and which ones a user takes), and trade the width of a beam against recall.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = -1
view = ""

# %% [markdown]
# ## First, the result
#
# An index of **paths** gives every item $J$ of them, and a price $\alpha$ keeps many items from crowding onto one; the sections
# below explain both. A query follows the most probable paths, a *beam* of them, and scores the items there.
#
# The table has such paths for the queries and items of one trained dot product on MovieLens 1M (HSTU), next to indexes that
# learn less, with the same scores. *effort* is the number of paths in the beam, or of FAISS's cells that are looked at.
# *quality* is NDCG@10 over that of brute force, and *popular* the same for a null model at equal work as paths: no index, the
# scores of as many of the most popular items. The last group was trained jointly with its paths, and has scores of its own.

# %%
from workbench.explore import index_findings
from workbench.explore.tables import table
from workbench.studies.study import study

indexes = study("deep-retrieval")
measured = indexes.stored()
columns = [
    "index",
    "effort",
    "recall@10",
    "of_brute_force",
    "popular_of_brute_force",
    "share_scored",
    "p50_ms",
]
short = {
    "of_brute_force": "quality",
    "popular_of_brute_force": "popular",
    "share_scored": "share scored",
    "p50_ms": "ms per query",
}
table(measured[columns].rename(columns=short)) if measured is not None else index_findings.not_stored(indexes)

# %%
index_findings.paths_and_nulls(measured) if measured is not None else None

# %% [markdown]
# And all similarities with their own index: quality, time, memory, time to build, share of the items that are scored. The group
# of HSTU has histories of 200 films, the ladder to SparCode of 20.

# %%
similarities = study("similarities")
others = similarities.stored()
table(index_findings.similarities(others)) if others is not None else index_findings.not_stored(similarities)

# %%
hstu = ["ml-1m-cpu-hstu-mol", "ml-1m-cpu-hstu-deep-retrieval", "ml-1m-cpu-hstu-dot-paths"]
index_findings.own_indexes(others, "ml-1m-cpu-hstu-dot", hstu) if others is not None else None

# %% [markdown]
# How well paths choose is one question, and whether choosing saves time is another. A walk has a cost of its own: it can only
# pay off if scanning the whole corpus takes longer. How both grow with the corpus is at the end of this notebook.
#
# ## Then, by hand
#
# One item was chosen by ten users; *sum* is how much probability these users give to each of three paths. A path $c$ that holds
# $|c|$ items has a price, $\alpha |c|^4 / 4$, and what counts is how much *one more* item adds to it. A path is *worth*
# $10 \log$ *sum*, minus this price: the item goes to the one that is worth most.

# %%
import pandas as pd
import torch

from workbench.course import check

sums, sizes, alpha = torch.tensor([6.0, 3.0, 1.0]), torch.tensor([30.0, 6.0, 0.0]), 1e-3
price = alpha * ((sizes + 1) ** 4 - sizes**4) / 4
worth = 10 * sums.log() - price
by_path = {"path": [1, 2, 3], "items": sizes, "sum": sums, "price of one more": price, "worth": worth}
table(pd.DataFrame(by_path))

# %%
from dataclasses import replace

from workbench import data
from workbench.anatomy import path_analysis as path_analysis
from workbench.data.examples import example_user
from workbench.explore import path_figures
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import CurveExplorer
from workbench.models.model_store import load_or_train
from workbench.models.recommend import history, recommendations
from workbench.reporting import record
from workbench.similarities.deep_retrieval.assignment import ScoreLists, assign
from workbench.studies import tour_experiments
from workbench.studies.frozen_paths import PathFit, fit_paths
from workbench.training.presets import preset

# %% [markdown]
# The library's step chooses the same path for this item. (There are other items on the paths already; the item itself starts
# on the first one.)

# %%
lists = ScoreLists(torch.arange(3)[None], sums[None].double(), torch.tensor([10.0]))
others = torch.arange(3).repeat_interleave(sizes.long())
assert assign(lists, torch.tensor([[0]]), alpha, others=others).item() == worth.argmax()

# %% [markdown]
# ## Items on paths
#
# Imagine a grid of $D$ layers with $K$ nodes each. A **path** $c = (c_1, \ldots, c_D)$ takes one node of every layer, so there
# are $K^D$ paths. Every item is assigned to $J$ of them. For a user $x$, a small network per layer gives the probability of
# each next node:
#
# $$p(c \mid x) = \prod_{d=1}^{D} p(c_d \mid x, c_1, \ldots, c_{d-1}) .$$
#
# To find items, run a **beam search**: after each layer keep only the most probable prefixes. The items on the resulting paths
# are scored by a plain inner product, the **reranker**, which is trained jointly.

# %%
sequences = data.load(dataset)
chosen = preset({"quick": "quick", "standard": "cpu", "full": "cpu"}[profile] + "/hstu-deep-retrieval")
settings = chosen.retriever.to_dict()["similarity"]
names = {
    "depth": "layers D",
    "width": "nodes of a layer K",
    "paths": "paths of an item J",
    "alpha": "penalty α",
    "candidates": "paths that an item can move to",
    "candidate_beam": "beam that finds these",
    "beam": "beam that recommends",
}
table(pd.Series(settings)[list(names)].rename(names).rename_axis("setting").reset_index(name="value"))

# %% [markdown]
# ## Alternating training
#
# There are no labels that say which item belongs on which path. Network and paths are learned in alternation.
#
# 1. **Paths fixed, weights updated.** Gradient descent makes the paths of the chosen item $y$ probable for the user who chose
#    it: the loss is $-\log \sum_{j \le J} p(\pi_j(y) \mid x)$, plus the reranker's loss.
# 2. **Weights fixed, paths updated.** Sum the probability of each path over the examples of each item,
#    $s[v, c] = \sum_{i: y_i = v} p(c \mid x_i)$, and assign each item in turn to its $J$ best paths, minus a penalty
#    $\alpha \, |c|^4 / 4$ for crowded paths.
#
# Without the penalty all items would collect on one path, which would always be probable and would be no index at all.

# %%
trained = load_or_train(chosen, sequences, seed=seed)
retriever = trained.retriever()

# %% [markdown]
# Left: the loss of the first step. Middle: the share of (item, path) pairs that the second step left unchanged; near 1 the two
# steps agree. Right: the number of paths that hold items. Assignments start at random, and the first epochs change most of
# them.

# %%
path_figures.path_learning(trained.history)

# %%
kept = path_analysis.path_sizes(retriever)  # of the selected epoch, which need not be the last
record("paths in use", kept["paths"].sum())
record("largest path", kept["items"].max(), unit="items")
record("stability of the last step", trained.history["stability"].dropna().iloc[-1])

# %% [markdown]
# ## Look at the paths
#
# The paths whose items have the most interactions. *share* is the share of the path's items that have the genre in common.
# Titles and genres are not inputs of the model: items share a path because the same users choose them in the same situations.

# %%
paths = path_analysis.path_table(retriever, sequences)
table(paths.head(10))

# %% [markdown]
# Are items on the same path related? Pairs from one path, compared with random pairs:

# %%
together = path_analysis.togetherness(retriever, sequences)
record("togetherness", together)
table(together)

# %% [markdown]
# ## Follow one user
#
# The end of a history, and what came next (*held out*). With `user = -1` it is the first user with a history of sufficient
# length.

# %%
user = example_user(sequences, user)
table(history(sequences, user))

# %% [markdown]
# The paths in this user's beam, as many as the model follows when it recommends. *holds next* marks those that hold the
# held-out item: any of them is enough to reach it.

# %%
walked = path_analysis.walk(retriever, sequences, user)
table(walked)

# %% [markdown]
# And the best of all items on these paths, in the reranker's order.

# %%
recommended = recommendations(retriever, sequences, user)
table(recommended)

# %%
index_findings.followed(walked, recommended)

# %% [markdown]
# ## How wide must the beam be?
#
# A wider beam reaches more items and scores more of them. The reference is brute force with the same reranker: the share of its
# top ten that is found (solid), and the share of its hits (dashed). The dotted line is a null model with the same amount of
# work: no paths, the same reranker over an equal number of the most popular items. It counts hits, too, so compare it with the
# dashed line alone: if the index has learned something about the *user*, the hits of its paths lie above the dotted line.

# %%
widths = sorted({1, 2, 4, 8, 16, 32, 64, settings["beam"]})
found = path_analysis.beam_recall(retriever, sequences, widths)
path_figures.beam_curve(found)

# %%
record("beam", found)
own = found.set_index("beam").loc[settings["beam"]]
record("found of brute force's best ten", round(100 * own["recall"]), unit="%")
record("items scored for it, of the corpus", round(100 * own["scored"]), unit="%")
words = {"of_brute_force": "of its hits", "popular_of_brute_force": "of its hits, among the most popular"}
table(found.rename(columns={"recall": "of brute force's best ten", "scored": "share scored", **words}))

# %%
names = {"recall": "of brute force's best 10", "of_brute_force": "of brute force's hits", "scored": "scored"}
axes = Axes("width of the beam", "share", unit="beam", share=True)
CurveExplorer(
    "Widen the beam",
    tour_experiments.curves_of(found, "beam", names),
    axes,
    "beam",
    "Paths in the beam",
    start=1,
).at(view)

# %% [markdown]
# **To answer with the control.** How wide must the beam be to find nine tenths of brute force's top ten, and how much of the
# corpus is scored then? And for nine tenths of its *hits*, the held-out items in its top ten?
#
# <details><summary>An answer</summary>
#
# Hits need a narrower beam than the whole list: an item that the user chose is seldom at the end of it. If the curve of hits
# lies above 100 %, the items that the paths leave out include mistakes of brute force: the paths act as a second model of what
# suits the user.
#
# </details>

# %%
index_findings.beams(found)

# %% [markdown]
# ## The penalty
#
# What limits the number of items on a path? Without a penalty the second step puts nearly all items on the same $J$ paths. Here
# the queries and the reranker are fixed, and only the network and the paths are retrained, with a different $\alpha$ each time,
# the model's own among them. The table compares them at the width of the beam that recommends.

# %%
fit = PathFit(rounds=3, rows=30_000, seed=seed)
variants = {}
for alpha in sorted({0.0, 1e-4, settings["alpha"], 1.0}):
    config = chosen.retriever.similarity
    variants[alpha], _ = fit_paths(retriever, sequences, chosen.training, replace(config, alpha=alpha), fit)

# %%
sizes = [path_analysis.path_sizes(r).assign(variant=f"α = {a:g}") for a, r in variants.items()]
path_figures.path_fill(pd.concat(sizes))

# %%
effect = pd.concat(
    [
        path_analysis.beam_recall(r, sequences, [settings["beam"]]).assign(alpha=a)
        for a, r in variants.items()
    ],
    ignore_index=True,
).assign(largest_path=[frame["items"].max() for frame in sizes])
record("penalty", effect)
words = {
    "alpha": "α",
    "scored": "share scored",
    "recall": "of brute force's best ten",
    "of_brute_force": "of its hits",
}
table(effect[["alpha", "largest_path", "scored", "recall", "of_brute_force"]].rename(columns=words))

# %% [markdown]
# ## As the corpus grows
#
# A walk costs the same however many items there are; scanning does not. `workbench study run deep-retrieval-growth` measures
# both on *synthetic* vectors in clusters, with the kernels in C++, one query at a time. Nothing is trained there: the paths are
# those of residual k-means, which is a structure model with known weights. So it shows what such an index can do if there is
# structure to find, and not what it finds in your data. FAISS's inverted file has the same idea: cells, of which the nearest
# are looked at.

# %%
by_size = study("deep-retrieval-growth")
growth = by_size.stored()
columns = [
    "items",
    "searcher",
    "setting",
    "recall@10",
    "share_scored",
    "p50_ms",
    "of_brute_force",
    "build_seconds",
]
short = {"p50_ms": "ms per query", "of_brute_force": "× brute force", "build_seconds": "seconds to build"}
table(growth[columns].rename(columns=short)) if growth is not None else index_findings.not_stored(by_size)

# %%
index_findings.path_growth(growth) if growth is not None else None

# %% [markdown]
# ## Exercise
#
# What is each path worth to an item that was chosen `examples` times, as its first path?


# %%
def gains(sums, sizes, examples, alpha):
    "What each path (C,) is worth: N log s minus alpha times the growth of size⁴/4."


check("path gains", gains)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def gains(sums, sizes, examples, alpha):
#     price = ((sizes + 1) ** 4 - sizes**4) / 4
#     return examples * sums.log() - alpha * price
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - The index is part of the model: which items share a path is learned from the same interactions as the scores.
# - The two alternating steps, one by gradient and one by counting, converge within a few epochs.
# - A beam reaches a part of the corpus, and the penalty decides how large it is. Whether the part is well chosen shows only
#   next to null models with the same amount of work: the most popular items, or cells of a plain k-means.
# - On a small corpus an index has little to save, since scanning is fast. Whether one pays off on a large corpus depends on its
#   structure.
#
# **To try.** Set `user` to someone whose held-out item is on no path of the beam: what would have to be different? Then train
# with `seed = 1`: do the *same* items share paths, even if the paths have other numbers?
