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
# # 08 · SparCode: queries become codes, and scores become an index
#
# **Question.** A learned similarity looks at a query and an item *together*, so its scores cannot be precomputed: there are too
# many queries. What if there were only a few thousand? SparCode rounds every query to a few **codes**; the score of each code
# with each item can then be stored in an **inverted index**, as a search engine stores words. You will train such a model, look
# at what its codes mean, and see how much of the index can be pruned.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
view = ""

# %% [markdown]
# ## First, the result
#
# What each shipped model finds for the test users of MovieLens 1M with the index that it is made for, and what that costs: time
# of one query, memory, time to build, share of the items that are scored. There are two groups: HSTU, with histories of 200
# films, and the ladder from a two-tower model to SparCode, with histories of 20. Compare within a group.

# %%
from workbench.explore import index_findings
from workbench.explore.tables import table
from workbench.studies.study import study

similarities = study("similarities")
results = similarities.stored()
table(index_findings.similarities(results)) if results is not None else index_findings.not_stored(
    similarities
)

# %%
ladder = "ml-1m-sparcode-ladder-"
index_findings.own_indexes(
    results, ladder + "two-tower", [ladder + "all-to-all", ladder + "sparcode-warm"]
) if results is not None else None

# %% [markdown]
# SparCode is worth a notebook even if it wins nothing at this size: it is the only method here that scores nothing at query
# time, and the reasons for its losses are instructive.
#
# ## Then, by hand
#
# A token of four numbers is cut into two parts. Each part is replaced by the nearest of three codewords, and the numbers of
# the chosen codewords are the code.

# %%
import torch

from workbench.course import check

token = torch.tensor([0.9, 0.1, -0.4, 0.5])
codebooks = torch.tensor([[[1.0, 0], [0, 1], [-1, 0]], [[0.0, 0], [1, 1], [-0.5, 0.5]]])  # (M, N, d/M)
distances = (token.view(2, 1, 2) - codebooks).norm(dim=2)  # (M, N)
chosen = distances.argmin(1)
rounded = codebooks[torch.arange(2), chosen].flatten()
print(f"code {chosen.tolist()}, rounded token {rounded.tolist()}")

# %%
import pandas as pd

from workbench import data
from workbench.explore import figures, sparsity_figures
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import CurveExplorer
from workbench.models.model_store import load_or_train
from workbench.reporting import record
from workbench.studies import tour_experiments
from workbench.studies.ladder import LADDER
from workbench.studies.sparcode import measured, tree_beams
from workbench.studies.sparsity import code_table, sparsity_sweep, usage_table
from workbench.training.presets import preset

# %% [markdown]
# ## From a query to codes
#
# As before, an encoder reads the history. Its output becomes $K$ **tokens** (several interests), each token is cut into $M$
# parts, and each part is replaced by the nearest of $N$ **codewords**. The $M$ choices form the token's code, so there are only
# $N^M$ codes. A scorer $f$ takes the rounded tokens and the item:
#
# $$\varphi(q, x) = \sum_{k=1}^{K} \mathrm{ReLU}\big(f(\hat t_k, x) + b\big)$$
#
# The codebooks receive no gradient. They follow the tokens by exponential moving averages, and unused codewords are moved to
# where tokens are.

# %%
quick = {"two-tower": "sparcode-quick/sa-two-tower-plain", "SparCode": "sparcode-quick/sa-sparcode"}
other = {"two-tower": "sparcode-ladder/two-tower", "SparCode": "sparcode-ladder/sparcode-warm"}
sequences = data.load(dataset)
methods = quick if profile == "quick" else other
trained = {m: load_or_train(preset(name), sequences, seed=seed) for m, name in methods.items()}

# %%
history = trained["SparCode"].history.assign(run="SparCode")
figures.training_curves(history)

# %% [markdown]
# Both models below share the encoder, data, history length and negatives. They differ in what lies between the encoder and the
# items. (In the quick profile the training budget is small: read the numbers as an illustration. SparCode pays a price there on
# every score above its threshold, as the last sections explain; on MovieLens it is trained as published, without.)

# %%
both = measured([({"method": m}, t) for m, t in trained.items()])
record("two-tower and SparCode", both)
table(both[["method", "HR@10", "HR@50", "NDCG@10", "low", "high", "minutes"]])

# %% [markdown]
# ## Are the codes used?
#
# **Perplexity** is the number of codes that would be in use if all were equally frequent. A quantizer *collapses* if it falls
# towards 1: then all users look the same.

# %%
model = trained["SparCode"].retriever()
usage = usage_table(model, sequences)
record("use of codes", usage)
table(usage.rename(columns={"of": "choices of"}))

# %% [markdown]
# One step of the trained quantizer **by hand**: tokens at random, the nearest codewords, and the number of the code, whose
# digits are the choices. It is the code that the library gives.

# %%
quantizer = model.similarity.quantizer
books, words, part = quantizer.codewords.shape
tokens = torch.randn(5, books * part, generator=torch.Generator().manual_seed(seed))
distances = (tokens.view(5, books, 1, part) - quantizer.codewords).norm(dim=3)  # (5, M, N)
choices = distances.argmin(2)
by_hand = sum(choices[:, m] * words ** (books - 1 - m) for m in range(books))
assert (by_hand == quantizer(tokens).codes).all()
print("numbers of the five codes:", *by_hand.tolist())

# %% [markdown]
# ## What the codes mean
#
# The most frequent codes: the genres that are over-represented in the histories of their users (×2 is twice as much), and the
# items with the highest scores for the code. Genres are not an input of the model.

# %%
codes = code_table(model, sequences)
record("codes", codes)
table(codes)

# %% [markdown]
# If the genres of users and items agree, the code is an interest; if they do not, it may have learned what comes *next*.
#
# ## How sparse can the index be?
#
# For each code the index stores the items with $f > -b'$, best first. Serving a query means: encode, look up $K$ codes, add up
# $K$ lists. The scorer is never evaluated. Since $b'$ only shortens the lists, one index serves every level of sparsity.
#
# The index holds the codes that occurred in *training*. A test user whose token has another code finds no list for it; *seen*
# is the share of tokens with a known code.

# %%
times = 40 if profile == "quick" else 200
sweep = sparsity_sweep(trained["SparCode"], sequences, repeats=times, compare_with=trained["two-tower"])
record("sparsity", sweep)
words = {
    "average_items": "items per list",
    "mebibytes": "MiB",
    "short": "users short of 50",
    "p50_ms": "ms per query",
}
unshown = ["threshold", "HR@50", "NDCG@50", "p95_ms"]
table(sweep.drop(columns=unshown).rename(columns={**words, "relative": "× brute force"}))

# %%
sparsity_figures.sparsity_tradeoff(sweep)

# %%
index_rows = sweep[sweep["sparsity"].notna()].set_index("index")
at = index_rows.loc["99.0% sparse"]
record("NDCG@10 at 99 % sparsity, of brute force", 100 * at["NDCG@10"] / sweep["NDCG@10"].iloc[-1], unit="%")
record("time of a query at 99 % sparsity", round(at["relative"], 2), unit="times that of brute force")

# %% [markdown]
# At the far left of the figure nearly every score is stored, at the far right one in a thousand. Look for the point at which
# quality begins to fall: everything to its left is wasted memory. *users short of 50* is the share of users whose lists hold
# fewer than 50 items. An index with every score also adds up those that the learned threshold cuts off: it need not be the
# best.
#
# The same sweep, as shares: metrics relative to those of brute force with the learned score, memory to that of the whole
# index, and the users whose lists still hold 50 items. With whole lists every share is at or near 1; what drops first as
# they are cut is what limits pruning.

# %%
cuts = index_rows.drop("learned threshold").assign(full=1 - index_rows["short"])
cuts = cuts.assign(average_items=cuts["average_items"].round().astype(int))
whole = {**sweep.iloc[-1], "mebibytes": cuts["mebibytes"].max()}
names = {"NDCG@10": "NDCG@10", "HR@50": "HR@50", "mebibytes": "bytes of the whole index"}
curves = tour_experiments.curves_of(cuts, "average_items", names, whole)
full = tour_experiments.curves_of(cuts, "average_items", {"full": "users with 50 items in their lists"})
axes = Axes("items in a code's list, on average", "share of the whole", unit="items per code", share=True)
start = int(cuts["average_items"].median())
CurveExplorer("Cut the lists", pd.concat([curves, full]), axes, "items", "Mean length of a list", start).at(
    view
)

# %% [markdown]
# **To answer with the control.** How long must the lists be to keep nine tenths of NDCG@10? Why does HR@50 drop earlier?
#
# <details><summary>An answer</summary>
#
# HR@50 needs fifty items that the user has not seen, from the few lists of the user's codes: the share of users who still have
# that many drops first. The lengths for this dataset are printed below.
#
# </details>

# %%
index_findings.sparsity(sweep)

# %%
index_findings.list_lengths(curves, sequences.num_items)

# %% [markdown]
# ## Compared with a tree
#
# TDM stores the items in a tree and descends with a beam, scoring at every level. It also allows any scorer, but it must
# *evaluate* the scorer at every level, for inner nodes, too: a wide beam scores more nodes than there are items.

# %%
beams = tree_beams(trained["SparCode"], sequences, beams=(10, 50, 200))
record("tree", beams)
table(beams.rename(columns={"num_scored": "nodes scored"}))

# %% [markdown]
# ## Why does a softmax loss not prune?
#
# The threshold $b$ in $\mathrm{ReLU}(f + b)$ is a parameter, so training could choose the sparsity; the finding above says how
# much *learned threshold* leaves out, which without a price is next to nothing. The gradient of a softmax loss in $b$ is
#
# $$\frac{\partial L}{\partial b} = \mathbb{E}_{x \sim \mathrm{softmax}}\big[n(x)\big] - n(x^+) ,$$
#
# where $n(x)$ counts the query tokens with a positive score. If all scores are positive, both terms are $K$, and the gradient
# is
# 0. If the threshold cuts off more of the negatives than of the positive, the gradient is negative, and $b$ *rises*: the loss
# does not reward zeros. Check it on random scores of 5 items, the first one the positive:

# %%
f = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed))  # (K, items)
f[:, 0] += 2
for start in (4.0, 0.0):
    b = torch.tensor(start, requires_grad=True)
    scores = (f + b).relu().sum(0)
    (scores.logsumexp(0) - scores[0]).backward()
    active = (f + b > 0).sum(0).float()
    assert torch.isclose(b.grad, scores.softmax(0) @ active - active[0], atol=1e-6)
    print(f"b = {start}: gradient {b.grad:+.3f}")

# %% [markdown]
# The paper sets the sparsity afterwards, by $b'$. Another way is a price: `SparCodeConfig(sparsity=0.3)` adds
# $\lambda \cdot \mathrm{mean}\,\mathrm{ReLU}(f + b)$ to the loss, so that zeros are free and everything else costs (the quick
# profile's SparCode has $\lambda = 0.02$). The study `sparcode-sparsity` compares the two ways on MovieLens 1M; both start from
# the same All-to-All.

# %%
by_threshold = study("sparcode-sparsity")
measured_sweep = by_threshold.stored()
shown = ["threshold_by", "index", "sparsity", "NDCG@10", "HR@50", "short", "seen", "mebibytes", "p50_ms"]
table(
    measured_sweep[shown].rename(columns=words)
) if measured_sweep is not None else index_findings.not_stored(by_threshold)

# %%
index_findings.thresholds(measured_sweep) if measured_sweep is not None else None

# %% [markdown]
# ## Where is quality lost?
#
# In its paper SparCode is far above a two-tower model and close to **All-to-All**, the same scorer without codes.
# `workbench study run sparcode-ladder` goes from one to the other on MovieLens 1M, one change at a time, each model trained
# until it no longer improves. The *control* has the normalised tokens of All-to-All, with the same initialisation on both
# sides, and neither an MLP nor codes. *low* and *high* are the ends of a 95 % interval of NDCG@10 over users; *codes* are those
# that training has, and *seen* the share of test tokens whose code is among them.

# %%
steps_to_sparcode = study("sparcode-ladder")
steps = steps_to_sparcode.stored()
shown = ["row", "NDCG@10", "low", "high", "validation", "epochs", "floats", "p50_ms", "codes", "seen"]
words = {"row": "model", "validation": "on validation", "floats": "floats per item", "p50_ms": "ms per query"}
table(steps[shown].rename(columns=words)) if steps is not None else index_findings.not_stored(
    steps_to_sparcode
)

# %%
sparsity_figures.interaction_bars(steps.rename(columns={"row": "variant"})) if steps is not None else None

# %%
rows = [LADDER[kind] for kind in ("tokens", "all-to-all", "sparcode-warm")]
index_findings.ladder(steps, *rows) if steps is not None else None

# %% [markdown]
# What to look for:
#
# - **Is anything won without codes?** If items are nothing but learned vectors, training adapts them to the inner product, and
#   little may be left for an MLP: compare All-to-All with the two-tower, each at its plateau.
# - **What do codes cost?** Compare SparCode with the All-to-All that it starts from. The rows "k-means of All-to-All's tokens"
#   have the same scorer and round its tokens without any training after it.
# - **Can an index know the codes?** It holds those of training alone, and the finer the codes, the fewer of a test user's are
#   among them (*seen*). Quality that only brute force has is no quality of an index.
#
# The differences to the paper are listed in the docstring of `SparCode`: normalised tokens, the same initialisation on both
# sides, straight-through gradients, a commitment loss that is a mean instead of a sum, no regularisation of embeddings, and an
# All-to-All that keeps the ReLU.
#
# Does that hold for every encoder? The paper has two more tokenizers: a DNN over the pooled history, and a GRU. In the study
# `sparcode-towers` all have the same budget and learning rate, and one seed.

# %%
by_tower = study("sparcode-towers")
towers = by_tower.stored()
shown = ["tower", "method", "NDCG@10", "low", "high", "HR@50"]
table(towers[shown]) if towers is not None else index_findings.not_stored(by_tower)

# %% [markdown]
# Where the published order appears, it is tempting to credit the learned interaction. The control tests that: *inner product of
# aligned tokens* has the normalised tokens of All-to-All, with the same initialisation on both sides, and neither an MLP nor
# codes.

# %%
index_findings.towers(towers) if towers is not None else None

# %% [markdown]
# If the control is where All-to-All is, the interaction is not what lifts it. All rows have the same small budget: none of them
# is trained to its plateau.

# %% [markdown]
# ## Exercise
#
# The code of a token, for any number of codebooks.


# %%
def code(token, codebooks):
    "The nearest codeword of each codebook (M,): token (d,), codebooks (M, N, d/M)."


check("code", code)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def code(token, codebooks):
#     parts = token.view(len(codebooks), 1, -1)
#     return (parts - codebooks).norm(dim=2).argmin(1)
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - Rounding queries to codes turns a similarity of any form into a look-up: nothing is scored online.
# - An index can be pruned after training, without training or scoring again. How much of it can go is a property of the model:
#   the finding above gives it for this one.
# - Rounding must let gradients through. If the rounding error alone trains the encoder, which is all that the paper's text
#   says, the encoder needs to be easy to round, and nothing more.
# - A comparison needs its control, and models that are trained to the end: the findings above say what they leave of a lead.
# - A loss that compares scores does not reward zeros: sparsity has to be chosen, or paid for.
#
# **To try.** Train with `sparcode-quick/sa-sparcode-commitment` and look at the codes again. Then choose 95 % sparsity: which
# users run out of items first?
