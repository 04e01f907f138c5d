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
# # 06 · Exact top-k with a proof
#
# **Question.** A Mixture-of-Logits score is not an inner product, so an index for inner products cannot find its best items.
# Must every item be scored? You will see an upper bound that follows from the component scores alone, **which items it rules
# out** for one query, when a few short lists **prove** that nothing was missed, and how both depend on how concentrated the
# gate is.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
query = 0
view = ""

# %% [markdown]
# ## First, by hand
#
# A thousand pairs, each with four component scores and random weights. The mixture is never above its largest component: the
# difference is never negative.

# %%
import torch

from workbench.course import check

drawn = torch.Generator().manual_seed(0)
s = 5 * torch.randn(1000, 4, generator=drawn)
pi = torch.randn(1000, 4, generator=drawn).softmax(1)
slack = s.amax(1) - (pi * s).sum(1)
print(f"largest component less mixture: {slack.min():.2f} at least, {slack.mean():.2f} on average")

# %%
import pandas as pd

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
# A trained HSTU + MoL retriever. The queries come from real users' histories, whose items are excluded from the answers.

# %%
sequences = data.load(dataset)
trained = load_or_train(lineup(profile, dataset)["HSTU + MoL"], sequences, seed=seed)
workload = build(Trained(str(trained.folder)), 32 if profile == "quick" else 128, seed, torch.device("cpu"))
k = min(10 if profile == "quick" else 100, workload.findable)
listed = min(50, workload.findable)
titles = sequences.items["title"].set_axis(range(1, sequences.num_items + 1))

# %% [markdown]
# ## Why there is a bound
#
# The score mixes component scores with weights that are positive and sum to one,
#
# $$\phi(q, x) = \sum_p \pi_p(q, x)\, s_p(q, x), \qquad \pi_p \ge 0, \quad \sum_p \pi_p = 1
# \quad\Longrightarrow\quad \phi(q, x) \le \max_p s_p(q, x),$$
#
# and each $s_p$ **is** an inner product. Let $S_K$ be the $K$-th best score among the items scored so far. An item whose
# largest component score is below $S_K$ cannot be among the best $K$, whatever its gate weights are, so its gate need not be
# computed.

# %%
one = one_query(workload, query, k, n1=listed)
figures.bound_and_score(one.items, one.s_k, titles)

# %% [markdown]
# The points, **by hand**: all component scores of this query, the largest for each item, and the score. No score is above its
# bound, and the library's bounds are the same.

# %%
state, corpus = workload.alone(query)
s = torch.einsum("id,njd->nij", state.components[0], corpus.components).flatten(1)  # (N, P)
bound, score = s.amax(1), workload.similarity.score(state, corpus)[0]
assert (score <= bound + 1e-4).all()
torch.testing.assert_close(bound, torch.tensor(one.items["bound"].to_numpy()), rtol=1e-4, atol=1e-4)

# %% [markdown]
# No point lies above the diagonal: that is the inequality. Every item to the left of $S_K$ is **ruled out** without computing
# its gate. The items to the right must be scored, and most of them turn out not to be in the top $K$: the gap shows how loose
# the bound is.

# %%
counts = one.items["outcome"].value_counts()
left = counts.get("top k", 0) + counts.get("survives", 0)
record(f"items that must be scored for query {query}, of {len(one.items):,}", int(left))
print(f"{left:,} of {len(one.items):,} items must be scored to be sure of the best {k}")

# %% [markdown]
# ## Lists that prove the answer
#
# Alternatively, take the $N_1$ best items of **each component** (inner products, so any index will do) and score these
# candidates. An item in none of the lists has $s_p \le t_p$ for every $p$, where $t_p$ is the score at the end of list $p$;
# therefore
#
# $$S_K \ge \max_p t_p \quad\Longrightarrow\quad \text{the best } K \text{ candidates are the best } K \text{ of all.}$$
#
# Otherwise the true $K$-th score exceeds $S_K$ by at most the difference. The thick part of each line is the component's list.

# %%
figures.component_lists(one.lists, one.s_k, one.outside)

# %%
verdict = "proved" if one.s_k >= one.outside else f"not proved, off by {one.outside - one.s_k:.2f} at most"
print(f"best {k} {verdict}: S_K = {one.s_k:.2f}, and no item outside the lists is above {one.outside:.2f}")

# %% [markdown]
# ## Try it
#
# Both figures at once, for any query. The title shows whether the lists prove that nothing was missed, and how many items the
# bound leaves.

# %%
Proof(workload, titles, query, k, n1=listed).at(view)

# %% [markdown]
# **To answer with the controls.** Longer lists raise $S_K$ and lower the orange line. Which of the two matters more for the
# proof? And which of them changes what is ruled out on the left?
#
# <details><summary>An answer</summary>
#
# The orange line. $S_K$ rises only until the lists contain the best *k*, which happens early; from then on only the orange line
# still has to fall to it. What is ruled out on the left depends on $S_K$ alone, so it no longer changes either. With *gate ×*
# the orange line and all bounds stay where they are, because they do not depend on the gate: only the scores move, and $S_K$
# with them.
#
# </details>
#
# ## Certified, and matching brute force
#
# Now for all queries. **Certified** is the share of queries whose answer the bound proves; **matching brute force** is the
# share whose answer is the true one. The first can never exceed the second. Multiplying the gate's logits makes the gate of the
# same model sharper or flatter: at $\times 0$ all weights are equal, and the score is an average of inner products. (Where
# lines coincide, the thicker ones lie below.)

# %%
lengths = [10, 30, 100, 300, 1000]
shares = proof_shares(
    workload, [n for n in lengths if 2 * n <= sequences.num_items], (0.0, 0.5, 1.0, 2.0, 8.0), k
)
record("proofs", shares)
figures.proofs_by_n1(shares)

# %%
as_trained = shares[shares["factor"] == 1.0]
longest = as_trained.iloc[-1]
record(f"certified with lists of {longest['n1']:,.0f}", round(100 * longest["certified"]), unit="%")
shares_of = ["certified", "matches_brute_force"]
shown = as_trained[["n1", "candidates", "gap"]].join((100 * as_trained[shares_of]).round().add_suffix(",_%"))
table(shown.rename(columns={"n1": "N₁", "gap": "median_gap"}), digits=3)

# %% [markdown]
# The table is that of the gate as trained, with the mean number of candidates. The gap of a query is how far its $K$-th score
# can be off at most.

# %%
findings.proofs(shares)

# %% [markdown]
# If many more lists match brute force than are certified, they are correct long before that can be proved. The bound is the
# score of a gate that puts all weight on the **largest** component. A flat gate averages, and an average lies well below its
# largest term. A sharp gate helps only if it favours the largest component, and a trained gate often prefers another one: it
# has learned which component scores to trust.
#
# ## What exact search costs
#
# Exact search first scores good candidates (the best by the *average* component), then only the items that the bound does not
# rule out. Whether this pays depends on the share that remains: it is estimated on a sample before every search, and if it is
# too large, all items are scored at once.

# %%
figures.survivors_by_sharpness(shares)

# %%
trained_gate = shares.drop_duplicates("factor").set_index("factor").loc[1.0]
record("share of the corpus that exact search scores", round(100 * trained_gate["surviving"]), unit="%")
parts = workload.similarity.config.components
record(f"components in use per item of the top k, of {parts}", round(trained_gate["components"], 2))

# %% [markdown]
# ## Would a tighter bound help?
#
# The share of the corpus that each bound leaves, for the trained gate, if the true $K$-th score is the threshold. (What exact
# search scores, above, is not the same: it counts the candidates, begins with their lower $S_K$, and excludes histories.) If
# the gate has a part that reads the component scores of the pair, the table has rows for it. Rows marked as an *oracle* assume
# something as known that a search would have to compute first: they show how good a bound of their kind could be at best. The
# last one is the top $K$ itself.

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
percent = bounds.assign(**{"share left": 100 * bounds["share left"]})
table(percent.rename(columns={"share left": "% of the corpus left"}), digits=3)

# %% [markdown]
# Compare two things: the cost of storing components at lower precision, and whether clusters of items are narrow enough to rule
# anything out. If the gate reads the pair, compare also how accurately that part must be known: on a GPU a gate in bfloat16 is
# cheap, and its rounding error can be bounded.

# %%
findings.bounds(bounds)

# %% [markdown]
# ## Exercise
#
# Some candidates were scored, and the lists that they came from end at the scores `ends`. Is the answer proved?


# %%
def proved(found, k, ends):
    "Whether the best k of the scores found (C,) are the best of all items, given the ends of the lists (P,)."


check("proof", proved)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def proved(found, k, ends):
#     s_k = found.sort(descending=True).values[k - 1]
#     return bool(s_k >= ends.max())
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - Weights that are positive and sum to one bound the score by its largest component: exact search without scoring every item.
# - A proof needs $S_K$ to be at least the bound of everything outside the lists. Rounding is part of it: the searchers add the
#   error of every stored and computed number to the bound, so that no certificate is false.
# - How much is ruled out is a property of the **trained gate**, not of the method. Always measure it.
#
# **To try.** Change `query` and find a user whose search is proved with short lists, and one for whom half of the corpus
# remains. Look at both in **05_mol_anatomy**: how do their gates differ? **07_recall_latency** shows what this means in
# milliseconds.
#
# Source: *Retrieval with Learned Similarities* (arXiv 2407.15462), Algorithms 1 and 2 and Theorems 2 and 3; using the threshold
# $S_K$ in place of the smallest score found is our change.
