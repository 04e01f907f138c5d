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
# **Question.** What does a larger corpus cost, in time and in memory, and what would a billion items need? The same trained similarity
# is searched over corpora of growing size. You will see latencies on logarithmic axes with the **exponents** fitted to them, what an
# item costs to keep, and an extrapolation that states its assumptions.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
billion = 1_000_000_000

# %%
from workbench import data
from workbench.bench import growth, plans, tables
from workbench.bench.run import run
from workbench.explore import search_figures as figures
from workbench.explore.tables import table
from workbench.models.model_store import load_or_train
from workbench.reporting import record
from workbench.training.presets import lineup

# %% [markdown]
# ## Corpora from small to large
#
# Each corpus is the trained catalogue, inflated with noisy copies of its items (or a part of it, for the smallest). Queries are the
# same throughout. One setting stands for each method here; **07_recall_latency** has the whole grid.

# %%
sequences = data.load(dataset)
trained = load_or_train(lineup(profile, dataset)["HSTU + MoL"], sequences, seed=seed)
plan = plans.growth_of_profile(profile, str(trained.folder), title=dataset)
raw = run(plan, anew=profile == "quick", progress=False)
measured = tables.summary(raw)

# %%
latencies = measured.pivot(index="label", columns="items", values="p50_ms").loc[measured["label"].unique()]
latencies.columns = [f"{items:,} items" for items in latencies.columns]
record("median latency in ms", latencies.reset_index())
table(latencies)

# %% [markdown]
# ## How latency grows
#
# A method that looks at every item has exponent 1 once the corpus is large; below that, fixed costs rule and the line is flat. An
# exponent well below 1 at the right end would be an index that really skips items.

# %%
fits = growth.exponents(measured)
record("exponents", fits)
figures.growth(measured, fits)

# %% [markdown]
# With few corpora the intervals are wide: they say how far the points are from one straight line, fixed costs included.

# %%
table(fits[["label", "points", "exponent", "low", "high"]])

# %% [markdown]
# **To answer with the table.** A method that looks at every item must have exponent 1. Why does brute force have less here?
#
# <details><summary>An answer</summary>
#
# Look at the latencies: over the small corpora they hardly grow, since what a call costs in any case outweighs what the items cost. The
# straight line through all points mixes both. The line on the right of the figure, between the two largest corpora, is the one to
# read, and even there fixed costs are not gone: compare *fixed ms* below with the latency.
#
# </details>
#
# ## What happens to recall?
#
# With the same setting, a larger corpus has more items between the candidates and the true list.

# %%
recall = measured.pivot(index="label", columns="items", values="recall").loc[measured["label"].unique()]
recall.columns = [f"{items:,} items" for items in recall.columns]
table(recall)

# %% [markdown]
# ## What an item costs to keep
#
# The item state holds $P_x$ components of width $d$ and the item's part of the gate; the raw embedding is not needed to search. A
# searcher adds what its index holds.

# %%
kept = growth.per_item(measured, raw.shapes)
figures.memory_per_item(kept)

# %% [markdown]
# ## A billion items
#
# Bytes per item as measured at the largest corpus. For time, a straight line through all corpora: a **fixed** part of a call, and
# so many nanoseconds for **each item**; both times $10^9$. It leaves out what is lost where a corpus outgrows the caches, or the
# memory, and what is gained by an index that looks at a shrinking share. Where the fixed part still rules at the largest corpus
# the place is empty: nothing can be said from here. Orders of magnitude, not promises.

# %%
needs = growth.needed(measured, billion)
record("needs of a billion items", needs)
table(needs)

# %% [markdown]
# **To answer with a parameter.** With how many items does the state of your corpus fit into the memory of your machine? Set `billion`.
#
# <details><summary>An answer</summary>
#
# *state GB* grows in proportion: 16 GB hold 16/*state GB* billion items, a few hundred million of the small model of the embedded data.
# Time may give out first: compare *seconds per query*, and what a tenth of it would be.
#
# </details>
#
# Keeping the components in fewer bits is the first thing to do: the state of a billion items at this size, in GB.

# %%
table(growth.state_sizes(raw.shapes, billion))

# %% [markdown]
# ## What you have seen
#
# - Exact search under a learned similarity is linear in the corpus; what differs is the constant.
# - On small corpora fixed costs rule, and an exponent fitted there says little.
# - At a billion items memory and time both matter: the state is many times an embedding table, and a scan of all of it on one
#   machine takes longer than anyone waits. Beyond one machine the corpus is split, every shard is searched alone, and the lists
#   are merged exactly.
#
# **To try.** `workbench bench search --preset growth` goes to a million items. At which size does each approximate method pay
# for its first stage?
