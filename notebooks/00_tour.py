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
#   workbench:
#     slides: true
# ---

# %% [markdown]
# # 00 · A tour: from a dot product to exact top-k with a proof
#
# A person has watched, read or bought some items, in some order. Which of all items comes next? A **retriever** turns the
# history into a query $q$, scores every item $x$ with a **similarity** $\phi(q, x)$, and returns the best $k$.
#
# You know matrix factorisation: one vector per user, one vector per item, and
# $\phi(q, x) = \langle q, x \rangle = \sum_{i=1}^{d} q_i x_i$. Most systems stop there, because the best $k$ items under a dot
# product can be found fast. This workbench shows what a dot product gives up, how similarities can be *learned* instead, and
# how a learned similarity can still be searched.
#
# Ten stations preview ten of the notebooks that follow, in about three minutes each. Each station has one control and one
# **question**: move the control until you know the answer, then unfold ours. (On a report page a control takes the values
# that were computed for it; `workbench lab` opens the tour with a live kernel, where it takes any.)

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = -1
view = ""

# %% [markdown]
# ## First, by hand
#
# Two numbers describe each item, two the query. The **dot product** multiplies and adds them up; the item with the largest
# result comes first.

# %%
import torch

from workbench.course import check

q = torch.tensor([2.0, 1.0])
items = torch.tensor([[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]])
scores = items @ q
{"scores": scores.tolist(), "best first": scores.argsort(descending=True).tolist()}

# %% [markdown]
# Everything that follows replaces one part of these three lines: where $q$ comes from, what `@` is, and how `argsort` can be
# avoided when there are millions of items. (`check` is for the exercise at the end; there is one in each notebook.)

# %%
import pandas as pd

from workbench import anatomy, data
from workbench.bench.workloads import Trained, build
from workbench.explore import findings
from workbench.explore.anatomy_widgets import ScoreAnatomy, SideBySide
from workbench.explore.approximation_widget import Widths
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import CurveExplorer
from workbench.explore.proof_widget import Proof
from workbench.explore.tables import table
from workbench.explore.widgets import MetricExplorer
from workbench.models.model_store import load_or_train
from workbench.models.recommend import history
from workbench.reporting import record
from workbench.studies import tour_experiments
from workbench.studies.proofs import proof_shares
from workbench.theory import targets
from workbench.theory.fitting import FitConfig, fitted
from workbench.training.presets import lineup

# %% [markdown]
# Four retrievers (two encoders, each with two similarities) are loaded from `ckpts/`, or trained if they are missing (about a
# minute each on the embedded data).

# %%
sequences = data.load(dataset)
trained = {m: load_or_train(preset, sequences, seed=seed) for m, preset in lineup(profile, dataset).items()}
subjects = {
    m: anatomy.ModelView.of(m, trained[m].retriever(), sequences) for m in ("HSTU + dot", "HSTU + MoL")
}
dot, mol = subjects.values()

# %% [markdown]
# ## 1 · The task
#
# The data are rows *(user, item, time)*. The last item of each user is held out: it is the **test item** that a retriever has
# to find among all others. Here is one history; the marked row is what came next.

# %%
user = anatomy.illustrative_user(dot, mol) if user < 0 else user
table(history(sequences, user))

# %% [markdown]
# The simplest retriever shows everybody the same list: the most popular items. How good is that?

# %%
popular = tour_experiments.popular_first(sequences)
axes = Axes("items in the list, most popular first", "share covered", unit="items", share=True)
CurveExplorer("One list for everybody", popular, axes, "items", "Length of the list", start=10).at(view)

# %% [markdown]
# **Question.** How long must that list be to contain *half* of the users' next items?
#
# <details><summary>An answer</summary>
#
# Find the point where the curve of next items crosses one half: it takes a sizeable share of the whole catalogue, and the first
# ten items cover little. This is the score to beat. The numbers for this dataset are printed below.
#
# </details>

# %%
findings.popular_list(popular, sequences.num_items)

# %% [markdown]
# The full pipeline, from a file of ratings to batches: [01_preprocess](01_preprocess.ipynb).

# %%
shares = popular[popular["curve"] == "of the users' next items"].set_index("x")["y"]
record("HR@10 of the most popular items", shares.loc[10])

# %% [markdown]
# ## 2 · What is learned
#
# An **encoder** (SASRec, arXiv 1808.09781; HSTU, arXiv 2402.17152) reads the history; its output is the query. Item vectors,
# encoder and similarity are trained together: at each position of a history, the item that came next, $x^+$, must score higher
# than some **negatives** $x^-$ that are sampled at random,
#
# $$-\log \frac{e^{\phi(q, x^+)}}{e^{\phi(q, x^+)} + \sum_{x^-} e^{\phi(q, x^-)}} .$$
#
# How hard is this task? The figure shows how often the held-out item scores higher than *all* of a number of random items.

# %%
ranks = {method: t.ranks(sequences) for method, t in trained.items()}
sampled = tour_experiments.against_negatives(ranks)
axes = Axes("random negatives", "next item ranked above all of them", unit="negatives", share=True)
CurveExplorer(
    "Ranking among random negatives", sampled, axes, "negatives", "Negatives sampled per query", start=1
).at(view)

# %% [markdown]
# **Question.** With one negative the task is easy. With how many does the retriever fail more often than it succeeds? And where
# are the methods furthest apart, relative to their success rates?
#
# <details><summary>An answer</summary>
#
# With some tens, more on MovieLens 1M than here: see below. With one negative all methods look equally good;
# relative differences grow to the right, where the item competes with the whole catalogue. This is why training samples many
# negatives, and why metrics here are never computed on sampled items: sampling can even reverse a ranking of methods (W.
# Krichene and S. Rendle, *On Sampled Metrics for Item Recommendation*, KDD 2020).
#
# </details>

# %%
findings.even_odds(sampled)

# %% [markdown]
# Losses, learning curves and costs: [02_train](02_train.ipynb).
#
# ## 3 · Dot product or mixture?
#
# A **Mixture-of-Logits** (MoL; arXiv 2306.04039, 2407.15462) compares *several* smaller vectors of query and item. A gate $\pi$
# decides, for each pair, how much each comparison counts:
#
# $$\phi(q, x) = \sum_{p} \pi_p(q, x)\, s_p(q, x), \qquad
# s_p = \frac{1}{\tau} \left\langle f_{i(p)}(q), g_{j(p)}(x) \right\rangle, \qquad \pi_p \ge 0, \quad \sum_p \pi_p = 1 .$$
#
# The encoder, the data and the number of steps are the same for both. HR@k is the share of users whose next item is in the
# first *k* of the whole catalogue, NDCG@k gives more credit to higher ranks, and MRR is the mean of 1/rank; the lines are 95 %
# intervals over users.

# %%
results = pd.concat([t.metrics.assign(method=m) for m, t in trained.items()], ignore_index=True)
for method, t in trained.items():
    record(f"HR@10, {method}", t.metrics.set_index("metric")["value"]["HR@10"])
MetricExplorer(results).at(view)

# %% [markdown]
# **Question.** Is MoL ahead with both encoders and at every *k*? Choose *HR* and *every k*.
#
# <details><summary>An answer</summary>
#
# The cut-offs at which it is ahead are printed below; where the list is nearly the whole catalogue, all methods are equal. On
# the embedded data a dot product with as many floats per item is closer (`quick/hstu-dot-wide`), and with SASRec it is as good:
# the table of seeds in notebook 03 has both. On MovieLens 1M (the small models that come with this repository) there is no
# conclusion: with SASRec the two change places and the intervals overlap; with HSTU MoL is ahead at small *k*, but not with
# other seeds (notebook 03). And look back at station 1: compared with one list for everybody, all four are several times
# better. Most of that is due to the encoder.
#
# </details>

# %%
findings.ahead(results, [("SASRec + dot", "SASRec + MoL"), ("HSTU + dot", "HSTU + MoL")])

# %% [markdown]
# And one user, twice: the ten best items of both models, with a star on the test item (shown below the list if it is not in
# it). Each bar of MoL is split into its largest terms $\pi_p s_p$; where the gate decides for one component, the bar is one
# piece. Unless the parameter `user` names another, the user is an illustration: of the first 256 the one whose test item MoL
# ranks furthest ahead of the dot product.

# %%
SideBySide([dot, mol], user).at(view)

# %% [markdown]
# Intervals of differences, popular and rare items, published numbers:
# [03_compare_similarities](03_compare_similarities.ipynb).
#
# ## 4 · Why a dot product is not enough
#
# Write the scores that queries *should* give items as a matrix $A$. The scores of a dot product of width $d$ form a matrix of
# rank at most $d$, and the best such approximation is the singular value decomposition truncated after $d$ terms (Eckart and
# Young, 1936):
#
# $$\min_{\operatorname{rank} \Phi \le d} \frac{\|A - \Phi\|}{\|A\|}
# = \sqrt{\frac{\sum_{i > d} \sigma_i^2}{\sum_i \sigma_i^2}} .$$
#
# Two such matrices can be chosen below, rows queries and columns items: in the first each query wants items that are *similar,
# not identical* to itself; in the second, all items of its own group (*block*). A MoL of width 4 is trained on each.

# %%
config = FitConfig(width=4, gate_hidden=32, steps=300, start="spectral", seed=seed)
wanted = [targets.TARGETS[name](64, seed) for name in ("similar, not identical", "block")]
fits = {target.name: fitted(target, config) for target in wanted}
Widths(fits, start=4).at(view)

# %% [markdown]
# **Question.** How wide must the dot product be to match a MoL of width 4? And for *block*?
#
# <details><summary>An answer</summary>
#
# The widths are printed below. For *block* eight dimensions are enough to be exact: if the scores have low rank, a dot product
# is the right tool. A caveat: MoL also has a gate and projections to learn. Compare it with the dot product that has *the same
# total number of parameters* (dotted), too. The balance shifts as the number of items grows, because the cost of the gate does
# not depend on it.
#
# </details>

# %%
record("similar, not identical: error of MoL of width 4", fits[wanted[0].name].error())
findings.widths(fits)

# %% [markdown]
# Theorem 1 of arXiv 2407.15462: with enough components MoL represents *any* matrix. A two-line proof, the place where the
# printed one fails, and what can be *learned*: [04_universal_approximation](04_universal_approximation.ipynb).
#
# ## 5 · Inside one score
#
# Each cell of the heatmaps is a pair of vectors $(f_i, g_j)$: their component score ($s$), its gate weight ($\pi$), and the
# product; the bars add up the products. *T* is the temperature of the gate's softmax.

# %%
ScoreAnatomy(mol, user).at(view)

# %% [markdown]
# **Question.** Move *T* to its lower end, then to its upper end. What happens to the weights, the score and the rank?
#
# <details><summary>An answer</summary>
#
# At the lower end all the weight moves to the component that the gate prefers; a gate that decides has most of it there
# already. At the upper end all weights are nearly equal, and the score is the mean of the components: the gate has no effect.
# For a single user the rank may move either way; the model was trained at $T = 1$.
#
# </details>
#
# Switch off components, see which ones popular items use, look at a map of items: [05_mol_anatomy](05_mol_anatomy.ipynb).
#
# ## 6 · Exact top-k, with a proof
#
# MoL is not an inner product, so an index for inner products cannot find its best items. But its weights are not negative and
# sum to one, so that
#
# $$\phi(q, x) = \sum_p \pi_p s_p \;\le\; \max_p s_p(q, x),$$
#
# and each $s_p$ *is* an inner product. Left: every item for one query, its upper bound against its score. An item whose bound
# is below $S_K$, the $k$-th best score found, is **ruled out**: its gate need not be computed. Right: the $N_1$ best items of
# each component, which any index can find. An item in none of these lists scores at most the orange line. If $S_K$ is at or
# above the orange line, the best $k$ of the lists are **proved** to be the best of all items.

# %%
workload = build(Trained(str(trained["HSTU + MoL"].folder)), 32, seed, torch.device("cpu"))
titles = sequences.items["title"].set_axis(range(1, sequences.num_items + 1))
Proof(workload, titles).at(view)

# %% [markdown]
# **Question.** How long must the lists be until the answer is *complete*, and how long until that is *proved*? Why are these
# different?
#
# <details><summary>An answer</summary>
#
# Compare the two lengths printed below. The bound is the score of a gate that puts all weight on the
# largest component. The trained gate does something else, so most scores lie far below their bound (left), and the proof has
# to allow for cases that never occur. Set *gate ×* to 0 and to 8, and try other queries.
#
# </details>

# %%
lengths = [n for n in (10, 30, 100, 300) if n <= workload.findable]
findings.proofs(proof_shares(workload, lengths, k=min(10, workload.findable)))

# %% [markdown]
# Tighter bounds, and the cost of exact search: [06_exact_topk](06_exact_topk.ipynb).
#
# ## 7 · Candidates first
#
# Search is faster without a proof: score only the **candidates** that a cheap first stage finds. There are two kinds: the best
# items by the *average* of all component scores, which takes one inner product per item, and the *lists* of station 6.

# %%
ks = [k for k in (10, 100) if k <= workload.findable] or [workload.findable]
stages = {f"best {k}": tour_experiments.first_stages(workload, k) for k in ks}
axes = Axes("candidates of a query", "found, or proved", unit="candidates", share=True)
CurveExplorer(
    "Two first stages", stages, axes, "candidates", "Number of items scored by MoL", start=50, choice="of"
).at(view)

# %% [markdown]
# **Question.** Which first stage finds more of the true top ten with 50 candidates? What is the other one good for?
#
# <details><summary>An answer</summary>
#
# It depends on the gate. If it averages, as on MovieLens, the average finds more. If it decides for one component, as on the
# embedded data, an item can be best for its component and poor on average, and lists find as much or more (printed below).
# But the average never proves anything, however many candidates it takes; lists prove their answer once they are long enough.
# The fast searcher and the safe searcher are different, and a recall curve alone hides that.
#
# </details>

# %%
findings.values_at(next(iter(stages.values())), 50, "candidates")

# %% [markdown]
# Latencies, twenty settings, and an explorer that measures your own: [07_recall_latency](07_recall_latency.ipynb).
#
# ## 8 · A look-up instead of a search
#
# **SparCode** (arXiv 2311.18213): if there were only $M$ different queries, all their scores could be precomputed, whatever the
# similarity costs. So round each query to the nearest of $M$ **codewords**. Here the codewords are not trained: they are
# k-means centres of a few hundred users' queries.

# %%
rounded = tour_experiments.rounded_queries(trained["HSTU + MoL"].retriever(), sequences, seed)
axes = Axes("codewords, at most one per user", "NDCG@10", unit="codewords")
CurveExplorer("Round the query", rounded, axes, "codewords", "Number of distinct queries", start=32).at(view)

# %% [markdown]
# **Question.** How many codewords keep most of the quality? How many scores are then stored for all items?
#
# <details><summary>An answer</summary>
#
# The number is printed below: if it is near that of the users, nothing is saved, since $M \times N$ scores are stored for $N$
# items. SparCode fixes
# both problems. It *learns* the codewords together with the scorer; it composes a code from several parts, so that a few
# codewords make many codes; and it stores only the scores above a threshold, in an inverted index.
#
# </details>

# %%
findings.codewords(rounded, sequences.num_items)

# %% [markdown]
# [08_sparcode](08_sparcode.ipynb) trains such an index and prunes it.
#
# ## 9 · Learning the index itself
#
# Another way is to partition the *items* into groups, select the best few groups, and score the items in them. The groups here
# are clusters of item vectors and are computed once. **Deep Retrieval** (arXiv 2007.07203) learns them together with the model,
# in several layers, so that a group is a *path*.

# %%
walked = tour_experiments.walked_groups(workload, k=ks[0], seed=seed)
axes = Axes("groups searched, best first", "share of items", unit="groups", share=True)
CurveExplorer("Search the best groups", walked, axes, "groups", "Groups per query", start=5).at(view)

# %% [markdown]
# **Question.** How much of the catalogue is scored to find nine of the best ten? And to find the last one?
#
# <details><summary>An answer</summary>
#
# Compare the two numbers printed below. The last one usually costs most: a few good items are in groups that look poor. Groups
# that are learned from the queries, and items that belong to more than one group, move the curve to the left.
#
# </details>

# %%
found, scored = walked["curve"].unique()
findings.groups_searched(walked, found, scored)

# %% [markdown]
# [09_deep_retrieval](09_deep_retrieval.ipynb) shows the paths, which users take them, and how wide a beam must be.
#
# ## 10 · A billion items
#
# Everything that MoL needs from an item is computed once and stored: its components and its part of the gate.

# %%
axes = Axes("items in the corpus", "GB stored for search", unit="items", log_y=True, y_unit="GB")
kept = tour_experiments.kept(workload)
CurveExplorer("Memory by corpus size", kept, axes, "items", "Size of the corpus", start=1_000_000).at(view)

# %% [markdown]
# **Question.** At how many items does this state outgrow the memory of your machine? And with a quarter of the bits per number?
#
# <details><summary>An answer</summary>
#
# Divide your memory by the bytes per item: 16 GB hold a few hundred million items of the small model of the embedded data, and
# some tens of millions of the MovieLens model. Eight bits reduce the size by less than a factor of four, because the gate's
# part stays as it is. Beyond one machine the corpus is sharded: each shard is searched separately, and merging the lists is
# exact.
#
# </details>
#
# Scaling exponents, bytes per item, and an extrapolation that states its assumptions: [10_scaling](10_scaling.ipynb).

# %% [markdown]
# ## Exercise
#
# The score of a mixture, for one pair: the gate's outputs and the component scores are given. The gate's weights are the
# softmax of its outputs.


# %%
def mixture(gate, scores):
    "The score of one pair, from the gate's outputs (P,) and the component scores (P,)."


check("mixture", mixture)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def mixture(gate, scores):
#     return (gate.softmax(0) * scores).sum()
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - The score matrix of a dot product of width $d$ has rank at most $d$; a mixture with a gate has no such limit, but needs more
#   parameters and a slower search.
# - Weights that are positive and sum to one give an upper bound, and the bound gives a proof: learned similarities can be
#   searched *exactly*.
# - Speed, completeness and proof are three different questions. Look at all three.
#
# **To try.** Set `dataset = "ml-1m"` and `profile = "standard"` at the top for real films (run
# `workbench data prepare ml-1m --from FOLDER` first), run the tour again, and check which of your answers still hold.
