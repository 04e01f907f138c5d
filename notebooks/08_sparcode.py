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
# ## First, by hand
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
chosen, codebooks[torch.arange(2), chosen].flatten()

# %%
import pandas as pd

from workbench import data, paths
from workbench.explore import figures, findings, sparsity_figures
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import ReadOff
from workbench.explore.tables import table
from workbench.models.model_store import load_or_train
from workbench.reporting import record
from workbench.studies import tour_experiments
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
family = {"quick": "sparcode-quick", "standard": "sparcode-cpu", "full": "sparcode-cpu"}[profile]
sequences = data.load(dataset)
methods = {"two-tower": "sa-two-tower-plain", "SparCode": "sa-sparcode"}
trained = {m: load_or_train(preset(f"{family}/{name}"), sequences, seed=seed) for m, name in methods.items()}

# %%
history = trained["SparCode"].history.assign(run="SparCode")
figures.training_curves(history)

# %% [markdown]
# Both models below share the encoder, data, history length and negatives. They differ in what lies between the encoder and the
# items. (The training budget is small: read the numbers as an illustration; the table at the end has more.)

# %%
results = measured([({"method": m}, t) for m, t in trained.items()])
record("two-tower and SparCode", results)
table(results[["method", "HR@10", "HR@50", "NDCG@10", "low", "high", "minutes"]])

# %% [markdown]
# ## Are the codes used?
#
# **Perplexity** is the number of codes that would be in use if all were equally frequent. A quantizer *collapses* if it falls
# towards 1: then all users look the same.

# %%
model = trained["SparCode"].retriever()
usage = usage_table(model, sequences)
record("use of codes", usage)
table(usage)

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
by_hand

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

# %%
sweep = sparsity_sweep(model, sequences, repeats=40 if profile == "quick" else 200)
record("sparsity", sweep)
table(sweep.drop(columns=["threshold", "HR@50", "NDCG@50", "p95_ms"]))

# %%
sparsity_figures.sparsity_tradeoff(sweep)

# %%
index_rows = sweep[sweep["sparsity"].notna()].set_index("index")
at = index_rows.loc["99.0% sparse"]
record("NDCG@10 at 99 % sparsity, of brute force", 100 * at["NDCG@10"] / sweep["NDCG@10"].iloc[-1], unit="%")
record("time of a query at 99 % sparsity, of brute force", 100 * at["relative"], unit="%")

# %% [markdown]
# At the far left of the figure nearly every score is stored, at the far right one in a thousand. Look for the point at which
# quality begins to fall: everything to its left is wasted memory. *short* is the share of users whose lists hold fewer than 50
# items.
#
# The same sweep, relative to brute force with the learned score and to the memory of the whole index.

# %%
cuts = index_rows.drop("learned threshold").assign(full=1 - index_rows["short"])
cuts = cuts.assign(average_items=cuts["average_items"].round().astype(int))
whole = {**sweep.iloc[-1], "mebibytes": cuts["mebibytes"].max()}
names = {"NDCG@10": "NDCG@10", "HR@50": "HR@50", "mebibytes": "bytes of the whole index"}
curves = tour_experiments.curves_of(cuts, "average_items", names, whole)
full = tour_experiments.curves_of(cuts, "average_items", {"full": "users with 50 items in their lists"})
axes = Axes("items in a code's list, on average", "share", unit="items per code", share=True)
start = int(cuts["average_items"].max())
ReadOff("Cut the lists", pd.concat([curves, full]), axes, "items", "Mean length of a list", start).at(view)

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
findings.sparsity(sweep)

# %%
findings.list_lengths(curves, sequences.num_items)

# %% [markdown]
# ## Compared with a tree
#
# TDM stores the items in a tree and descends with a beam, scoring at every level. It also allows any scorer, but it must
# *evaluate* the scorer at every level.

# %%
beams = tree_beams(trained["SparCode"], sequences, beams=(10, 50, 200))
record("tree", beams)
table(beams)

# %% [markdown]
# ## One thing changed at a time
#
# The table shows what `workbench study run sparcode-ablation` measured for this dataset, if it was run: how a token and an item
# interact, how gradients pass the rounding, how codebooks are arranged. All rows have the same number of epochs and learning
# rate, and one seed.
#
# On MovieLens 1M more codewords help most. Residual codebooks, and an inner product without the additional MLP, do as well as
# the default or slightly better: their intervals overlap. CrossNet and the MLP alone are behind: neither starts as an inner
# product.

# %%
written = paths.reports() / "tables" / f"sparcode-ablation-{dataset}.csv"
ablation = pd.read_csv(written) if written.is_file() else pd.DataFrame()
shown = [c for c in ("variant", "NDCG@10", "low", "high", "HR@50") if c in ablation]
table(ablation[shown])

# %%
sparsity_figures.interaction_bars(ablation) if len(
    ablation
) else "run `workbench study run sparcode-ablation`"

# %% [markdown]
# ## Does it beat a two-tower?
#
# In its paper SparCode is far above a two-tower model and close to **All-to-All**, the same scorer without codes.
# `workbench study run sparcode-steps` went from one to the other on MovieLens 1M, changing one thing at a time.

# %%
written = paths.reports() / "tables" / "sparcode-steps-ml-1m.csv"
steps = pd.read_csv(written) if written.is_file() else pd.DataFrame()
curve = [c for c in steps if c.startswith("validation")]
shown = [c for c in ("step", "NDCG@10", *curve) if c in steps]
table(steps[shown].rename(columns=lambda c: c.replace("validation", "epoch")))

# %%
sparsity_figures.interaction_bars(steps.rename(columns={"step": "variant"})) if len(
    steps
) else "run `workbench study run sparcode-steps`"

# %% [markdown]
# *epoch* is NDCG@10 on the validation items after that many epochs; the line in each bar is its 95 % interval on test items.
# There are three findings:
#
# - **The initialisation of tokens matters a lot.** The output of the encoder is close to the items it read, and a two-tower
#   model compares it with those same items. Random linear maps lose this; maps with the same initialisation on both sides
#   (`aligned`) lose nothing.
# - **All-to-All then matches the two-tower model, but does not beat it.** It is behind early on and catches up. A likely
#   reason: if items are nothing but learned vectors, training adapts them to the inner product, and little is left for an MLP
#   to find.
# - **Codes cause the remaining loss.** SparCode is below both. Eight times as many codewords recover some of it; doubling the
#   training improves all three and leaves the gap. If only the commitment loss trains the encoder, it learns next to nothing
#   about users.
#
# Does that hold for every encoder? The paper has two more tokenizers: a DNN over the pooled history, and a GRU. All have the
# same budget and learning rate, and one seed (`workbench study run sparcode-towers`):

# %%
written = paths.reports() / "tables" / "sparcode-towers.csv"
towers = pd.read_csv(written) if written.is_file() else pd.DataFrame()
shown = [c for c in ("tower", "method", "NDCG@10", "low", "high", "HR@50") if c in towers]
table(towers[shown]) if len(towers) else "run `workbench study run sparcode-towers`"

# %% [markdown]
# With the DNN and the GRU the published order appears: All-to-All first, SparCode next, the two-tower model last. It is
# tempting to credit the learned interaction. The control contradicts that: *inner product of aligned tokens* has the normalised
# tokens of All-to-All, with the same initialisation on both sides, and neither an MLP nor codes.

# %%
findings.towers(towers) if len(towers) else "run `workbench study run sparcode-towers`"

# %% [markdown]
# What lifts All-to-All over the two-tower model is how its inputs are scaled and initialised, not the interaction. All rows have
# the same small budget (12 epochs): none of them is trained to its plateau.
#
# On the paper's other dataset, Deezer, embeddings are *given*, and users are described by features alone.
# `workbench study run sparcode-given` puts MovieLens 1M into that form: items have fixed embeddings from a singular value
# decomposition, and users are described by gender, age and occupation.

# %%
features = {"": "gender, age, occupation", "-known-5": "and their first five items"}
written = {f: paths.reports() / "tables" / f"sparcode-given-ml-1m{end}.csv" for end, f in features.items()}
given = [pd.read_csv(path).assign(features=f) for f, path in written.items() if path.is_file()]
shown = ["features", "method", "mean", "std", "seeds"]
rows = pd.concat(given).query("metric == 'NDCG@50'")[shown].reset_index(drop=True) if given else None
table(rows) if given else "run `workbench study run sparcode-given`"

# %% [markdown]
# The published order appears there, too, with a DNN that reads the features: SparCode and All-to-All are equally good, above
# both two-tower models. An inner product with vectors that were made for another purpose cannot express everything, for example
# that some items are liked by everybody; a learned interaction can. But look at the last row of each group: within this budget
# nothing beats popularity. We reproduce the paper's order, not its level.

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
#   the finding above says it for this one.
# - Rounding must let gradients through. If the rounding error alone trains the encoder, which is all that the paper's text
#   says, the encoder learns to be easy to round rather than to be useful: compare *gradient: commitment alone* above.
# - A comparison needs its control. Behind weak encoders All-to-All is far above a two-tower model, and so is a plain inner
#   product of the same tokens.
# - A learned interaction helped with given embeddings, but not with item vectors that were trained with it.
#
# **To try.** Train with `sparcode-quick/sa-sparcode-commitment` and look at the codes again. Then choose 95 % sparsity: which
# users run out of items first?
