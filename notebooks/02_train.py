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
# train retrievers that differ only in their similarity, a **dot product** or a **Mixture-of-Logits** (MoL), once with each of
# two encoders: embedding width, negatives and number of steps are the same.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %% [markdown]
# ## First, by hand
#
# At one position the item that came next scores 2; three negatives score 1, 0 and −1. The probability of the right item is
# its share of all exponentials, and the **loss** is the negative logarithm.

# %%
import torch

from workbench.course import check

positive, negatives = torch.tensor(2.0), torch.tensor([1.0, 0.0, -1.0])
probability = positive.exp() / (positive.exp() + negatives.exp().sum())
print(f"probability {probability:.3f}, loss {-probability.log():.3f}")

# %%
import pandas as pd
import torch.nn.functional as F

from workbench import data
from workbench.explore import figures, findings
from workbench.explore.tables import settings, table
from workbench.models.model_store import load_or_train
from workbench.reporting import record
from workbench.training.presets import lineup

# %%
sequences = data.load(dataset)
presets = lineup(profile, dataset)

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
# MoL compares $P_q \times P_x$ pairs of smaller vectors. A gate $\pi$ decides from the query, the item and, if it has a *pair*
# part, the products themselves how much each pair counts:
#
# $$\phi_\text{MoL}(q, x) = \sum_{p} \pi_p(q, x)\, \frac{1}{\tau} \left\langle f_{i(p)}(q), g_{j(p)}(x) \right\rangle,
# \qquad \pi_p \ge 0, \quad \sum_p \pi_p = 1 .$$

# %% [markdown]
# The settings of the encoders, by their names in the code:

# %%
parts = {m: preset.retriever.to_dict() for m, preset in presets.items()}
settings({m: part["encoder"] for m, part in parts.items()})

# %% [markdown]
# And of the mixture: *groups* are vectors, `gate_query`, `gate_item` and `gate_pair` the hidden units of the gate's parts.

# %%
settings({m: part["similarity"] for m, part in parts.items() if "MoL" in m})

# %% [markdown]
# ## The loss
#
# **Sampled softmax.** At each position the item that came next competes with negatives drawn uniformly from the whole
# catalogue:
#
# $$-\log \frac{e^{\phi(q, x^+)}}{e^{\phi(q, x^+)} + \sum_{x^-} e^{\phi(q, x^-)}} .$$
#
# A negative that happens to be the target is ignored. MoL adds a small term that keeps all components in use (the
# *mutual-information* balancing loss): without it, the gate may give all weight to a few of them.

# %%
training = pd.DataFrame({m: p.training.to_dict() | p.training.to_dict()["loss"] for m, p in presets.items()})
shown = ["epochs", "batch_size", "learning_rate", "negatives", "count", "positions_per_step"]
table(training.loc[shown].fillna("all").rename(index={"count": "negatives of a position"}))

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
    columns=["method", "best epoch", "validation NDCG@10", "seconds of training"],
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
# ## One row of attention, by hand
#
# What does the encoder read? The last item of a history attends to itself and to all items before
# it; the figure shows one user of *HSTU + dot*, the mean over heads. In HSTU the weight is not a softmax:
#
# $$A = \frac{1}{n}\, \mathrm{SiLU}\big(Q K^\top + b_\text{place} + b_\text{time}\big), \qquad
# \mathrm{out} = x + W_o \big(U \odot \mathrm{LN}(A V)\big), \qquad U, V, Q, K = \mathrm{SiLU}\big(\mathrm{LN}(x)\, W\big)$$
#
# with one learned number for each distance in place and each distance in time (on a logarithmic scale). A hook stores what
# the first block reads and returns.

# %%
encoder = (hstu := trained["HSTU + dot"].retriever()).encoder
block, seen = encoder.blocks[0], {}
batch = next(iter(data.Batches(sequences, "test", batch_size=1, max_length=encoder.max_length)))
hook = block.register_forward_hook(lambda _, given, out: seen.update(x=given[0], out=out))
hstu.query_state(batch)
hook.remove()

# %%
x, heads = seen["x"], block.heads  # (L, D)
widths = [heads * w for w in (block.v_dim, block.v_dim, block.qk_dim, block.qk_dim)]
u, *vqk = F.silu(F.layer_norm(x, x.shape[1:], eps=1e-6) @ block.project_in).split(widths, dim=1)
v, q, k = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in vqk)  # (heads, L, width)

times = batch.timestamps[0]
asked = torch.cat([times[1:], batch.target_timestamps]) if encoder.request_time else times
apart = (asked[:, None] - times).abs().clamp(min=1).float()
place, bucket = torch.arange(len(x)), (apart.log() / 0.301).long().clamp(max=128)
bias = block.bias.position[place - place[:, None] + block.bias.padded_length - 1] + block.bias.time[bucket]

# %%
attention = F.silu(q @ k.mT + bias).tril() / block.padded_length  # (heads, L, L)
read = (attention @ v).transpose(0, 1).flatten(1)
by_hand = x + block.project_out(u * F.layer_norm(read, read.shape[1:], eps=1e-6))
torch.testing.assert_close(by_hand, seen["out"], rtol=1e-3, atol=1e-4)

# %%
titles = sequences.items["title"].to_numpy()[batch.item_ids[0].numpy() - 1]
weight = attention[:, -1].mean(0).detach()
row = pd.DataFrame({"position": place + 1, "title": titles, "weight": weight})
figures.attention_row(row)

# %% [markdown]
# `assert_close` compares the block's output, computed by hand, with the library's. A weight can be negative (orange): SiLU does
# not force the row to be a distribution, and an item can count against another.

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
# ## Exercise
#
# Write the sampled softmax loss for any number of negatives.


# %%
def loss(positive, negatives):
    "The sampled softmax loss of one position: a number and a tensor of scores."


check("loss", loss)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def loss(positive, negatives):
#     scores = torch.cat([torch.tensor([positive]), negatives])
#     return -scores.log_softmax(0)[0]
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - One pass over a history gives a training example at every position.
# - The two similarities had the same encoder, width, negatives and steps; they differ in what they can express.
# - The best epoch is selected on validation targets, never on test targets.
#
# **To try.** Train with another `seed` and see how far the validation curves move: smaller differences are noise. Next:
# [03_compare_similarities](03_compare_similarities.ipynb) evaluates all of them on the test targets.
