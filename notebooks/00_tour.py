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
# # 00 · A tour: why a dot product is not enough
#
# A person has watched, read or bought some things, in an order. Of all the items there are, which comes next? A **retriever** answers
# by turning the history into a query $q$, scoring every item $x$ by a **similarity** $\phi(q, x)$, and returning the best $k$. Almost
# everybody takes $\phi$ to be a dot product, because the best $k$ of a dot product can be found fast. This workbench is about what one
# gives up by that, and about similarities that are learned and can still be searched.
#
# In five minutes you will see the data, two trained retrievers, and what each of them shows one user.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = 3

# %%
import pandas as pd

from workbench import data
from workbench.data import statistics
from workbench.explore import figures
from workbench.explore.tables import table
from workbench.reporting import record
from workbench.training.presets import lineup
from workbench.training.recommend import history, recommendations, score_matrix
from workbench.training.shelf import obtain

# %% [markdown]
# ## The data
#
# Interactions of users with items, in time order. **01_preprocess** looks at them closely.

# %%
sequences = data.load(dataset)
record("users", sequences.num_users)
record("items", sequences.num_items)
table(statistics.summary(sequences))

# %% [markdown]
# One user's last items, and the one that came next (marked in the last column). The next item is what we want to find, among all the others.

# %%
table(history(sequences, user))

# %% [markdown]
# ## Two retrievers
#
# The same encoder reads the history; only the similarity differs. The **dot product** compares one vector of each side. With vectors
# of width $D$, the matrix of all scores has rank $D$ at most: however it is trained, it cannot say more than $D$ independent things
# about which query goes with which item. **Mixture-of-Logits** (MoL) compares several smaller vectors of each side and lets a gate
# decide, for each pair, how much each comparison counts; the rank of its score matrix is not bounded by the width.
#
# They are taken from `ckpts/`, or trained now where they are missing (about a minute each on the embedded data).

# %%
presets = lineup(profile, dataset)
chosen = ["SASRec + dot", "SASRec + MoL"]
trained = {method: obtain(presets[method], sequences, seed=seed) for method in chosen}

# %%
results = pd.concat([t.metrics.assign(method=m) for m, t in trained.items()], ignore_index=True)
figures.metric_bars(results, ["HR@10", "HR@50", "NDCG@10", "MRR"])

# %%
for method, t in trained.items():
    record(f"NDCG@10, {method}", t.metrics.set_index("metric")["value"]["NDCG@10"])

# %% [markdown]
# HR@10 is the share of users whose next item is among the first ten, of the whole catalogue. How these numbers are measured, and how
# sure one can be of them, is the subject of **03_compare_similarities**.
#
# ## The same user, twice
#
# What the dot product would show:

# %%
table(recommendations(trained["SASRec + dot"].retriever(), sequences, user))

# %% [markdown]
# And what MoL would show:

# %%
table(recommendations(trained["SASRec + MoL"].retriever(), sequences, user))

# %% [markdown]
# ## Which score is it?
#
# The scores of the twenty most popular items for eight users, each row around its own mean. The rows of a low-rank score are mixtures
# of few patterns; a richer score can treat neighbours differently.

# %%
figures.score_heatmap(score_matrix(trained["SASRec + dot"].retriever(), sequences), "Dot product")

# %%
figures.score_heatmap(score_matrix(trained["SASRec + MoL"].retriever(), sequences), "Mixture-of-Logits")

# %% [markdown]
# ## Where to go from here
#
# | notebook | the question it answers |
# | --- | --- |
# | **01_preprocess** | What does a retriever read, and what is it asked? |
# | **02_train** | What is learned, from which signal, at what cost? |
# | **03_compare_similarities** | Does a learned similarity find better items, for whom, and how sure can we be? |
# | **04_universal_approximation** | What can a dot product of width *d* not say, and what does a mixture pay to say it? |
# | **05_mol_anatomy** | What is inside one score, and which parts of it does who use? |
# | **06_exact_topk** | Can the best *k* be proved without scoring everything? |
# | **07_recall_latency** | How fast can the best 100 be found, and what is lost by being faster? |
# | **08_sparcode** | How can an inverted index hold a learned interaction? |
# | **09_deep_retrieval** | Can the index itself be learned? |
# | **10_scaling** | What does a larger corpus cost, and what would a billion items need? |
#
# **To try.** Change `user` above and run the notebook again: for whom do the two lists agree, and for whom not? Then set
# `dataset = "ml-1m"` and `profile = "standard"` for real films (`workbench data prepare ml-1m --from FOLDER` first).
