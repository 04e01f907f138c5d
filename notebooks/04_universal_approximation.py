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
#     after: []
# ---

# %% [markdown]
# # 04 · Universal approximation: what a dot product cannot say
#
# **Question.** Give every query the score it *should* give every item, as a matrix $A$. How near can a dot product of width $d$ come?
# How near a Mixture-of-Logits (MoL) whose components are no wider? And is the comparison fair?
#
# You will see a floor that no dot product passes, a proof that a mixture of two components has no floor at all, a MoL that is trained
# and goes below, and then the lines that keep us honest: MoL pays for it in parameters, it owes all of it to its gate, and being
# *able* to represent a matrix is not the same as *learning* it.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
matrix = ""

# %% [markdown]
# `dataset` is not used here: the scores are made, or yours. `matrix` may name a CSV file of your own (numbers separated by commas, a
# line for each query, no header, at most 256 × 256).

# %%
from dataclasses import replace
from pathlib import Path

import pandas as pd

from workbench.explore import approximation as figures
from workbench.explore.approximation_widget import Approximation
from workbench.explore.tables import table
from workbench.reporting import record
from workbench.theory import comparisons, construction, floor, targets
from workbench.theory.fitting import FitConfig

# %%
sizes = {"quick": (96, 32, 300, 1), "standard": (128, 64, 2000, 3), "full": (256, 64, 2000, 5)}
n, hidden, steps, repeats = sizes[profile]
mol = FitConfig(width=4, gate_hidden=hidden, steps=steps)
seeds = range(seed, seed + repeats)
pd.Series(
    {"queries and items": n, "hidden units of the gate": hidden, "steps": steps, "seeds": repeats}
).to_frame("")

# %% [markdown]
# ## Scores to reach
#
# Five matrices. Of some we know the **rank**, the number of independent rows: it is what a dot product has to pay for.

# %%
wanted = {name: make(n, seed) for name, make in targets.TARGETS.items()}
if matrix:
    wanted["yours"] = targets.read_matrix(Path(matrix).expanduser())
figures.gallery({name: pd.DataFrame(target.scores.numpy()) for name, target in wanted.items()})

# %%
ranks = pd.DataFrame(
    [(name, floor.rank(t.scores), t.rank, t.explanation) for name, t in wanted.items()],
    columns=["target", "rank", "rank_in_theory", "what_it_says"],
)
table(ranks)

# %% [markdown]
# *Similar, not identical* is the one to keep in mind. Queries and items are points of a sphere in four dimensions, four numbers say all
# about each. A query wants what is like it, but not too like it: more of the kind, not the same again. Its matrix has full rank.
#
# ## The floor
#
# A dot product of width $d$ makes a score matrix of rank $d$ at most. Eckart and Young (1936): of all those, none is nearer to
# $A$ than the first $d$ terms of its singular value decomposition, with singular values $\sigma_1 \ge \sigma_2 \ge \dots$:
#
# $$\min_{\operatorname{rank} \Phi \le d} \frac{\|A - \Phi\|}{\|A\|} = \sqrt{\frac{\sum_{i > d} \sigma_i^2}{\sum_i \sigma_i^2}} .$$
#
# The error is *relative*: 1 is what answering 0 everywhere gives.

# %%
curves = [
    pd.DataFrame({"target": name, "width": range(len(curve)), "floor": curve.numpy()})
    for name, curve in ((name, floor.floor_curve(t.scores)) for name, t in wanted.items())
]
figures.floor_lines(pd.concat(curves))

# %% [markdown]
# The block matrix costs eight dimensions and not one more: there a dot product is the right tool. The identity and the coin tosses cost
# as many as there are items. In a catalogue with millions of items, nobody pays that.
#
# ## A mixture has no floor
#
# MoL scores a pair by $\phi = \sum_p \pi_p s_p$: several dot products $s_p$ of a small width, mixed by a gate, $\pi_p \ge 0$,
# $\sum_p \pi_p = 1$. Claim (theorem 1 of the paper): with enough components it gives *any* matrix. The whole proof takes two, of width 1,
# both constant. Let $c = \max |A|$:
#
# $$s_1 = +c, \qquad s_2 = -c, \qquad \pi_1 = \tfrac{1}{2}\left(1 + \tfrac{A}{c}\right), \qquad
# \phi = \pi_1 c - (1 - \pi_1)\, c = A .$$
#
# The lemma as printed goes another way: factor $A$, cut the factors at width $d$, and let the gate scale each entry by the
# ratio that is missing. But where the cut product is 0 there is nothing to scale. For $A = I$ that is almost everywhere.

# %%
rows = []
for name, target in (wanted | {"gaussian": targets.gaussian(n, seed)}).items():
    ours = construction.two_components(target.scores).scores() - target.scores
    printed = construction.rescaled_truncation(target.scores, 4) - target.scores
    rows.append((name, float(ours.abs().max()), float(printed.abs().max())))
proof = pd.DataFrame(
    rows, columns=["target", "largest_error,_two_components", "largest_error,_as_printed_(d = 4)"]
)
record("proof", proof)
table(proof, digits=2)

# %%
record("largest error of the two-component proof", proof.iloc[:, 1].max())
record("largest error of the printed lemma on the identity", proof.iloc[0, 2])

# %% [markdown]
# The two-component mixture is exact where $A/c$ is, and otherwise off by rounding; the printed construction misses entries of the
# identity by 1.0, all there is. (Most matrices have no zeros to stumble on, as the other rows show.) Two things to take from this. The theorem holds. And **all the rank is in the gate**: a gate that may be any matrix can say
# anything by itself, so the theorem alone is no argument for MoL. What matters is what a gate with few parameters can *learn*.
#
# ## Train both
#
# From here on embeddings are free: each query and item has $d$ numbers of its own, and Adam may move them. MoL also learns the
# projections to its $4 \times 4$ components and a gate with three parts, which see the query, the item, and the component scores
# of the pair. *Train* starts both beside each other; hover a picture for the entry. (What is shown first was trained just now.)

# %%
explorer = Approximation(replace(mol, seed=seed), n=n, matrix=wanted.get("yours"))
explorer.run()
explorer

# %% [markdown]
# The dot product comes down to its floor, the dashed line, and stays: it is as good as it will ever be. MoL crosses the line. Look at the
# singular values: those of the dot product end after $d$, those of MoL go all the way.
#
# **To try.** *block*, $d = 8$: which is better, and why? The gate to *none*: what becomes of the line of singular values?
#
# ## Is that fair?
#
# Not yet. MoL has the same width, but more parameters: the projections and the gate. So draw a second line, the floor of the
# (wider) dot product that spends **as many floats in all**. Coin tosses first: nothing to learn, all to remember.

# %%
noise = comparisons.over_seeds(
    comparisons.compare(wanted["random signs"], comparisons.by_width(mol, (4, 8, 16)), seeds)
)
figures.width_lines(noise)

# %%
spread = ["low", "high"] if repeats > 1 else []
columns = ["fit", "error", *spread, "floor", "equal_floor", "equal_width", "rank", "signs"]
record("random signs", noise[columns])
table(noise[columns])

# %% [markdown]
# Far below the floor of its width, everywhere. Beside the line of as many floats there is little between them, a little better at small
# widths, no better at large ones: to remember noise, a float is a float. MoL's shared part is paid for once, whatever the number of
# items: with more of them, and more steps, it comes out below the line at every width, by about a tenth (`profile = "standard"`).
#
# ## What it can do, and what it learns
#
# *Similar, not identical* has structure: four numbers per point and one rule. Three starts of the same MoL:
#
# - **latents**: the embeddings start as the points the matrix was made from. This shows **capacity**: what MoL can represent.
# - **random**: this shows **learnability**.
# - **spectral**: the embeddings start as those of the best dot product, so that MoL begins with what a dot product knows.

# %%
sphere = wanted["similar, not identical"]
starts = comparisons.over_seeds(comparisons.compare(sphere, comparisons.by_start(mol, sphere), seeds))
figures.fit_dots(starts, "Similar, not identical: the same MoL from three starts")

# %%
record("starts", starts[columns])
for start, error in zip(starts["fit"], starts["error"], strict=True):
    record(f"error, similar not identical, from {start}", error)
record("floor of the same width", starts["floor"][0])
record("floor of as many floats", starts["equal_floor"][0])
table(starts[columns])

# %% [markdown]
# From the latents MoL gets nearly every sign right, at a width where a dot product must fail, and with a number of floats that leaves a
# dot product with more than twice the error. From random embeddings the same MoL stays far from what it could be: capacity is shown,
# learnability is not. To start where a dot product ends helps a good deal. (With `profile = "standard"` the order of the
# three is the same, and from random embeddings MoL stays above the line of as many floats there, too.) In a real retriever an encoder, and not a table of free vectors,
# supplies the embeddings.
#
# ## Whose work is it? The gate, part by part
#
# Theory says what each gate can do, with components of width $d$:
#
# - **uniform** (no gate): a sum of dot products is a dot product, the rank is $d$ at most;
# - **query only**: weights that depend on the query alone can be multiplied into its vectors. The whole is one plain dot product of width
#   $P_x d$ ($4 d$ here): more rank, and exact search by any index of dot products;
# - **pair only** and **full**: the weights depend on the pair. The rank is not bounded by the width.

# %%
gates = comparisons.over_seeds(
    comparisons.compare(wanted["random signs"], comparisons.by_gate(replace(mol, width=8)), seeds)
)
record("gates", gates[columns])
figures.fit_dots(gates, "Random signs, d = 8: the parts of the gate")

# %% [markdown]
# And the number of components, with the full gate:

# %%
components = comparisons.over_seeds(
    comparisons.compare(wanted["random signs"], comparisons.by_components(replace(mol, width=8)), seeds)
)
record("components", components[columns])
figures.fit_dots(components, "Random signs, d = 8: P = Pq · Px components")

# %% [markdown]
# ## The spectrum of the learned score
#
# Where does the rank come from? The singular values of the target, of the dot product, and of MoL with two gates.

# %%
by_gate = comparisons.by_gate(replace(mol, width=8))
chosen = {"dot": replace(mol, similarity="dot", width=8)} | {
    "MoL, query only": by_gate["query only"],
    "MoL": by_gate["full"],
}
figures.spectra(comparisons.spectra(wanted["random signs"], chosen))

# %% [markdown]
# A line that breaks off is a score matrix of low rank: 8 for the dot product, 32 for the gate that sees the query
# alone. The full gate follows the target to its end, a little below it.
#
# ## Values, or order?
#
# One more honest line. The floor speaks of *values*; a retriever needs the right *order*. The identity is the worst case of the
# floor, and yet two dimensions rank it without an error: put the queries, and the items that belong to them, on a circle, and each is
# nearest to its own.

# %%
queries, items = construction.circle(n)
scores = queries @ items.T
right = float((scores.argmax(1) == wanted["identity"].scores.argmax(1)).double().mean())
record("identity, first places right with a dot product of width 2", right)
least = floor.floor(wanted["identity"].scores, 2)
table(pd.DataFrame({"first_places_right": [right], "relative_error,_at_least": [least]}))

# %% [markdown]
# How many dimensions an *order* costs is the question of the sign rank. For some sets of relevant items it grows with the catalogue
# (the LIMIT data, arXiv 2508.21038, builds on such bounds); how often such sets occur in practice is disputed (arXiv 2601.20844). So a
# floor under the error is not a floor under the ranking, and what goes below it need not rank better: **03_compare_similarities**
# measures rankings.
#
# ## What you have seen
#
# - A dot product of width $d$ has a floor, and training reaches it.
# - A mixture of two constant components with a free gate has none: the theorem holds, the printed lemma does not, and the mend is simpler.
# - All rank above the width comes from the gate. Without one, or with one that sees the query alone, MoL is a plain dot product, of
#   width $d$ or $P_x d$.
# - On noise MoL about ties a dot product with as many floats. On structure it can win by far, if it starts well.
#
# **To try.** A matrix of your own: a few users, a few items, what each should score. At which width does the dot product suffice? Set
# `profile = "standard"` for more entries, more steps and three seeds (half an hour on two cores).
#
# **Sources.** C. Eckart, G. Young, *The approximation of one matrix by another of lower rank*, Psychometrika 1936. B. Ding, J. Zhai,
# *Retrieval with Learned Similarities*, arXiv 2407.15462. O. Weller and others, *On the Theoretical Limitations of
# Embedding-Based Retrieval*, arXiv 2508.21038.
