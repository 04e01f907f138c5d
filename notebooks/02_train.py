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
# # 02 · Training a retriever
#
# **Question.** What is learned, from which signal, and does the choice of similarity change how training proceeds? You will
# train two retrievers that differ only in their similarity: a **dot product** and a **Mixture-of-Logits** (MoL). They share the
# encoder, embedding width, negatives and number of steps.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %%
import pandas as pd

from workbench import data
from workbench.explore import figures, findings
from workbench.explore.tables import table
from workbench.models.model_store import load_or_train
from workbench.reporting import record
from workbench.training.presets import lineup

# %%
sequences = data.load(dataset)
presets = lineup(profile, dataset)
table(pd.DataFrame({method: preset.retriever.to_dict()["encoder"] for method, preset in presets.items()}))

# %% [markdown]
# ## Three parts
#
# 1. An **item table**: one learned vector of width $D$ per item.
# 2. An **encoder** that maps the vectors of a history to a query $q$. It is causal: position $i$ sees only items $1 \ldots i$,
#    so one pass over a sequence gives a query at *every* position, each with its own next item to predict.
# 3. A **similarity**. The dot product compares two vectors,
#
# $$\phi_\text{dot}(q, x) = \frac{1}{\tau} \left\langle \frac{q}{|q|}, \frac{x}{|x|} \right\rangle ,$$
#
# MoL compares $P_q \times P_x$ pairs of smaller vectors. A gate $\pi$, which sees the query, the item and the products
# themselves, decides how much each pair counts:
#
# $$\phi_\text{MoL}(q, x) = \sum_{p} \pi_p(q, x)\, \frac{1}{\tau} \left\langle f_{i(p)}(q), g_{j(p)}(x) \right\rangle,
# \qquad \pi_p \ge 0, \quad \sum_p \pi_p = 1 .$$

# %%
table(
    pd.DataFrame({m: p.retriever.to_dict()["similarity"] for m, p in presets.items() if "MoL" in m}).drop(
        "kind"
    )
)

# %% [markdown]
# ## The loss
#
# **Sampled softmax.** At each position the item that came next competes with negatives drawn uniformly from the whole catalogue:
#
# $$-\log \frac{e^{\phi(q, x^+)}}{e^{\phi(q, x^+)} + \sum_{x^-} e^{\phi(q, x^-)}} .$$
#
# A negative that happens to be the target is ignored. MoL adds a small term that keeps all components in use (the
# *mutual-information* balancing loss): without it, the gate may give all weight to a few of them.

# %%
settings = pd.DataFrame({m: p.training.to_dict() | p.training.to_dict()["loss"] for m, p in presets.items()})
shown = ["epochs", "batch_size", "learning_rate", "negatives", "count", "positions_per_step"]
table(settings.loc[shown].fillna("all"))

# %% [markdown]
# ## Training
#
# Models that were already trained with the same data, settings and seed are loaded from `ckpts/`; missing ones are trained now.
# An interrupted training resumes from its last checkpoint.

# %%
trained = {method: load_or_train(preset, sequences, seed=seed) for method, preset in presets.items()}

# %% [markdown]
# ## Learning curves
#
# Left: the mean training loss of each epoch. Its *level* cannot be compared between similarities, since each has its own scale
# of scores. Right: NDCG@10 on the **validation** targets over the whole catalogue, which selects the best epoch.

# %%
history = pd.concat([t.history.assign(run=method) for method, t in trained.items()])
figures.training_curves(history)

# %%
outcome = pd.DataFrame(
    [
        (m, t.metadata["best_epoch"], t.metadata["best"]["NDCG@10"], t.history["seconds"].sum())
        for m, t in trained.items()
    ],
    columns=["method", "best epoch", "validation NDCG@10", "seconds"],
)
record("training", outcome)
table(outcome)

# %% [markdown]
# **To answer with the figure.** Hover over the right panel, or click a name to hide its line. Is MoL ahead from the start? What
# would you have concluded after half the epochs?
#
# <details><summary>An answer</summary>
#
# MoL has more to learn, and each of its epochs takes longer. On MovieLens 1M the dot product is ahead at first, with both
# encoders; MoL catches up only in the last epochs and is still improving at the end, so after half of them it would look like
# the worse similarity. An equal number of epochs is one fair comparison, equal training time is another. What happened on this
# dataset is printed below.
#
# </details>

# %%
findings.learning(history, [("SASRec + dot", "SASRec + MoL"), ("HSTU + dot", "HSTU + MoL")])

# %% [markdown]
# ## What does it cost?
#
# MoL computes more per pair, and its item side is larger; everything that depends on the item alone is computed once per corpus
# and cached.

# %%
sizes = {m: t.retriever() for m, t in trained.items()}
cost = pd.DataFrame(
    [
        (m, sum(p.numel() for p in r.parameters()), r.item_state().nbytes() / r.num_items)
        for m, r in sizes.items()
    ],
    columns=["method", "parameters", "bytes per item stored for search"],
)
record("cost", cost)
table(cost)

# %% [markdown]
# ## What you have seen
#
# - One pass over a history gives a training example at every position.
# - The two similarities had the same encoder, width, negatives and steps; they differ in what they can express.
# - The best epoch is selected on validation targets, never on test targets.
#
# **To try.** Train with another `seed` and see how far the validation curves move: smaller differences are noise. Next:
# **03_compare_similarities** evaluates all of them on the test targets.
