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
# # 04 · Universal approximation: what a dot product cannot express
#
# **Question.** Let a matrix $A$ hold the score that every query *should* give every item. How closely can a dot product of
# width $d$ approximate it? How closely can a Mixture-of-Logits (MoL) with components of the same width? And is the comparison
# fair?
#
# You will see a lower bound on the error of any dot product (its *floor*), a proof that a mixture of two components has no such
# floor, and a trained MoL that falls below it. Then come the caveats: MoL needs more parameters, its advantage comes entirely
# from its gate, and being *able* to represent a matrix is not the same as *learning* it.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
matrix = ""
view = ""

# %% [markdown]
# ## First, by hand
#
# Three queries and three items; each query wants one item and none of the others. The best dot product of width 1 keeps one
# term of the singular value decomposition.

# %%
import torch

from workbench.course import check

wanted = torch.eye(3)
u, sigma, v = torch.linalg.svd(wanted)
closest = sigma[0] * u[:, :1] @ v[:1]
error = (wanted - closest).norm() / wanted.norm()
print(f"closest scores:\n{closest}\nrelative error: {error:.4f}, √(2/3) = {(2 / 3) ** 0.5:.4f}")

# %% [markdown]
# `dataset` is not used here: the scores are synthetic, or yours. `matrix` can be the path of a CSV file of your own
# (comma-separated numbers, one row per query, no header, at most 256 × 256).

# %%
from dataclasses import replace
from pathlib import Path

import pandas as pd

from workbench.explore import approximation as figures
from workbench.explore import findings
from workbench.explore.approximation_widget import Approximation, Widths
from workbench.explore.tables import table
from workbench.reporting import record
from workbench.theory import comparisons, construction, floor, targets
from workbench.theory.fitting import FitConfig, fitted

# %% [markdown]
# The library computes the same floor for the three queries above.

# %%
assert abs(floor.floor(wanted, 1) - (2 / 3) ** 0.5) < 1e-6

# %%
sizes = {"quick": (96, 32, 300, 1), "standard": (128, 64, 2000, 3), "full": (256, 64, 2000, 5)}
n, hidden, steps, repeats = sizes[profile]
mol = FitConfig(width=4, gate_hidden=hidden, steps=steps)
seeds = range(seed, seed + repeats)
pd.Series(
    {"queries and items": n, "hidden units of the gate": hidden, "steps": steps, "seeds": repeats}
).to_frame("")

# %% [markdown]
# ## Target scores
#
# Five matrices. In every picture of scores, rows are queries, columns are items, red is above 0 and blue below. For some of
# them the **rank**, the number of linearly independent rows, is known: it is the width that an exact dot product needs.

# %%
wanted = {name: make(n, seed) for name, make in targets.TARGETS.items()}
if matrix:
    wanted["yours"] = targets.read_matrix(Path(matrix).expanduser())
figures.gallery({name: pd.DataFrame(target.scores.numpy()) for name, target in wanted.items()})

# %%
ranks = pd.DataFrame(
    [(name, floor.rank(t.scores), t.rank, t.explanation) for name, t in wanted.items()],
    columns=["target", "rank", "rank_in_theory", "description"],
)
table(ranks)

# %% [markdown]
# *Similar, not identical* is the most important one. Queries and items are points on a sphere in four dimensions, so four
# numbers describe each. A query wants items that are similar to it, but not too similar: more of the same kind, not the same
# thing again. Its matrix has full rank.
#
# ## The floor
#
# The score matrix of a dot product of width $d$ has rank at most $d$. By Eckart and Young (1936), the best approximation of $A$
# among all such matrices is the sum of the first $d$ terms of its singular value decomposition, with singular values
# $\sigma_1 \ge \sigma_2 \ge \dots$:
#
# $$\min_{\operatorname{rank} \Phi \le d} \frac{\|A - \Phi\|}{\|A\|}
# = \sqrt{\frac{\sum_{i > d} \sigma_i^2}{\sum_i \sigma_i^2}} .$$
#
# The error is *relative*: predicting 0 everywhere gives 1.

# %%
curves = [
    pd.DataFrame({"target": name, "width": range(len(curve)), "floor": curve.numpy()})
    for name, curve in ((name, floor.floor_curve(t.scores)) for name, t in wanted.items())
]
figures.floor_lines(pd.concat(curves))

# %% [markdown]
# The block matrix needs eight dimensions and no more: there a dot product is the right tool. The identity and the random signs
# need as many dimensions as there are items, which is out of reach for a catalogue of millions.
#
# ## A mixture has no floor
#
# MoL scores a pair by $\phi = \sum_p \pi_p s_p$: several dot products $s_p$ of small width, mixed by a gate, $\pi_p \ge 0$,
# $\sum_p \pi_p = 1$. Claim (theorem 1 of *Retrieval with Learned Similarities*): with enough components it represents *any*
# matrix. Two components are enough for the proof, both constant and of width 1. Let $c = \max |A|$:
#
# $$s_1 = +c, \qquad s_2 = -c, \qquad \pi_1 = \tfrac{1}{2}\left(1 + \tfrac{A}{c}\right), \qquad
# \phi = \pi_1 c - (1 - \pi_1)\, c = A .$$
#
# The lemma as printed takes another route: factor $A$, truncate the factors at width $d$, and let the gate scale each entry by
# the remaining ratio. But an entry of the truncated product that is 0 cannot be scaled, and for $A = I$ almost all of them are.

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
# The two-component mixture is exact up to rounding in $A/c$; the printed construction misses entries of the identity by 1.0,
# which is their whole value. (Most matrices have no zeros to fail on, as the other rows show.) Two conclusions: the theorem
# holds, and **all the rank is in the gate**. A gate that may be any matrix can represent anything by itself, so the theorem
# alone is no argument for MoL. What matters is what a gate with few parameters can *learn*.
#
# ## Train both
#
# From here on embeddings are free parameters: each query and each item has $d$ numbers that Adam optimises. MoL also learns the
# projections to its $4 \times 4$ components and a gate with three inputs: the query, the item, and the component scores of the
# pair. The view below was trained just now; with a kernel, *Train* trains both models with other settings. Hover over a heatmap
# for its entries.

# %%
explorer = Approximation(replace(mol, seed=seed), n=n, matrix=wanted.get("yours"))
explorer.run()
explorer.at(view)

# %% [markdown]
# The error of the dot product falls to its floor, the dashed line, and stays there: it cannot get any better. MoL crosses the
# line. Look at the singular values: those of the dot product end after $d$, those of MoL extend over the full rank.
#
# **To try, with a kernel.** *block*, $d = 8$: which is better, and why? Set the gate to *none*: what happens to the singular
# values?
#
# How wide must a dot product be to come as close as MoL of width 4? Move $d$, on a target with much structure and no low rank,
# and on one of rank 8.

# %%
fits = {name: fitted(wanted[name], replace(mol, seed=seed)) for name in ("similar, not identical", "block")}
Widths(fits, start=4).at(view)

# %%
findings.widths(fits)

# %% [markdown]
# ## Is the comparison fair?
#
# Not yet. MoL has the same width but more parameters, namely the projections and the gate. So we add a second line, the floor
# of the (wider) dot product with **the same total number of parameters**. We start with random signs, which have no structure
# to learn and can only be memorised.

# %%
noise = comparisons.over_seeds(
    comparisons.compare(wanted["random signs"], comparisons.by_width(mol, (4, 8, 16)), seeds)
)
figures.width_lines(noise)

# %%
spread = ["low", "high"] if repeats > 1 else []
columns = ["fit", "error", *spread, "floor", "equal_floor", "equal_width", "rank", "signs"]
headings = {
    "floor": "floor,_same_width",
    "equal_floor": "floor,_equal_parameters",
    "equal_width": "width,_equal_parameters",
    "signs": "signs_right",
}
record("random signs", noise[columns])
table(noise[columns].rename(columns=headings))

# %% [markdown]
# *Width, equal parameters* is the width of the dot product that has as many parameters; *signs right* is the share of entries
# whose score has the sign of the target. Noise can only be memorised, number by number: the fair comparison is with the floor
# of equal parameters. MoL's shared parameters do not grow with the number of items: compare the errors with those of
# `profile = "standard"`, which has more items and more steps.

# %%
findings.against_floors(noise)

# %% [markdown]
#
# ## Capacity and learnability
#
# *Similar, not identical* has structure: four numbers per point and one rule. We train the same MoL from three initialisations:
#
# - **latents**: the embeddings start as the points that the matrix was made from. This shows **capacity**: what MoL can
#   represent.
# - **random**: this shows **learnability**.
# - **spectral**: the embeddings start as those of the best dot product, so MoL starts from the best dot-product solution.

# %%
sphere = wanted["similar, not identical"]
starts = comparisons.over_seeds(comparisons.compare(sphere, comparisons.by_start(mol, sphere), seeds))
figures.fit_dots(starts, "Similar, not identical: the same MoL from three starts")

# %%
record("starts", starts[columns])
for start, error in zip(starts["fit"], starts["error"], strict=True):
    record(f"similar, not identical: error from {start}", error)
record(f"similar, not identical: floor of width {starts['width'][0]}", starts["floor"][0])
record("similar, not identical: floor of equal parameters", starts["equal_floor"][0])
table(starts[columns].rename(columns=headings))

# %% [markdown]
# What MoL reaches from the latents is its capacity; what it lacks from another start, training did not find. In a real
# retriever the embeddings come from an encoder and not from a table of free vectors.

# %%
findings.starts(starts)

# %% [markdown]
#
# ## Ablation of the gate
#
# Theory says what each gate can represent, with components of width $d$:
#
# - **uniform** (no gate): a sum of dot products is a dot product, so the rank is at most $d$;
# - **query only**: weights that depend on the query alone can be multiplied into its vectors. The result is one plain dot
#   product of width $P_x d$ ($4 d$ here): higher rank, and exact search with any index for dot products;
# - **pair only** and **full**: the weights depend on the pair, and the rank is not bounded by the width.

# %%
gates = comparisons.over_seeds(
    comparisons.compare(wanted["random signs"], comparisons.by_gate(replace(mol, width=8)), seeds)
)
record("gates", gates[columns])
figures.fit_dots(gates, "Random signs, d = 8: the parts of the gate")

# %%
findings.against_floors(gates)

# %% [markdown]
# And the number of components, with the full gate:

# %%
components = comparisons.over_seeds(
    comparisons.compare(wanted["random signs"], comparisons.by_components(replace(mol, width=8)), seeds)
)
record("components", components[columns])
figures.fit_dots(components, "Random signs, d = 8: P = Pq · Px components")

# %%
findings.against_floors(components)

# %% [markdown]
# ## The spectrum of the learned score
#
# Where does the rank come from? The figure shows the singular values of the target, of the dot product, and of MoL with two
# gates.

# %%
by_gate = comparisons.by_gate(replace(mol, width=8))
chosen = {"dot": replace(mol, similarity="dot", width=8)} | {
    "MoL, query only": by_gate["query only"],
    "MoL": by_gate["full"],
}
figures.spectra(comparisons.spectra(wanted["random signs"], chosen))

# %% [markdown]
# A line that ends early is a score matrix of low rank: 8 for the dot product, 32 for the gate that sees the query alone. The
# full gate follows the target over its whole spectrum, slightly below it.
#
# ## Values or order?
#
# One more caveat. The floor bounds the error of the *values*, but a retriever only needs the right *order*. The identity is the
# worst case for the floor, and yet two dimensions rank it perfectly: place each query on a circle, with its own item at the
# same point, and each query is closest to its own item.

# %%
queries, items = construction.circle(n)
scores = queries @ items.T
right = float((scores.argmax(1) == wanted["identity"].scores.argmax(1)).double().mean())
record("identity: right first places with a dot product of width 2", round(100 * right), unit="%")
least = floor.floor(wanted["identity"].scores, 2)
table(pd.DataFrame({"right_first_places,_%": [100 * right], "relative_error,_at_least": [least]}))

# %% [markdown]
# How many dimensions an *order* needs is the question of the sign rank. For some sets of relevant items it grows with the
# catalogue (the LIMIT dataset, arXiv 2508.21038, builds on such bounds); how often such sets occur in practice is disputed
# (arXiv 2601.20844). So a lower bound on the error is not a lower bound on ranking quality, and a model below the floor does
# not necessarily rank better: **03_compare_similarities** evaluates rankings.

# %% [markdown]
# ## Exercise
#
# The smallest relative error of a dot product, for any matrix and width. (`torch.linalg.svdvals` gives the singular values,
# the largest first.)


# %%
def least_error(matrix, width):
    "The floor of a dot product of this width, relative to the norm of the matrix."


check("floor", least_error)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def least_error(matrix, width):
#     squares = torch.linalg.svdvals(matrix) ** 2
#     return (squares[width:].sum() / squares.sum()).sqrt()
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - The error of a dot product of width $d$ has a floor, and training reaches it.
# - A mixture of two constant components with a free gate has no floor: the theorem holds, the printed lemma does not, and the
#   corrected proof is simpler.
# - All rank beyond the width comes from the gate. Without one, or with one that sees the query alone, MoL is a plain dot
#   product of width $d$ or $P_x d$.
# - Against a dot product with the same number of parameters, what a mixture gains depends on the target, the parts of its gate
#   and the start of training: the findings above say how much it was in this run, on noise and on a structured target.
#
# **To try.** Use a matrix of your own: a few users, a few items, and the score of each pair. At which width does the dot
# product suffice? Set `profile = "standard"` for more entries, more steps and three seeds (half an hour on two cores).
#
# **Sources.** C. Eckart, G. Young, *The approximation of one matrix by another of lower rank*, Psychometrika 1936. B. Ding, J.
# Zhai, *Retrieval with Learned Similarities*, arXiv 2407.15462. O. Weller and others, *On the Theoretical Limitations of
# Embedding-Based Retrieval*, arXiv 2508.21038. Another view of these limitations: arXiv 2601.20844.
