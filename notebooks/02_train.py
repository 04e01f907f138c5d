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
# **Question.** What is learned, from what signal, and does the choice of similarity change how learning goes? You will train two
# retrievers that differ in one thing only, the similarity: a **dot product**, and a **Mixture-of-Logits** (MoL). Same encoder,
# same embedding width, same negatives, same number of steps.

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
# 2. An **encoder**, from the vectors of a history to a query $q$. It is causal: position $i$ sees items $1 \ldots i$ only, so one
#    pass over a sequence gives a query at *every* position, each with its own next item to predict.
# 3. A **similarity**. The dot product compares two vectors,
#
# $$\phi_\text{dot}(q, x) = \frac{1}{\tau} \left\langle \frac{q}{|q|}, \frac{x}{|x|} \right\rangle ,$$
#
# MoL compares $P_q \times P_x$ pairs of smaller vectors and lets a gate $\pi$, which sees query, item and the products themselves,
# decide how much each pair counts:
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
# A negative that happens to be the target is left out. MoL adds a small term that keeps all components in use: without it, the
# gate may give everything to a few of them (the *mutual-information* balancing loss).

# %%
settings = pd.DataFrame({m: p.training.to_dict() | p.training.to_dict()["loss"] for m, p in presets.items()})
shown = ["epochs", "batch_size", "learning_rate", "negatives", "count", "positions_per_step"]
table(settings.loc[shown].fillna("all"))

# %% [markdown]
# ## Training
#
# What was trained before with the same data, settings and seed is taken from `ckpts/`; what is missing is trained now. A
# training that is interrupted goes on where it stopped.

# %%
trained = {method: load_or_train(preset, sequences, seed=seed) for method, preset in presets.items()}

# %% [markdown]
# ## Watching it learn
#
# Left: the mean training loss of each epoch. Its *level* cannot be compared between similarities (each has its own scale of
# scores). Right: NDCG@10 on the **validation** targets over the whole catalogue, the number by which the best epoch is chosen.

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
# **To answer with the figure.** Hover the right panel, or click a name to leave out its line. Is MoL ahead from the start? What
# would you have concluded with half the epochs?
#
# <details><summary>An answer</summary>
#
# MoL has more to learn, and each of its epochs takes longer. On MovieLens 1M the dot product is ahead at first, with both encoders;
# MoL comes up in the last epochs only, and is still rising then; after half of them one would have called it the worse similarity.
# Equal numbers of epochs are one honest comparison, equal times another. What happened with these data stands below.
#
# </details>

# %%
findings.learning(history, [("SASRec + dot", "SASRec + MoL"), ("HSTU + dot", "HSTU + MoL")])

# %% [markdown]
# ## What does it cost?
#
# MoL has more to learn per pair, and its item side is larger; everything that depends on the item alone is computed once per
# corpus and kept.

# %%
sizes = {m: t.retriever() for m, t in trained.items()}
cost = pd.DataFrame(
    [
        (m, sum(p.numel() for p in r.parameters()), r.item_state().nbytes() / r.num_items)
        for m, r in sizes.items()
    ],
    columns=["method", "parameters", "bytes per item kept for search"],
)
record("cost", cost)
table(cost)

# %% [markdown]
# ## What you have seen
#
# - One pass over a history trains a query at every position.
# - The two similarities were given the same encoder, width, negatives and steps; what differs is what they can express.
# - The best epoch is chosen on validation targets, never on test.
#
# **To try.** Train with another `seed` and look how far the validation curves move: differences smaller than that are noise.
# Next: **03_compare_similarities** measures all of them on the test targets.
