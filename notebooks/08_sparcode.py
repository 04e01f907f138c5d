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
# **Question.** A learned similarity looks at a query and an item *together*, so its scores cannot be computed beforehand: there
# are too many queries. What if there were only a few thousand? SparCode rounds every query to a handful of **codes**; then each
# code's score with each item can be kept in an **inverted index**, as a search engine keeps words. You will train one, look at what
# its codes mean, and see how much of the index can be thrown away.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

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
# An encoder reads the history as ever. Its output becomes $K$ **tokens** (several interests), each token is cut into $M$ pieces,
# and each piece is replaced by the nearest of $N$ **codewords**. The $M$ choices are the token's code: there are only $N^M$. A
# scorer $f$ sees the rounded tokens and the item:
#
# $$\varphi(q, x) = \sum_{k=1}^{K} \mathrm{ReLU}\big(f(\hat t_k, x) + b\big)$$
#
# The codebooks have no gradient. They follow the tokens by moving averages, and words that nobody chooses are moved to where tokens
# are.

# %%
family = {"quick": "sparcode-quick", "standard": "sparcode-cpu", "full": "sparcode-cpu"}[profile]
sequences = data.load(dataset)
methods = {"two-tower": "sa-two-tower-plain", "SparCode": "sa-sparcode"}
trained = {m: load_or_train(preset(f"{family}/{name}"), sequences, seed=seed) for m, name in methods.items()}

# %%
history = trained["SparCode"].history.assign(run="SparCode")
figures.training_curves(history)

# %% [markdown]
# Both models below share encoder, data, history and negatives. What differs is what stands between the encoder and the items. (The
# budget is small: read the numbers as an illustration, and the table at the end for more.)

# %%
results = measured([({"method": m}, t) for m, t in trained.items()])
record("two-tower and SparCode", results)
table(results[["method", "HR@10", "HR@50", "NDCG@10", "low", "high", "minutes"]])

# %% [markdown]
# ## Are the codes used?
#
# **Perplexity** says how many codes are in use as if all were equally frequent. A quantizer *collapses* when it falls
# towards 1: then all users look alike.

# %%
model = trained["SparCode"].retriever()
usage = usage_table(model, sequences)
record("use of codes", usage)
table(usage)

# %% [markdown]
# ## Codes you can look at
#
# The most frequent codes: what the histories of their users have more of than others' (×2 is twice as much), and
# which items the code scores highest. Nobody told the model about genres.

# %%
codes = code_table(model, sequences)
record("codes", codes)
table(codes)

# %% [markdown]
# Where the genres of users and items agree, a code is an interest; where they do not, it may have learned what comes *next*.
#
# ## The index, and how sparse it may be
#
# For each code the index holds the items with $f > -b'$, best first. Serving is: encode, look up $K$ codes, add up $K$ lists. The
# scorer never runs. Since $b'$ only cuts lists shorter, one index serves every sparsity.

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
# Far to the left of the picture nearly every score is kept, far to the right one in a thousand. Look for the place where quality
# begins to fall: everything left of it is memory for nothing. *short* is the share of users whose lists hold fewer than 50 items.
#
# The same sweep to read off, as shares of what brute force over the learned score gives and of what the whole index takes.

# %%
cuts = index_rows.drop("learned threshold").assign(full=1 - index_rows["short"])
cuts = cuts.assign(average_items=cuts["average_items"].round().astype(int))
whole = {**sweep.iloc[-1], "mebibytes": cuts["mebibytes"].max()}
names = {"NDCG@10": "NDCG@10", "HR@50": "HR@50", "mebibytes": "bytes of the whole index"}
curves = tour_experiments.curves_of(cuts, "average_items", names, whole)
full = tour_experiments.curves_of(cuts, "average_items", {"full": "users with 50 items in their lists"})
axes = Axes("items in a code's list, on average", "share", unit="items per code", share=True)
start = int(cuts["average_items"].max())
ReadOff("Cut the lists", pd.concat([curves, full]), axes, "items", "Mean length of a list", start)

# %% [markdown]
# **To answer with the control.** How long must the lists be to keep nine tenths of NDCG@10? Why does HR@50 fall sooner?
#
# <details><summary>An answer</summary>
#
# HR@50 needs fifty items that the user has not met yet, from the few lists of the user's codes: the share of users who still have
# them falls first. The lengths for these data stand below.
#
# </details>

# %%
findings.list_lengths(curves, sequences.num_items)

# %% [markdown]
# ## A tree instead
#
# TDM keeps items in a tree and walks down with a beam, scoring as it goes. It, too, allows any scorer; but it must *run* the scorer,
# at every level.

# %%
beams = tree_beams(trained["SparCode"], sequences, beams=(10, 50, 200))
record("tree", beams)
table(beams)

# %% [markdown]
# ## One thing changed at a time
#
# What `workbench study run sparcode-ablation` measured for this dataset, where it was run: the way a token meets an item, how gradients
# pass the rounding, how codebooks are laid out. All have the same epochs and learning rate, and one seed.
#
# On MovieLens 1M more codewords help most. Codebooks for what the one before left over, and an inner product without the MLP
# beside it, do as well as what was chosen or a little better: their intervals overlap. CrossNet and the MLP alone are behind:
# nothing in them starts as an inner product.

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
# In its paper SparCode is far above a two-tower and close to **All-to-All**, the same scorer without codes. `workbench
# study run sparcode-steps` went from the one to the other on MovieLens 1M with one thing changed at a time.

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
# *epoch* is NDCG@10 of the validation items after so many, the line in each bar its 95 % interval on test items. Three things come out:
#
# - **How tokens start decides much.** The encoder ends near the items it read, and a two-tower compares it with those very items.
#   Linear maps that start at random lose this; started alike on both sides (`aligned`), they lose nothing.
# - **All-to-All then draws level with the two-tower, and no more.** It is behind early on and catches up. A likely reason: where
#   items are nothing but learned vectors, training bends them to the inner product, and little is left for an MLP to find.
# - **Codes cost the rest.** SparCode is below both. Eight times the codewords bring some of it back; doubling the training lifts
#   all three and leaves the gap. With the commitment loss alone as the encoder's teacher it learns next to nothing of users.
#
# Is that so behind every encoder? The paper has two more tokenizers: a DNN over the pooled history, and a GRU. The same budget and
# learning rate for all, one seed (`workbench study run sparcode-towers`):

# %%
written = paths.reports() / "tables" / "sparcode-towers.csv"
towers = pd.read_csv(written) if written.is_file() else pd.DataFrame()
shown = [c for c in ("tower", "method", "NDCG@10", "low", "high", "HR@50") if c in towers]
table(towers[shown]) if len(towers) else "run `workbench study run sparcode-towers`"

# %% [markdown]
# Behind the DNN and the GRU the published order appears: All-to-All first, SparCode next, the two-tower last, its interval
# apart from both. The weaker the encoder, the more an interaction adds; self-attention, the strongest of the three, leaves it nothing to add
# here, and codes then only cost.
#
# On its other dataset, Deezer, the paper's embeddings are *given*, and users are known by features alone. `workbench study
# run sparcode-given` puts MovieLens 1M into that shape: items have embeddings from a singular value decomposition that stay as they are, and users are told by gender, age and occupation.

# %%
features = {"": "gender, age, occupation", "-known-5": "and their first five items"}
written = {f: paths.reports() / "tables" / f"sparcode-given-ml-1m{end}.csv" for end, f in features.items()}
given = [pd.read_csv(path).assign(features=f) for f, path in written.items() if path.is_file()]
shown = ["features", "method", "mean", "deviation", "seeds"]
rows = pd.concat(given).query("metric == 'NDCG@50'")[shown].reset_index(drop=True) if given else None
table(rows) if given else "run `workbench study run sparcode-given`"

# %% [markdown]
# There, too, the published order appears, behind a DNN that reads the features: SparCode and All-to-All stand level, above both two-towers. An inner product with vectors that were
# made for something else cannot say everything, for one that some items are liked by all; a learned interaction can. But look at
# the last row of each kind, too: within this budget nothing does better than popularity. It is the order of the paper, not its
# strength.

# %% [markdown]
# ## What you have seen
#
# - A query that is rounded to codes turns a similarity of any shape into a look-up: nothing is scored online.
# - Most of the index can be left out before quality moves, and the cut needs no training and no scoring.
# - Rounding must let gradients through. If the rounding error alone trains the encoder, which is all that the paper's text says, it
#   learns to be easy to round rather than to be useful: compare *gradient: commitment alone* above.
# - In these runs a learned interaction helped behind weaker encoders and where embeddings were given, and not behind self-attention
#   with item vectors that were trained with it.
#
# **To try.** Train with `sparcode-quick/sa-sparcode-commitment` and look at the codes again. Then ask for 95 % sparsity: which users
# run out of items first?
