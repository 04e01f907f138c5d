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
# # 06 · The best k, with a proof
#
# **Question.** A Mixture-of-Logits score is no inner product, so no index for inner products finds its best items. Must every
# item be scored? You will see a bound that follows from the component scores alone, **which items it rules out** for one query, when a
# few short lists **prove** that nothing was missed, and how both depend on how decided the gate is.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
query = 0

# %%
import pandas as pd
import torch

from workbench import data
from workbench.bench.workloads import Trained, build
from workbench.explore import findings
from workbench.explore import proof_figures as figures
from workbench.explore.proof_widget import Proof
from workbench.explore.tables import table
from workbench.models.model_store import load_or_train
from workbench.reporting import record
from workbench.runtime import generator
from workbench.search.pruning import pruning
from workbench.studies.proofs import one_query, proof_shares
from workbench.training.presets import lineup

# %% [markdown]
# A trained HSTU + MoL retriever; real users ask for what comes after their histories, which are left out of the answers.

# %%
sequences = data.load(dataset)
trained = load_or_train(lineup(profile, dataset)["HSTU + MoL"], sequences, seed=seed)
workload = build(Trained(str(trained.folder)), 32 if profile == "quick" else 128, seed, torch.device("cpu"))
k = min(10 if profile == "quick" else 100, workload.findable)
listed = min(50, workload.findable)
titles = sequences.items["title"].set_axis(range(1, sequences.num_items + 1))

# %% [markdown]
# ## Why there is a bound at all
#
# The score mixes component scores with weights that are positive and sum to one,
#
# $$\phi(q, x) = \sum_p \pi_p(q, x)\, s_p(q, x), \qquad \pi_p \ge 0, \quad \sum_p \pi_p = 1
# \quad\Longrightarrow\quad \phi(q, x) \le \max_p s_p(q, x),$$
#
# and each $s_p$ **is** an inner product. Let $S_K$ be the $K$-th best score among any items that we have looked at. An item whose
# largest component score is below $S_K$ cannot be among the best $K$, whatever its gate says: its gate need not be computed.

# %%
one = one_query(workload, query, k, count=listed)
figures.bound_and_score(one.items, one.s_k, titles)

# %% [markdown]
# No point lies above the diagonal: that is the inequality. Everything left of $S_K$ is **ruled out** without its gate. What remains
# on the right must be scored, and most of it turns out not to belong to the best: that is how loose the bound is.

# %%
counts = one.items["outcome"].value_counts()
left = counts.get("top k", 0) + counts.get("survives", 0)
record("items that must be scored for this query", left / len(one.items) * 100, unit="%")
print(f"{left:,} of {len(one.items):,} items must be scored to be sure of the best {k}")

# %% [markdown]
# ## Lists that prove
#
# One can also begin at the other end: take the $N_1$ best items of **each component** (inner products, so any index will do) and
# score these candidates. An item in no list has $s_p \le t_p$ for every $p$, where $t_p$ is the score at the end of list $p$; so
#
# $$S_K \ge \max_p t_p \quad\Longrightarrow\quad \text{the best } K \text{ candidates are the best } K \text{ of all.}$$
#
# Otherwise the true $K$-th score exceeds $S_K$ by at most the difference. Strong lines are the lists.

# %%
figures.component_lists(one.lists, one.s_k, one.outside)

# %%
print("proved" if one.s_k >= one.outside else f"no proof: off by at most {one.outside - one.s_k:.2f}")

# %% [markdown]
# ## Try it
#
# Both pictures at once, for any query. The line on top says whether the lists prove that nothing was missed, and how many items the bound
# leaves.

# %%
Proof(workload, titles, query, k, count=listed)

# %% [markdown]
# **To answer with the controls.** Longer lists raise $S_K$ and lower the red line. Which of the two does most for the proof? And which
# of them changes what is ruled out on the left?
#
# <details><summary>An answer</summary>
#
# The red line. $S_K$ rises only until the lists hold the best *k*, which is early, and stays there; from then on it is the red line that has to
# come down to it. What is ruled out on the left depends on $S_K$ alone, so it no longer changes either. With *gate ×* the red line
# and all bounds stay where they are, for they know nothing of the gate: only the scores move, and $S_K$ with them.
#
# </details>
#
# ## Proved, and actually exact
#
# Now all queries. **Certified** is what the bound proves; **actually exact** is what a brute-force search confirms. The first can never
# exceed the second. The gate of the same model is made sharper and flatter by multiplying what enters its softmax: at $\times 0$ all
# weights are equal, and the score is an average of inner products.

# %%
lengths = [10, 30, 100, 300, 1000]
shares = proof_shares(
    workload, [n for n in lengths if 2 * n <= sequences.num_items], (0.0, 0.5, 1.0, 2.0, 8.0), k
)
record("proofs", shares)
figures.proofs_by_count(shares)

# %%
asked = shares[shares["factor"] == 1.0]
record("certified at the longest lists", 100 * asked["certified"].iloc[-1], unit="%")
table(asked.drop(columns=["factor", "components", "surviving"]))

# %%
findings.proofs(shares)

# %% [markdown]
# Where the first share is far above the second, lists are right long before they are proved right. The bound is what a gate would give that puts all weight on the **largest**
# component. A flat gate averages, and an average lies well below its largest term; a sharp gate helps only where it favours the
# largest component, and a trained gate often prefers another one: large component scores are cheap, and the gate has learned which
# of them to believe.
#
# ## What exact search costs
#
# Exact search takes good candidates first (the best by the *average* component), then scores only what the bound leaves. The share
# that is left decides whether this pays: it is measured on a sample before every search, and where too much would be left, all
# items are scored at once.

# %%
figures.survivors_by_sharpness(shares)

# %%
trained_gate = shares.drop_duplicates("factor").set_index("factor").loc[1.0]
record("share scored by exact search", 100 * trained_gate["surviving"], unit="%")
record("components in use", trained_gate["components"])

# %% [markdown]
# ## Would a tighter bound help?
#
# The share of the corpus that each bound leaves, for the trained gate. Bounds marked as an *oracle* take parts of the gate for known
# that a search would have to compute first: they say how good any bound of their kind could be. The last row is the best $K$ itself.

# %%
bounds = pd.DataFrame(
    [
        (name, float(share.mean()), oracle)
        for name, share, oracle in pruning(
            workload.similarity, workload.queries[:32], workload.items, k, generator(seed)
        )
    ],
    columns=["bound", "share left", "oracle"],
)
record("bounds", bounds)
table(bounds)

# %% [markdown]
# Compare three things: what it costs to keep components in less memory; whether clusters of items are narrow enough to rule anything
# out; and how well the gate must be known. On a GPU a gate in bfloat16 is cheap, and its rounding can be bounded.

# %%
findings.bounds(bounds)

# %% [markdown]
# ## What you have seen
#
# - Weights that are positive and sum to one bound the score by its largest component: exact search without scoring everything.
# - A proof needs $S_K$ above everything outside the lists. Rounding is part of it: the searchers add the error of every stored and
#   computed number to the bound, so that no certificate is false.
# - How much is ruled out is a property of the **trained gate**, not of the method. Always measure it.
#
# **To try.** Change `query` and find a user whose search is proved with short lists, and one where half of the corpus survives. Look
# at both in **05_mol_anatomy**: how do their gates differ? **07_recall_latency** shows what all of this means in milliseconds.
#
# Source: *Retrieval with Learned Similarities* (arXiv 2407.15462), Algorithms 1 and 2 and Theorems 2 and 3; the threshold $S_K$ in the
# place of the smallest score found is ours.
