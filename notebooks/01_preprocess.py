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
# **Question.** What does a retriever actually read, and what does it predict? Between a file of ratings and a training batch
# lie a few decisions, and each of them changes every number that follows. This notebook goes through them one by one and shows
# what the data then are: their size, the length of histories, the distribution of popularity, how they change over time, and
# what is held out.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %% [markdown]
# ## First, by hand
#
# Six rows, in the order in which somebody stored them. Sorted by time, each user's rows become one sequence; of rows with the
# same time, the one that was stored first stays first.

# %%
import pandas as pd

from workbench.course import check

rows = pd.DataFrame({"user": list("abbaab"), "item": list("pqrstu"), "time": [3, 5, 1, 2, 3, 5]})
by_hand = rows.sort_values("time", kind="stable").groupby("user")["item"].agg(list)
by_hand.to_dict()

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
# Every result in these notebooks is stored with the fingerprint of its data, printed below. A checkpoint is evaluated
# on data with the same users, the same items and the same order of each history; on other data there is an error.

# %%
print(f"fingerprint of {dataset}: {sequences.fingerprint()}")

# %% [markdown]
# ## How long is a history?
#
# A model reads at most the last 200 interactions of a user. The axis is logarithmic: in many
# datasets a few users have very long histories. Where a bin holds several lengths, its mean is shown.

# %%
lengths = statistics.length_distribution(sequences)
figures.sequence_lengths(lengths, longest=200)

# %% [markdown]
# ## Which items are popular?
#
# Items by popularity, on two logarithmic axes. The Gini index in the summary above expresses the same in one number: 0 means an
# equal share for every item, 1 means that a single item gets everything. A retriever that always returned the head of this
# curve would look better than it is, so every later comparison is also split by popularity.

# %%
popularity = statistics.popularity(sequences)
figures.popularity_curve(popularity)

# %%
head = popularity[["rank", "title", "interactions", "interaction_share"]].head(8)
table(head.rename(columns={"interaction_share": "share of all, up to here"}))

# %% [markdown]
# ## Change over time
#
# Interactions per month, with the users and items seen for the first time. If new items keep arriving, a split by user (below)
# lets a model see items "from the future" through other users; if everything starts at once, it hardly matters.

# %%
figures.activity(statistics.over_time(sequences))

# %% [markdown]
# ## Does the order carry information?
#
# If most interactions have the same timestamp as the previous one, their order is that of a web page rather than of time. And
# if users return to items, excluding a user's history from the candidates makes some targets impossible to find.

# %%
repeats = statistics.repeats(sequences)
record("repeats", repeats)
table(repeats)

# %% [markdown]
# **To answer with a parameter.** What do you expect for films that are rated on a web page? Set `dataset = "ml-1m"` and look.
#
# <details><summary>An answer</summary>
#
# In MovieLens 1M a third of all ratings have the same second as the previous one, as if a page of films were rated at once, so
# much of the order means little; and nobody rates a film twice. If users do return to items, some test items are already in the
# history, and a retriever that excludes the history must miss them. The numbers for this dataset are printed below.
#
# </details>

# %%
findings.order_in_time(repeats)

# %% [markdown]
# ## What kinds of items are there?
#
# The twelve most frequent genres, if the items have any. An item may have several, so that the shares add up to more than one.

# %%
genres = statistics.genre_shares(sequences).head(12)
table(genres) if has_genres(sequences) else f"The items of {dataset} have no genres."

# %% [markdown]
# ## What is held out
#
# **Leave-one-out**: the last interaction of each user is the *test* target, the one before it is the *validation* target, and
# everything earlier is training data. Users with fewer than three interactions have no training interactions left.

# %%
for part in ("train", "validation", "test"):
    record(f"users with a {part} target", len(sequences.users_with(part)))
    print(f"{part:>10}: {len(sequences.users_with(part)):,} users")

# %% [markdown]
# A batch is a matrix of item ids, oldest first, here of at most eight places; a shorter history is padded on the right with 0.
# `length` is the number of items in a row, `target` the item to predict.

# %%
batches = data.Batches(sequences, "test", batch_size=4, max_length=8)
batch = next(iter(batches), None)
if batch:
    frame = pd.DataFrame(
        batch.item_ids.numpy(), columns=[f"place {n}" for n in range(1, batch.item_ids.shape[1] + 1)]
    )
    frame = frame.assign(length=batch.lengths.numpy(), target=batch.target_ids.numpy())
table(frame.astype(str)) if batch else f"No user of {dataset} has a test target."

# %% [markdown]
# The same by hand, for the first row: the user's last item is the target, and the items before it are the history, of which
# the model reads the last eight here.

# %%
if batch:
    user = int(batch.user_ids[0])
    own = sequences.item_ids[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()
    assert batch.target_ids[0] == own[-1]
    assert batch.item_ids[0, : batch.lengths[0]].tolist() == own[:-1][-8:]

# %% [markdown]
# ## Exercise
#
# Which two items of a user are held out? `items` (n,) are in the order in which they were stored, and `times` (n,) says when
# each was chosen.


# %%
def held_out(items, times):
    "The validation item and the test item of one user, as a tensor (2,)."


check("split", held_out)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def held_out(items, times):
#     return items[times.argsort(stable=True)][-2:]
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - Raw rows become one time-ordered sequence per user; rows with equal timestamps keep the order of the source.
# - Popularity is uneven, and in many datasets so are the lengths of histories: averages then describe few users or items.
# - The last two interactions of each user are never used for training.
#
# **To try.** Set `dataset` to one that you prepared yourself (`workbench data list` shows them), and compare the Gini index and
# the share of interactions within the same second. Next: [02_train](02_train.ipynb) turns these sequences into a retriever.
