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
# # 07 · Recall and latency
#
# **Question.** How fast can the best 100 items under a learned similarity be found, and what is lost by being faster? Every searcher is
# asked the same queries, in turns, in one run, beside the way the published code does it. You will see the frontier of latency and
# recall under **two definitions of recall** that tell different stories, which answers come with a **proof**, and how far each
# searcher is from the least time that this machine allows.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %%
from workbench import data
from workbench.bench import plans, tables
from workbench.bench.run import run
from workbench.explore import search_figures as figures
from workbench.explore.tables import table
from workbench.reporting import record
from workbench.training.presets import lineup
from workbench.training.shelf import obtain

# %% [markdown]
# ## What is measured
#
# A trained HSTU + MoL retriever, real users' queries, their histories left out, their next items as labels. The corpus is
# **inflated**: beside the catalogue's own items it holds noisy copies of them, each half as far from its original as that is from
# its nearest neighbour. So it is large enough for speed to matter, the labels stay valid, and the copies crowd around the items
# that they must be told from. (The `standard` profile also measures the catalogue as it is.)

# %%
sequences = data.load(dataset)
trained = obtain(lineup(profile, dataset)["HSTU + MoL"], sequences, seed=seed)
plan = plans.of_profile(profile, str(trained.folder), title=dataset)
raw = run(plan, anew=profile == "quick", progress=False)
everything = tables.summary(raw)

# %% [markdown]
# Contenders take turns, round by round, each round in another order: what slows the machine for a while slows all of them. Every
# time, id and score is kept; all that follows is derived from those tables.

# %%
group = everything[everything["workload"] == everything["workload"].iloc[-1]]
group = group[(group["batch_size"] == 32) & (group["k"] == 100)].reset_index(drop=True)
print(
    f"{group['workload'].iloc[0]}, 32 queries a call, k = 100; {raw.facts['machine']}, {raw.facts['threads']} threads"
)

# %% [markdown]
# ## The whole table
#
# **Baseline**: as published, the item side of every item is computed again on each call, and everything is held at once. **Scored**: the
# items whose full similarity was computed, of the mean query. **MB**: memory beyond the item state, index and call together.

# %%
columns = ["method", "p50 ms", "p95 ms", "× baseline", "recall", "relative HR", "scored", "MB"]
view = tables.shown(group)[columns]
record("searchers", view)
table(view)

# %%
fast = group[group["recall"] >= 0.99].nsmallest(1, "p50_ms").iloc[0]
record("fastest at recall .99 or more", fast["label"])
record("its speed-up over the baseline", fast["speed_up"], unit="×")

# %% [markdown]
# ## Recall against the true top 100
#
# **Overlap recall**: of the 100 best items by the similarity itself, how many were returned? (Ties count by score.) Right and low is
# best. A line joins the settings of one method; the area of a mark is its memory.

# %%
figures.frontier(group, "recall", "Latency against overlap")

# %% [markdown]
# ## Recall against what users did
#
# **Relative hit rate**: how often is the user's next item among the 100, compared with brute force? It is the measure of the
# published tables. It forgives every item that nobody was waiting for: a searcher may lose much of the true list and still
# score 1, and even more than 1 by luck. Compare the same marks in both figures before believing either.

# %%
figures.frontier(group, "relative_hr", "Latency against hit rate") if group[
    "relative_hr"
].notna().any() else "No labels here."

# %% [markdown]
# ## Proofs
#
# **Certified**: the searcher can prove that no other item belongs in the list. **In fact exact**: the list is the true one, proof
# or not. The first can never exceed the second (a false certificate would be a bug, and is counted). The distance between the two
# is what a better bound could still gain.

# %%
record("false certificates", int(everything["false_certificates"].sum()))
figures.proofs(group)

# %% [markdown]
# ## The least that is possible
#
# A **roofline**: the operations and bytes that each algorithm needs, divided by the best rates that were measured on this machine in the
# same run. Left of a mark's tick nobody can be with this algorithm; the way from the tick to the mark is what an implementation loses.

# %%
print(
    f"{raw.ceilings.operations / 1e9:,.0f} GFLOP/s in an fp32 matrix product, {raw.ceilings.bytes / 1e9:,.1f} GB/s copied"
)
figures.roofline_bars(group)

# %% [markdown]
# ## Beside what was published
#
# Table 5 of "Retrieval with Learned Similarities": milliseconds for a batch of 32 on an RTX 6000 Ada, hit rates relative to brute
# force. Other data, another machine: compare the *shape*. There too averaging is the fast choice and lists per component are the safe
# one. (One of its rows, on NQ320K, reports a relative hit rate of 1.00 at 100 with at most 80 candidates: it is no recall of a top 100.)

# %%
theirs = tables.published_searches("Amazon-Books", 100)
figures.frontier(theirs, "relative_hr", title="Published: Amazon Books, 695,762 items, k = 100")

# %%
theirs = tables.published_searches("ML-20M", 100)
figures.frontier(theirs, "relative_hr", title="Published: ML-20M, 27,278 items, k = 100")

# %% [markdown]
# ## What you have seen
#
# - "Recall" needs a definition: overlap with the true list, or hits on labels. The second is kinder.
# - A searcher that scores few items is fast only if it finds those few cheaply.
# - Proofs are rarer than truth: many lists are exact without anyone being able to say so.
#
# **To try.** `workbench bench search --preset sizes` measures the published corpora with random weights. Which methods lose their
# lead when the corpus has 695,762 items, and which gain it? Next: **10_scaling** asks how cost grows.
