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
# **Question.** Can an index be *learned*, together with the model, so that a query finds its items without looking at most of the
# corpus, and what does it cost in quality? You will see the two turns by which the index is learned, look at **paths**: which items
# share one, and which a user takes; and trade the width of a beam against what it finds.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = -1

# %%
from dataclasses import replace

import pandas as pd

from workbench import data
from workbench.anatomy import path_analysis as path_analysis
from workbench.data.examples import example_user
from workbench.explore import findings, path_figures
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import ReadOff
from workbench.explore.tables import table
from workbench.models.model_store import load_or_train
from workbench.models.recommend import history, recommendations
from workbench.reporting import record
from workbench.studies import tour_experiments
from workbench.studies.frozen_paths import PathFit, fit_paths
from workbench.training.presets import preset

# %% [markdown]
# ## A corpus on paths
#
# Imagine a grid of $D$ layers with $K$ nodes each. A **path** $c = (c_1, \ldots, c_D)$ takes one node of every layer, so there are $K^D$
# paths. Every item stands on $J$ of them. For a user $x$, a small network per layer says how probable each next node is:
#
# $$p(c \mid x) = \prod_{d=1}^{D} p(c_d \mid x, c_1, \ldots, c_{d-1}) .$$
#
# To find items, walk: after each layer keep the best few beginnings (a **beam**). Only what stands on the paths at the end is
# scored, by a plain inner product, the **reranker**, which is trained along with the rest.

# %%
sequences = data.load(dataset)
chosen = preset({"quick": "quick", "standard": "cpu", "full": "cpu"}[profile] + "/hstu-deep-retrieval")
settings = chosen.retriever.to_dict()["similarity"]
shown = ["depth", "width", "paths", "alpha", "candidates", "candidate_beam", "beam"]
table(pd.DataFrame({"value": settings}).loc[shown])

# %% [markdown]
# ## Two turns
#
# Nobody says which item belongs on which path. Both are learned, in turn.
#
# 1. **Paths fixed, weights move.** By gradient, make the paths of the chosen item $y$ probable for the user who chose it: the loss is
#    $-\log \sum_{j \le J} p(\pi_j(y) \mid x)$, beside the reranker's.
# 2. **Weights fixed, paths move.** Sum up how probable each path was where an item was chosen, $s[v, c] = \sum_{i: y_i = v} p(c \mid x_i)$,
#    and move each item in turn to the $J$ paths that suit it best, minus a penalty $\alpha \, |c|^4 / 4$ for crowding.
#
# Without the penalty everything would gather on one path: always probable, and no index at all.

# %%
trained = load_or_train(chosen, sequences, seed=seed)
retriever = trained.retriever()

# %% [markdown]
# Left: the loss of the first turn. Middle: which share of (item, path) pairs the second turn left in place; as it nears 1 the two turns
# agree. Right: how many paths hold items. All begin at random, and the first turns clear most of it away.

# %%
path_figures.path_learning(trained.history)

# %%
kept = path_analysis.path_sizes(retriever)  # of the epoch that was chosen, which need not be the last
record("paths in use", kept["paths"].sum())
record("largest path", kept["items"].max(), unit="items")
record("stability of the last turn", trained.history["stability"].dropna().iloc[-1])

# %% [markdown]
# ## Look at the paths
#
# The paths whose items are met most often. *share* is the share of the path's items that have the genre in common. Nothing told the
# model about titles or genres: items come together because the same users choose them at the same moments.

# %%
paths = path_analysis.path_table(retriever, sequences)
table(paths.head(10))

# %% [markdown]
# Do items on a path belong together? Pairs from one path, against any two items:

# %%
together = path_analysis.togetherness(retriever, sequences)
record("togetherness", together)
table(together)

# %% [markdown]
# ## Follow one user
#
# The end of a history, and what came next (*held out*). With `user = -1` it is the first user whose history is long enough to
# look at.

# %%
user = example_user(sequences, user)
table(history(sequences, user))

# %% [markdown]
# The paths that this user's beam takes. *holds next* marks those on which the held-out item stands: it can be found through any of
# them.

# %%
table(path_analysis.walk(retriever, sequences, user))

# %% [markdown]
# And what is found there, in the reranker's order.

# %%
table(recommendations(retriever, sequences, user))

# %% [markdown]
# ## How wide a beam?
#
# A wider beam reaches more items and scores more of them. The measure is brute force with the same reranker: which share of its best
# ten is found, and which share of its hits. The dashed line is the null model at equal work: no paths at all, the same reranker over
# as many of the most popular items. An index that has learned something about the *user* lies above it.

# %%
widths = (1, 2, 4, 8, 16, 32, 64)
found = path_analysis.beam_recall(retriever, sequences, widths)
path_figures.beam_curve(found)

# %%
record("beam", found)
table(found)

# %%
names = {"recall": "of brute force's best 10", "of_brute_force": "of brute force's hits", "scored": "scored"}
axes = Axes("width of the beam", "share", unit="beam", share=True)
ReadOff(
    "Widen the beam",
    tour_experiments.curves_of(found, "beam", names),
    axes,
    "beam",
    "Beginnings kept",
    start=1,
)

# %% [markdown]
# **To answer with the control.** How wide must the beam be to find nine tenths of brute force's best ten, and how much of the corpus is
# scored then? And nine tenths of its *hits*, the held-out items among its ten?
#
# <details><summary>An answer</summary>
#
# Hits take a narrower beam than the whole list: an item that the user chose is seldom at the end of it. Where the line of hits lies
# above 100 %, what the paths leave out are also mistakes of brute force: a path is a second opinion on what suits the user.
#
# </details>

# %%
findings.beams(found)

# %% [markdown]
# ## The penalty
#
# What keeps paths from filling up? Without a penalty the second turn puts nearly all items on the same $J$ paths. Here the queries and the reranker stay as they are, and only structure and paths are learned anew, with
# another $\alpha$ each.

# %%
fit = PathFit(rounds=3, rows=30_000, seed=seed)
variants = {}
for alpha in (0.0, 1e-4, 1.0):
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
table(effect[["alpha", "largest_path", "scored", "recall", "of_brute_force"]])

# %% [markdown]
# ## What you have seen
#
# - The index is part of the model: which items stand together is learned from the same clicks as the scores.
# - Two turns, one by gradient and one by counting, settle within a few epochs.
# - A beam of some paths finds nearly all that brute force would, and scores a fraction of the corpus; the penalty decides how
#   large that fraction is.
#
# **To try.** Set `user` to someone whose held-out item no path of the beam holds: what would have had to be different? Then train with
# `seed = 1`: are the *same* items together, on other paths?
