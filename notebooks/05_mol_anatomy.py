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
# **Question.** What is inside one Mixture-of-Logits score, and who uses which part of it? You will take a score apart into component
# scores and gate weights, switch components off, see what a dot product and MoL show the same user and why, find out which
# components popular and rare items use, what the load-balancing loss does, and look at a map of the items.
#
# MoL compares $P_q$ vectors $f_i(q)$ of the query with $P_x$ vectors $g_j(x)$ of the item, each of unit length, and mixes the
# $P = P_q \cdot P_x$ cosines, divided by a temperature $\tau$, by a gate that sees query, item and the cosines themselves:
#
# $$\phi(q, x) = \sum_{i,j} \pi_{ij}(q, x)\, s_{ij}(q, x), \qquad s_{ij} = \frac{\langle f_i(q), g_j(x) \rangle}{\tau},
# \qquad \pi = \mathrm{softmax}\big(w(q, x, s)\big)$$

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = -1

# %%
import pandas as pd

from workbench import anatomy, data
from workbench.explore import anatomy as drawn
from workbench.explore import findings
from workbench.explore.anatomy_widgets import (
    ComponentMap,
    ComponentUsage,
    ScoreAnatomy,
    SideBySide,
)
from workbench.explore.tables import table
from workbench.explore.update_times import answers
from workbench.models.model_store import find_trained, load_or_train
from workbench.models.recommend import history
from workbench.reporting import record
from workbench.training.presets import lineup, preset

# %% [markdown]
# Two retrievers with the same encoder, taken from `ckpts/` or trained now where they are missing, and as a third the mixture trained
# once more without its load-balancing loss. Where that one is missing, the quick profile trains it (half a minute); for a larger
# dataset it is left out, with the command that makes it.

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
# Where `user` is −1, a user is looked for among the first 256 whose next item MoL ranks much better than the dot product does:
# an example that was chosen to show something, and no measurement (**03_compare_similarities** has those).

# %%
user = anatomy.illustrative_user(dot, mol) if user < 0 else user
record("user", user)
table(history(sequences, user))

# %% [markdown]
# **The score, taken apart.** Each cell of the heatmaps is a pair of groups: how well query vector $f_i$ and item vector $g_j$ agree
# ($s$, red is agreement), how much the gate lets that count ($\pi$), and the product. The bars below add the products up to $\phi$. Beside
# them: how $\phi$ changes when one component is switched off and the others share out its weight, and how it moves with $\tau$.

# %%
ScoreAnatomy(mol, user)

# %% [markdown]
# - Choose another item in *item*, or type a part of a title into *find*: the first entry is the item that came next.
# - *τ* scales all cosines, and the gate sees them: at a low temperature the scores of this item and of a mean item move far apart.
# - *T* belongs to the gate alone: near 0 the largest weight takes all, far above 1 all components count the same.
#
# **To answer with the controls.** Does the score hang on one component? Switch off the one with the largest product.
#
# <details><summary>An answer</summary>
#
# Look at the rank in the title and not at the score: the other components share out the weight, so the score often hardly moves,
# or even rises where the component scored below the others; but every other item is scored anew too. Where the rank jumps, this
# component was what told the item from its neighbours.
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
record("weight of the largest component", parts["weight"].max())
record("score of the item that came next", parts["product"].sum())

# %% [markdown]
# ## The same user, twice
#
# What both retrievers would have shown, the held-out item marked ★ (below the lists where it is not among them). A bar is a score; that of
# MoL is cut into its largest components. A dot product has nothing to cut: its coordinates mean nothing one by one, since any rotation
# of all vectors gives the same scores.

# %%
SideBySide([dot, mol], user)

# %% [markdown]
# **To answer with the controls.** Do all items of a MoL list come in through the same components?
#
# <details><summary>An answer</summary>
#
# Compare the lists of a few users: within one list the first components are often the same, in another order further down, and
# between users they differ more. That is the query's part of the gate at work; what varies along a list is the item's.
#
# </details>

# %% [markdown]
# ## What is a component worth?
#
# Switch each one off for many users at once, rank the whole catalogue again, and compare with the model as trained, user by user.
# The lines are two standard errors: a bar whose line crosses 0 may be luck.

# %%
users = sequences.users_with("test")[:512]
worth = anatomy.ablate_components(mol, users)
drawn.switched_off_bars(worth)

# %% [markdown]
# ## Who uses which component?
#
# Over all users with their held-out item. Change the grouping to genres, or show the difference from the mean of all groups.

# %%
pairs = {name: anatomy.held_out_pairs(s) for name, s in subjects.items() if s is not dot}
ComponentUsage({name: (subjects[name], p) for name, p in pairs.items()})

# %% [markdown]
# **To answer with the controls.** Did the components divide the items among them by genre or by popularity?
#
# <details><summary>An answer</summary>
#
# Compare the groupings, with *less mean* switched on. Where deciles of popularity lie further apart than genres, some components
# serve the blockbusters and others the rare items, though nobody told the gate what is popular. Where the gate is nearly even
# everywhere, the mixture is close to a mean of its components. The distances in these data stand below.
#
# </details>

# %%
groups_of = {"genre": "genres", "popularity": "deciles of popularity"}
possible = anatomy.groupings(sequences)
if "genre" not in possible:
    print(f"{dataset} has no genres: only popularity groups its items")
distances = {groups_of[by]: anatomy.spread(mol, pairs["HSTU + MoL"], by) for by in possible}
for groups, distance in distances.items():
    record(f"distance of mean weights between {groups}", distance)
findings.component_use(distances, len(anatomy.component_names(mol.retriever.similarity)))

# %% [markdown]
# ## With and without load balancing
#
# Left alone, a gate can let a few components do all the work. The auxiliary loss $-H\big(\overline{\pi}\big) + \overline{H(\pi)}$ rewards weights that are even
# *on average* and decided *in each pair*; its negative is the mutual information between pair and component.

# %%
components, models = anatomy.balance({name: (subjects[name], p) for name, p in pairs.items()})
drawn.balance_bars(components)

# %%
metrics = {name: trained[name].metrics.set_index("metric")["value"] for name in pairs}
measured = pd.DataFrame({m: [metrics[name][m] for name in pairs] for m in ("HR@10", "NDCG@10")})
table(
    pd.concat([models, measured], axis=1)
    .set_index("model")
    .T.rename(index=lambda name: name.replace("_", " "))
)

# %%
for row in models.itertuples():
    record(f"mutual information, {row.model}", row.mutual_information, unit="nats")
    record(f"components in use on average, {row.model}", row.in_use_on_average)

# %% [markdown]
# *In use* is the exponential of an entropy: 4 would be four components with the same weight. One run of each with one seed: small
# differences of the metrics between them are no finding.
#
# ## A map of the items
#
# The component embeddings $g_j(x)$ of all items along the two directions in which they differ most (principal components). Draw a lasso
# around points to list them, or search titles; colour them by genre, popularity or the component that weighs most for those users who
# score the item highest.

# %%
ComponentMap(mol)

# %% [markdown]
# A principal plane keeps the share of the variance that its axes state, and no more: neighbours on the map need not be neighbours in all
# dimensions. **To answer with the controls.** What lies in the tight clusters, where there are any?
#
# <details><summary>An answer</summary>
#
# Colour by popularity and list one with the lasso. Items with next to no interactions were hardly ever a target: they only served as
# negatives, and all were pushed the same way.
#
# </details>
#
# ## How fast do the dashboards answer?
#
# Milliseconds from a change of a control until the new figure has left for the browser, on this machine as it was; and what of that its
# processors worked on it, which is less where they had other work too.

# %%
others = [int(u) for u in sequences.users_with("test")[:12]]
names = anatomy.component_names(mol.retriever.similarity)
trials = {
    "one score": (
        ScoreAnatomy(mol, user),
        [("user", u) for u in others] + [("T", 2.0), ("τ", 0.1), ("off", (names[0],)), ("τ", 0.02)],
    ),
    "two lists": (SideBySide([dot, mol], user), [("user", u) for u in others]),
    "map": (
        ComponentMap(mol),
        [("colour", "popularity decile"), ("find", "the"), ("colour", "genre"), ("find", "")],
    ),
}
answered = answers(trials)
record("updates of the dashboards (ms)", answered)
table(answered.round(0))

# %% [markdown]
# ## What you have seen
#
# - A MoL score is a weighted mean of temperature-scaled cosines; the gate, not the cosines, makes it more than a dot product.
# - Components may specialise without being told to, and what they divide first may be popularity and not taste: the finding above
#   says whether they do here.
# - Switching off a component is not the same as losing its product: the others take over its weight.
#
# **To try.** Find a user whose held-out item the dot product ranks *better*. Then take the temperature of the gate far down: how much of
# the ranking survives when each pair is judged by one component alone? **06_exact_topk** turns the same component scores into
# a proof that a list is complete.
