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
# # 00 · A tour: from a dot product to exact top-k with a proof
#
# A person has watched, read or bought some things, in an order. Of all the items there are, which comes next? A **retriever**
# turns the history into a query $q$, scores every item $x$ by a **similarity** $\phi(q, x)$, and returns the best $k$.
#
# You know matrix factorisation: a vector for each user, a vector for each item, and
# $\phi(q, x) = \langle q, x \rangle = \sum_{i=1}^{d} q_i x_i$. Almost everybody stops there, because the best $k$ of a dot product can be found
# fast. This workbench is about what one gives up by that, about similarities that are *learned*, and about how they can still be searched.
#
# Ten stations lead through the ten notebooks, about three minutes each. Every station has one control and one **question**: move the
# control until you know, then unfold the answer. (On a report's page the controls stand still; `workbench lab` opens the tour with a
# kernel behind it.)

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = -1

# %%
import pandas as pd
import torch

from workbench import anatomy, data
from workbench.bench.workloads import Trained, build
from workbench.explore import findings
from workbench.explore.anatomy_widgets import ScoreAnatomy, SideBySide
from workbench.explore.approximation_widget import Widths
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import ReadOff
from workbench.explore.proof_widget import Proof
from workbench.explore.tables import table
from workbench.explore.widgets import MetricExplorer
from workbench.models.model_store import load_or_train
from workbench.models.recommend import history
from workbench.reporting import record
from workbench.studies import tour_experiments
from workbench.theory import targets
from workbench.theory.fitting import FitConfig, fitted
from workbench.training.presets import lineup

# %% [markdown]
# Four retrievers, two encoders with two similarities each, are taken from `ckpts/`, or trained now where they are missing (about a
# minute each on the embedded data).

# %%
sequences = data.load(dataset)
trained = {m: load_or_train(preset, sequences, seed=seed) for m, preset in lineup(profile, dataset).items()}
subjects = {
    m: anatomy.ModelView.of(m, trained[m].retriever(), sequences) for m in ("HSTU + dot", "HSTU + MoL")
}
dot, mol = subjects.values()

# %% [markdown]
# ## 1 · What is asked
#
# The data are rows *(user, item, time)*. Of each user the last item is held out: the **test item**, which a retriever is to find among
# all others. Here is one history; the marked row is what came next.

# %%
user = anatomy.illustrative_user(dot, mol) if user < 0 else user
table(history(sequences, user))

# %% [markdown]
# The poorest retriever shows everybody the same: the most popular items. How far does one get with that?

# %%
popular = tour_experiments.popular_first(sequences)
axes = Axes("items in the list, the most popular first", "share in the list", unit="items", share=True)
ReadOff("The same list for everybody", popular, axes, "items", "Length of the list", start=10)

# %% [markdown]
# **Question.** How long must that list be to hold *half* of the users' next items?
#
# <details><summary>An answer</summary>
#
# Find where the line of next items crosses one half; the length is a share of the whole catalogue, and the first ten items hold
# little. That is the mark to beat. The figures of these data stand below.
#
# </details>

# %%
findings.popular_list(popular, sequences.num_items)

# %% [markdown]
# The whole story, from a file of ratings to batches: [01_preprocess](01_preprocess.ipynb).

# %%
shares = popular[popular["curve"] == "of the users' next items"].set_index("x")["y"]
record("HR@10 of the most popular items", shares.loc[10])

# %% [markdown]
# ## 2 · What is learned
#
# An **encoder** (SASRec, arXiv 1808.09781; HSTU, arXiv 2402.17152) reads the history, and its output is the query. Item vectors,
# encoder and similarity are trained together: at each position of a history, the item that came next, $x^+$, must score above some
# **negatives** $x^-$ that are drawn at random,
#
# $$-\log \frac{e^{\phi(q, x^+)}}{e^{\phi(q, x^+)} + \sum_{x^-} e^{\phi(q, x^-)}} .$$
#
# How hard is this exam? Below: how often the held-out item scores above *all* of so many random items.

# %%
ranks = {method: t.ranks(sequences) for method, t in trained.items()}
exam = tour_experiments.against_negatives(ranks)
axes = Axes("random negatives", "next item above all of them", unit="negatives", share=True)
ReadOff(
    "An exam with negatives", exam, axes, "negatives", "Negatives that are drawn for each question", start=1
)

# %% [markdown]
# **Question.** With one negative the exam is easy. With how many does the retriever fail more often than not? And where do the methods
# lie furthest apart, relative to what they get right?
#
# <details><summary>An answer</summary>
#
# With a dozen or two on the embedded data, with some fifty on MovieLens 1M. With one negative all methods look alike, and good; relative
# differences grow to the right, where the whole catalogue competes. So training draws many negatives, and metrics here are never computed on samples, which can even turn an
# order round (W. Krichene and S. Rendle, *On Sampled Metrics for Item Recommendation*, KDD 2020).
#
# </details>
#
# Losses, curves, costs: [02_train](02_train.ipynb).
#
# ## 3 · Dot product or mixture?
#
# A **Mixture-of-Logits** (MoL; arXiv 2306.04039, 2407.15462) compares *several* smaller vectors of query and item, and lets a gate
# $\pi$ decide for each pair how much each comparison counts:
#
# $$\phi(q, x) = \sum_{p} \pi_p(q, x)\, s_p(q, x), \qquad s_p = \frac{1}{\tau} \left\langle f_{i(p)}(q), g_{j(p)}(x) \right\rangle,
# \qquad \pi_p \ge 0, \quad \sum_p \pi_p = 1 .$$
#
# Same encoder, same data, same number of steps. HR@k is the share of users whose next item is among the first *k* of the whole
# catalogue, NDCG@k gives more credit to better places, MRR is the mean of 1/rank; the lines are 95 % intervals over users.

# %%
results = pd.concat([t.metrics.assign(method=m) for m, t in trained.items()], ignore_index=True)
for method, t in trained.items():
    record(f"NDCG@10, {method}", t.metrics.set_index("metric")["value"]["NDCG@10"])
MetricExplorer(results)

# %% [markdown]
# **Question.** Is MoL ahead with both encoders and at every *k*? Choose *HR* and *every k*.
#
# <details><summary>An answer</summary>
#
# On the embedded data yes, with both encoders, up to *k* = 500; at 1,000 the list is nearly the whole catalogue, and all are equal.
# On MovieLens 1M (the small models that come with this repository) there is no finding: with SASRec the two change places, and the
# intervals overlap; with HSTU MoL is ahead at small *k*, but not with other seeds (notebook 03). And look back at station 1: beside a list that is the same for everybody, all four are several times better. Most of
# that is the encoder's work.
#
# </details>
#
# And the same user, twice: the best ten of both, the test item with a star, or below the list where it is not in it. Each
# bar of MoL is cut into its largest parts $\pi_p s_p$.

# %%
SideBySide([dot, mol], user)

# %% [markdown]
# (This user was looked for, to show something.) Intervals of differences, popular and rare items, published numbers:
# [03_compare_similarities](03_compare_similarities.ipynb).
#
# ## 4 · Why a dot product is not enough
#
# Write all scores that queries *should* give items as a matrix $A$. A dot product of width $d$ makes a matrix of rank $d$ at most,
# and the best of those is the singular value decomposition cut after $d$ terms (Eckart and Young, 1936):
#
# $$\min_{\operatorname{rank} \Phi \le d} \frac{\|A - \Phi\|}{\|A\|} = \sqrt{\frac{\sum_{i > d} \sigma_i^2}{\sum_i \sigma_i^2}} .$$
#
# In the first matrix below each query wants items that are *similar, but not identical* to what it is; in the second, all those of its own
# group (*block*). A MoL of width 4 was trained on each just now.

# %%
config = FitConfig(width=4, gate_hidden=32, steps=300, start="spectral", seed=seed)
wanted = [targets.TARGETS[name](64, seed) for name in ("similar, not identical", "block")]
Widths({target.name: fitted(target, config) for target in wanted}, start=4)

# %% [markdown]
# **Question.** How wide must the dot product be to come as near as MoL of width 4? And for *block*?
#
# <details><summary>An answer</summary>
#
# For *similar, not identical* about five times as wide. For *block* eight dimensions are enough, exactly: where scores have low rank, a dot product
# is the right tool. Now the honest line: MoL also has a gate and projections to learn. With *as many floats in all* (dotted) the dot
# product is ahead of MoL on a matrix as small as this one. What tips the balance is the number of items, since the gate is paid for once.
#
# </details>

# %%
fit = fitted(wanted[0], config)
record("similar, not identical: error of MoL of width 4", fit.error())

# %% [markdown]
# Theorem 1 of arXiv 2407.15462: with enough components MoL gives *any* matrix. A proof in two lines, where the printed one
# fails, and what can be *learned*: [04_universal_approximation](04_universal_approximation.ipynb).
#
# ## 5 · Inside one score
#
# Each cell of the heatmaps is a pair of vectors $(f_i, g_j)$: how well they agree ($s$), how much the gate lets that count ($\pi$), and
# the product; the bars add the products up. *T* divides what enters the gate's softmax.

# %%
ScoreAnatomy(mol, user)

# %% [markdown]
# **Question.** Move *T* to its lower end, then to its upper end. What becomes of the weights, of the score and of the rank?
#
# <details><summary>An answer</summary>
#
# Towards the lower end the weights move to the component that the gate prefers, on MovieLens nearly all of them. At the upper end all weights
# are nearly equal, and the score is the mean of the components: the gate is gone. For single users the rank may go either way. Over
# many users it is best near $T = 1$, where the model was trained, and at the upper end nearly a third of the hits among the first ten are lost.
#
# </details>
#
# Switch components off, see which ones popular items use, look at a map of items: [05_mol_anatomy](05_mol_anatomy.ipynb).
#
# ## 6 · Exact top-k, with a proof
#
# MoL is no inner product, so no index of inner products finds its best items. But its weights are positive and sum to one, so that
#
# $$\phi(q, x) = \sum_p \pi_p s_p \;\le\; \max_p s_p(q, x),$$
#
# and each $s_p$ *is* an inner product. Left: every item of one query, its bound against its score. An item whose bound is below $S_K$, the
# $k$-th best score found, is **ruled out**: its gate need not be computed. Right: the $N_1$ best of every component, for which any index
# will do. An item in no list scores at most what the red line says. Where $S_K$ is not below the red line, the best $k$ of the lists
# are **proved** to be the best of all.

# %%
workload = build(Trained(str(trained["HSTU + MoL"].folder)), 32, seed, torch.device("cpu"))
titles = sequences.items["title"].set_axis(range(1, sequences.num_items + 1))
Proof(workload, titles)

# %% [markdown]
# **Question.** How long must the lists be until the answer is *complete*, and how long until that is *proved*? Why do the two differ?
#
# <details><summary>An answer</summary>
#
# On MovieLens lists of twenty at most hold the best ten of most queries, and some hundred prove it; on the embedded data they hold them with one to
# three hundred at most, and the proof takes more than half of the catalogue. The bound is what a gate would give that puts all weight on the
# largest component. The trained gate does something else, so most scores lie far below their bound (left), and the proof must
# fear what never happens. Take *gate ×* to 0 and to 8, and try other queries.
#
# </details>
#
# Bounds that are tighter, and what exact search costs: [06_exact_topk](06_exact_topk.ipynb).
#
# ## 7 · Recall and latency
#
# Without a proof one can be faster: score only **candidates** that a cheap first stage finds. Two kinds: the best by the *average* of all
# component scores, one inner product for each item, and the *lists* of station 6.

# %%
ks = [k for k in (10, 100) if k <= workload.findable] or [workload.findable]
stages = {f"best {k}": tour_experiments.first_stages(workload, k) for k in ks}
axes = Axes("candidates of a query", "share", unit="candidates", share=True)
ReadOff(
    "Two first stages", stages, axes, "candidates", "How many items are scored by MoL", start=50, choice="of"
)

# %% [markdown]
# **Question.** Which stage finds more of the true best ten with 50 candidates? What is the other one good for?
#
# <details><summary>An answer</summary>
#
# The average finds some nine of ten with 50 candidates, lists of the same size in all clearly fewer. But the average proves nothing, however many it
# takes: an item can be good for one component and poor on average. Lists can, once they are long: on MovieLens with some hundreds of
# candidates for some queries, on the embedded data hardly before they hold everything. Fast and safe are two different searchers, and a curve
# of recall alone hides the difference.
#
# </details>
#
# Milliseconds, twenty settings, and the explorer that measures your own: [07_recall_latency](07_recall_latency.ipynb).
#
# ## 8 · A look-up instead of a search
#
# **SparCode** (arXiv 2311.18213): if there were only $M$ different queries, all their scores could be computed beforehand, whatever the
# similarity costs. So round each query to the nearest of $M$ **codewords**. Here without any training for it: the codewords
# are centres of clusters among some hundred users' queries.

# %%
rounded = tour_experiments.rounded_queries(trained["HSTU + MoL"].retriever(), sequences, seed)
axes = Axes("codewords, up to one for each user", "NDCG@10", unit="codewords")
ReadOff("Round the query", rounded, axes, "codewords", "Different queries that are left", start=32)

# %% [markdown]
# **Question.** How many codewords keep most of the quality? How many numbers are then stored, for all items?
#
# <details><summary>An answer</summary>
#
# One for every two to four users, which is no saving at all: $M \times N$ scores for $N$ items. SparCode mends both ends. It *learns* codewords
# together with the scorer; it builds a code of several pieces, so that few codewords make many codes; and it stores only the
# scores that are above a threshold, in an inverted index.
#
# </details>
#
# [08_sparcode](08_sparcode.ipynb) trains one and cuts its index down.
#
# ## 9 · Learning the index itself
#
# One can also sort *items* into groups, walk to the best few groups, and score what stands in them. These groups are clusters of item vectors,
# made once. **Deep Retrieval** (arXiv 2007.07203) learns them together with the model, in several layers, so that a group is a *path*.

# %%
walked = tour_experiments.walked_groups(workload, k=ks[0], seed=seed)
axes = Axes("groups walked to, the best first", "share", unit="groups", share=True)
ReadOff("Walk to some groups", walked, axes, "groups", "The width of the walk", start=5)

# %% [markdown]
# **Question.** How much of the catalogue is scored to find nine of the best ten? And for the last one?
#
# <details><summary>An answer</summary>
#
# Nine of ten cost less than a quarter of the catalogue, and the last costs most of the rest: a few good items always stand in groups that look
# poor. Groups that are learned for the queries that come, and an item that stands in more than one, move the curve to the left.
#
# </details>
#
# [09_deep_retrieval](09_deep_retrieval.ipynb) shows paths, who takes them, and how wide a beam must be.
#
# ## 10 · A billion items
#
# All that MoL needs of an item is computed once and kept: its components and its part of the gate.

# %%
axes = Axes("items in the corpus", "GB kept for search", unit="items", log_y=True)
kept = tour_experiments.kept(workload)
ReadOff("What a corpus costs to keep", kept, axes, "items", "Size of the corpus", start=1_000_000)

# %% [markdown]
# **Question.** With how many items does this state outgrow the memory of your machine? And if its numbers took a quarter of the bits?
#
# <details><summary>An answer</summary>
#
# Divide your memory by the bytes of an item: with 16 GB and the small model of the embedded data it is a few hundred million items, with
# that of MovieLens some tens of millions. Eight bits help by less than four, for the part of the gate stays as it is. Beyond one machine the corpus is split, every part is searched
# alone, and the lists are merged, exactly.
#
# </details>
#
# Exponents, bytes and an extrapolation that states its assumptions: [10_scaling](10_scaling.ipynb).
#
# ## What you have seen
#
# - A dot product of width $d$ can make scores of rank $d$ and no more; a mixture with a gate has no such limit, and pays for it in
#   parameters and in search.
# - Weights that are positive and sum to one give a bound, and the bound a proof: learned similarities can be searched *exactly*.
# - What is fast, what is complete and what is proved are three questions. Look at all three.
#
# **To try.** Set `dataset = "ml-1m"` and `profile = "standard"` at the top for real films (`workbench data prepare ml-1m --from FOLDER`
# first), run the tour again, and see which of your answers still hold.
