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
# # 05 · The anatomy of a mixture
#
# **Question.** What is a Mixture-of-Logits score made of, and which users use which part of it? You will decompose a score into
# component scores and gate weights, switch components off, compare what a dot product and MoL recommend to the same user and
# why, find out which components popular and rare items use, see what the load-balancing loss does, and look at a map of the
# items.
#
# MoL compares $P_q$ vectors $f_i(q)$ of the query with $P_x$ vectors $g_j(x)$ of the item, all of unit length. It divides the
# $P = P_q \cdot P_x$ cosines by a temperature $\tau$ and mixes them with a gate $w$, which reads the query, the item, the
# cosines or several of these:
#
# $$\phi(q, x) = \sum_{i,j} \pi_{ij}(q, x)\, s_{ij}(q, x), \qquad s_{ij} = \frac{\langle f_i(q), g_j(x) \rangle}{\tau},
# \qquad \pi = \mathrm{softmax}\big(w(q, x, s)\big)$$

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = -1
view = ""

# %% [markdown]
# ## First, by hand
#
# Two query vectors, one item vector, and a gate that prefers the first comparison:

# %%
import torch

from workbench.course import check

f = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
g = torch.tensor([[0.8, 0.6]])
s = (f @ g.T).flatten() / 0.05
pi = torch.tensor([2.0, 0.0]).softmax(0)
print(f"s = {s}\nπ = {pi}\nφ = {(pi * s).sum():.2f}")

# %%
import numpy as np
import pandas as pd

from workbench import anatomy, data
from workbench.explore import component_figures as drawn
from workbench.explore import findings
from workbench.explore.anatomy_widgets import (
    ComponentMap,
    ComponentUsage,
    ScoreAnatomy,
    SideBySide,
)
from workbench.explore.tables import table
from workbench.models.model_store import find_trained, load_or_train
from workbench.models.recommend import history
from workbench.reporting import record
from workbench.training.presets import lineup, preset

# %% [markdown]
# Two retrievers with the same encoder are loaded from `ckpts/`, or trained if they are missing. The third is the same mixture
# trained without its load-balancing loss. If it is missing, the quick profile trains it (half a minute); for a larger dataset
# it is skipped, and the command that trains it is printed.

# %%
sequences = data.load(dataset)
presets = {method: lineup(profile, dataset)[method] for method in ("HSTU + dot", "HSTU + MoL")}
trained = {method: load_or_train(chosen, sequences, seed=seed) for method, chosen in presets.items()}

# %%
sister = preset(f"{presets['HSTU + MoL'].name}-unbalanced")
take = load_or_train if profile == "quick" else find_trained
if unbalanced := take(sister, sequences, seed=seed):
    trained["without balancing"] = unbalanced
else:
    print(f"not trained yet: workbench train {sister.name} --dataset {dataset} --seed {seed}")

# %%
subjects = {name: anatomy.ModelView.of(name, t.retriever(), sequences) for name, t in trained.items()}
dot, mol = subjects["HSTU + dot"], subjects["HSTU + MoL"]

# %% [markdown]
# ## One user, one item
#
# If `user` is −1, the notebook picks the one of the first 256 users whose next item MoL ranks furthest above the dot product:
# an illustration, not a measurement (**03_compare_similarities** has those).

# %%
name = "user" if user >= 0 else "user, chosen by the notebook"
user = anatomy.illustrative_user(dot, mol) if user < 0 else user
record(name, user)
table(history(sequences, user))

# %% [markdown]
# The score of the item that came next, **by hand**: the cosines divided by $\tau$, the gate's input $a$ (the query's part times
# the item's part, plus a part that reads the cosines if the gate has one), the weights, the products and their sum, which is
# the score that the library computes.

# %%
model, q = mol.retriever.similarity, mol.queries(np.array([user]))
x = mol.items[mol.target(user) - 1 : mol.target(user)]
s = torch.einsum("id,jd->ij", q.components[0], x.components[0]).flatten()  # (P,); q's are divided by tau
a = q.gate[0] * x.gate[0]
if model.gate_pair is not None:
    a = a + model.gate_pair(s)
pi = (a * a.sigmoid()).softmax(0)
by_hand = (pi * s).sum().item()
np.testing.assert_allclose(by_hand, mol.scores(np.array([user]))[0, mol.target(user) - 1], rtol=1e-4)
shown = pd.DataFrame({"s": s.tolist(), "π": pi.tolist(), "π s": (pi * s).tolist()})
shown.index = anatomy.component_names(model)
shown.loc["sum"] = [np.nan, pi.sum().item(), by_hand]
table(shown)

# %% [markdown]
# **The score, decomposed.** Each cell of the heatmaps is a pair of groups: the component score ($s$) of query vector $f_i$ and
# item vector $g_j$ (red is positive), its gate weight ($\pi$), and the product. The bars below add the products up to $\phi$.
# Next to them: how $\phi$ changes if one component is switched off and the others share its weight, and how it depends on
# $\tau$.

# %%
ScoreAnatomy(mol, user).at(view)

# %% [markdown]
# - With a kernel, choose another item in *item*, or type part of a title into *find*: the first entry is the item that came
#   next.
# - *τ* divides all cosines, also those that a gate may read: at a low temperature the scores of this item and of an average
#   item move far apart.
# - *T* is the temperature of the gate alone: near 0 the largest weight takes everything, far above 1 all components have equal
#   weight.
#
# **To answer with the controls.** Does the score depend on one component? Switch off the one with the largest product.
#
# <details><summary>An answer</summary>
#
# Look at the rank in the title rather than the score: the other components share the weight, so the score often hardly changes,
# or even rises if this component scored lower than the others; but all other items are scored again, too. If the rank drops
# sharply, this component is what distinguished the item from its neighbours.
#
# </details>

# %%
parts = anatomy.components(mol, user, mol.target(user))
largest = parts.sort_values("product", ascending=False).head(5)
table(
    largest[["component", "score", "weight", "product", "score_without", "rank_without"]].reset_index(
        drop=True
    )
)

# %%
record("largest gate weight of the item that came next", parts["weight"].max())
record("score of the item that came next", parts["product"].sum())

# %% [markdown]
# ## The same user, twice
#
# What both retrievers would have recommended, with the held-out item marked ★ (below a list if it is not in it). A bar is a
# score; for MoL it is split into its largest components (hover over a slice for its name). A dot product cannot be split in a
# meaningful way: its coordinates have no individual meaning, since any rotation of all vectors gives the same scores.

# %%
SideBySide([dot, mol], user).at(view)

# %% [markdown]
# **To answer with the controls.** Do all items of a MoL list score through the same components?
#
# <details><summary>An answer</summary>
#
# Compare the lists of a few users: within one list the first components are often the same, in a different order further down,
# and between users they differ more. That is the query's part of the gate; the variation within a list comes from the item's
# part.
#
# </details>

# %% [markdown]
# ## What is a component worth?
#
# Switch off each component for many users, rank the whole catalogue again, and compare with the trained model, user by user.
# The lines are two standard errors: a bar whose line crosses 0 may be due to chance.

# %%
users = sequences.users_with("test")[:512]
worth = anatomy.ablate_components(mol, users)
drawn.switched_off_bars(worth)

# %% [markdown]
# ## Who uses which component?
#
# The figure covers all users with their held-out items; the number after a group counts its pairs of user and item. Change the
# grouping to genres, or show the difference from the mean of all groups.

# %%
pairs = {name: anatomy.held_out_pairs(s) for name, s in subjects.items() if s is not dot}
ComponentUsage({name: (subjects[name], p) for name, p in pairs.items()}).at(view)

# %% [markdown]
# **To answer with the controls.** Did the components specialise by genre or by popularity?
#
# <details><summary>An answer</summary>
#
# Compare the groupings with *less mean* switched on. If deciles of popularity lie further apart than genres, some components
# serve popular items and others rare ones, although popularity is not an input of the gate. If the gate is nearly uniform
# everywhere, the mixture is close to the mean of its components. The distances on this dataset are computed below.
#
# </details>

# %%
groups_of = {"genre": "genres", "popularity": "deciles of popularity"}
possible = anatomy.groupings(sequences)
if "genre" not in possible:
    print(f"{dataset} has no genres: only popularity groups its items")
distances = {groups_of[by]: anatomy.spread(mol, pairs["HSTU + MoL"], by) for by in possible}
for groups, distance in distances.items():
    record(f"distance of mean weights from the overall mean, {groups}", round(distance, 3))
findings.component_use(distances, len(anatomy.component_names(mol.retriever.similarity)))

# %% [markdown]
# ## With and without load balancing
#
# Without regularisation, a gate can put all weight on a few components, or spread it over all of them for every pair: either
# way the pair has no say. The auxiliary loss $-H\big(\overline{\pi}\big) + \overline{H(\pi)}$ rewards weights that are even *on
# average* but concentrated *for each pair*; its negative is the mutual information between pair and component. The figure shows
# the average, the table both.

# %%
components, models = anatomy.balance({name: (subjects[name], p) for name, p in pairs.items()})
drawn.balance_bars(components)

# %%
metrics = {name: trained[name].metrics.set_index("metric")["value"] for name in pairs}
measured = pd.DataFrame({m: [metrics[name][m] for name in pairs] for m in ("HR@10", "NDCG@10")})
names = {
    "in_use_on_average": "components in use, on average",
    "in_use_per_pair": "components in use, for each pair",
    "mutual_information": "mutual information (nats)",
    "largest": "largest mean weight",
    "unused": "components with a mean weight below 1%",
}
table(pd.concat([models, measured], axis=1).set_index("model").T.rename(index=names))

# %%
for row in models.itertuples():
    record(f"mutual information, {row.model}", round(row.mutual_information, 3), unit="nats")
    record(
        f"components in use for each pair, of {row.components}, {row.model}", round(row.in_use_per_pair, 2)
    )
findings.balance(models)

# %% [markdown]
# *In use* is the exponential of an entropy: 4 corresponds to four components with equal weight. Each model was trained once,
# with one seed, so small differences between their metrics mean nothing.
#
# ## A map of the items
#
# The component embeddings $g_j(x)$ of all items, projected to their first two principal components. Colour them by genre, by
# popularity, or by the component with the largest weight for the users who score the item highest. With a kernel, draw a lasso
# around points to list them, or search titles.

# %%
ComponentMap(mol).at(view)

# %% [markdown]
# The axes state which share of the variance the plane keeps: neighbours on the map need not be neighbours in all dimensions.
# **To answer with the controls.** What is in the tight clusters, if there are any?
#
# <details><summary>An answer</summary>
#
# Colour by popularity and, with a kernel, list one with the lasso. Items with next to no interactions were hardly ever a
# target: they served only as negatives, and were all pushed in the same direction.
#
# </details>

# %% [markdown]
# ## Exercise
#
# The component scores $s_{ij}$ of one pair, from vectors of any length.


# %%
def component_scores(f, g, tau):
    "s (Pq, Px) of query vectors f (Pq, d) and item vectors g (Px, d), with temperature tau."


check("component scores", component_scores)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def component_scores(f, g, tau):
#     f, g = (x / x.norm(dim=1, keepdim=True) for x in (f, g))
#     return f @ g.T / tau
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - A MoL score is a weighted mean of temperature-scaled cosines; the gate, not the cosines, makes it more expressive than a dot
#   product.
# - Components can specialise without supervision, and popularity may separate them before taste does: the finding above shows
#   whether that happens here.
# - Switching off a component is not the same as losing its product: the others take over its weight.
#
# **To try.** Find a user whose held-out item the dot product ranks *better*. Then lower the gate's temperature: how much of the
# ranking remains if a single component decides each pair? **06_exact_topk** turns the same component scores into a proof that a
# list is complete.
