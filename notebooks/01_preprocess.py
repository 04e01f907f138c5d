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
# # 01 · From ratings to sequences
#
# **Question.** What does a retriever actually read, and what is it asked? Between a file of ratings and a training batch lie a
# handful of decisions, each of which changes every number that follows. Here you see each of them, and what it does to the
# data: counts after each step, how long histories are, how popularity is spread, how the data move in time, and what is held out.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %%
from workbench import data
from workbench.data import statistics
from workbench.data.examples import has_genres
from workbench.explore import figures, findings
from workbench.explore.tables import table
from workbench.reporting import record

# %% [markdown]
# ## One table, one order
#
# Interactions are rows *(user, item, time)*, sometimes with a rating. Preparation sorts each user's rows by time, with a
# **stable** sort: rows of the same second keep the order of the file. Users become the numbers $0 \ldots U-1$, items
# $1 \ldots N$, and $0$ means "no item here".

# %%
sequences = data.load(dataset)
summary = statistics.summary(sequences)
table(summary)

# %%
record("users", sequences.num_users)
record("items", sequences.num_items)
record("interactions", len(sequences.item_ids))
record("summary", summary)

# %% [markdown]
# Every result in these notebooks carries this fingerprint. A checkpoint that was trained on other data refuses to be measured on
# these.

# %%
print(sequences.fingerprint())

# %% [markdown]
# ## How long is a history?
#
# A model reads the last 200 interactions of a user at most. The axis is logarithmic: a few users are very long.

# %%
lengths = statistics.length_distribution(sequences)
figures.sequence_lengths(lengths, longest=200)

# %% [markdown]
# ## Who gets the attention?
#
# Items by popularity, both axes logarithmic. The Gini index in the summary above says the same in one number: 0 would be an
# equal share for every item, 1 everything to a single one. A retriever that always returned the head of this curve would look
# better than it is; that is why every comparison later is also split by popularity.

# %%
popularity = statistics.popularity(sequences)
figures.popularity_curve(popularity)

# %%
head = popularity[["rank", "title", "interactions", "interaction_share"]].head(8)
table(head.rename(columns={"interaction_share": "share of all, up to here"}))

# %% [markdown]
# ## The world moves
#
# Interactions per month, with the users and items that are seen for the first time. Where new items keep arriving, a split by
# user (below) lets a model see items "from the future" of other users; where everything starts at once, it hardly matters.

# %%
figures.activity(statistics.over_time(sequences))

# %% [markdown]
# ## Does order mean anything?
#
# If most interactions fall in the same second as the one before, their order is the order of a web page, not of a life.
# And if users return to items, leaving a user's history out of the candidates makes some targets impossible to hit.

# %%
repeats = statistics.repeats(sequences)
record("repeats", repeats)
table(repeats)

# %% [markdown]
# **To answer with a parameter.** What would you expect of films that are rated on a web page? Set `dataset = "ml-1m"` and look.
#
# <details><summary>An answer</summary>
#
# In MovieLens 1M a third of all ratings come in the same second as the one before, as when a page of films is rated at once, so that
# a good part of the order means little; and nobody rates a film twice. Where users do meet items again, some test items are in the
# history already, and a retriever that leaves out the history must miss them. The figures of these data stand below.
#
# </details>

# %%
findings.order_in_time(repeats)

# %% [markdown]
# ## What kinds of items are there?

# %%
genres = statistics.genre_shares(sequences).head(12)
table(genres) if has_genres(sequences) else f"The items of {dataset} have no genres."

# %% [markdown]
# ## What is held out
#
# **Leave-one-out**: the last interaction of each user is the *test* target, the one before it the *validation* target,
# everything earlier is for training. Users with fewer than three interactions have nothing left to learn from.

# %%
for part in ("train", "validation", "test"):
    record(f"users with a {part} target", len(sequences.users_with(part)))
    print(f"{part:>10}: {len(sequences.users_with(part)):,} users")

# %% [markdown]
# A batch is a grid of item ids, oldest first, padded on the right with 0; `lengths` says where each row ends.

# %%
batches = data.Batches(sequences, "test", batch_size=4, max_length=8)
batch = next(iter(batches), None)
(batch.item_ids, batch.lengths, batch.target_ids) if batch else f"No user of {dataset} came twice."

# %% [markdown]
# ## What you have seen
#
# - Raw rows become one time-ordered sequence per user; ties in time keep the order of the source.
# - Histories and popularity are both heavy-tailed: averages describe nobody.
# - The last two interactions of each user are never trained on.
#
# **To try.** Set `dataset` to one that you prepared yourself (`workbench data list` names them), and compare the Gini
# index and the share of interactions within the same second. Next: **02_train** turns these sequences into a retriever.
