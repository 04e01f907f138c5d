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
# # 03 · Comparing similarities
#
# **Question.** Does a learned similarity find better items than a dot product, for which users, and how certain is the answer?
# Every method ranks **all items** that a user has not had yet, and the held-out last item should be ranked first. You will see
# the metrics with their intervals, the difference between two methods user by user, which items it comes from, and the lists
# that one user gets from two methods.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
user = -1
view = ""

# %% [markdown]
# ## First, by hand
#
# Five users, and the rank of the held-out item for each. These are the metrics of this notebook.

# %%
import torch

from workbench.course import check

found_at = torch.tensor([1.0, 3.0, 12.0, 2.0, 40.0])
by_hand = {
    "HR@10": (found_at <= 10).float().mean().item(),
    "NDCG@10": (1 / torch.log2(1 + found_at))[found_at <= 10].sum().item() / len(found_at),
    "MRR": (1 / found_at).mean().item(),
}
by_hand

# %%
import pandas as pd

from workbench import data, paths
from workbench.data.examples import example_user
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, compare
from workbench.evaluation.published import published
from workbench.evaluation.switchboard import AS_STRICT, one_switch, switchboard
from workbench.explore import figures, findings, index_findings
from workbench.explore.protocol_widget import ProtocolSwitchboard
from workbench.explore.tables import table
from workbench.explore.widgets import MetricExplorer
from workbench.models.model_store import load_or_train
from workbench.models.recommend import by_popularity, history, recommendations
from workbench.reporting import record
from workbench.studies.choice_studies import Choices
from workbench.studies.fair_studies import Fair, format_fair
from workbench.studies.result_formats import of_choices, of_protocols
from workbench.studies.seed_studies import Seeds
from workbench.studies.seeds import format_seeds
from workbench.training.presets import learned_indexes, lineup

# %% [markdown]
# The library gives the same for the five users above.

# %%
by_library = metrics(found_at, ks=(10,))
assert all(abs(by_library[name] - value) < 1e-6 for name, value in by_hand.items())

# %%
sequences = data.load(dataset)
compared = lineup(profile, dataset)
presets = compared | learned_indexes(profile)
trained = {method: load_or_train(preset, sequences, seed=seed) for method, preset in presets.items()}
ranks = {method: t.ranks(sequences) for method, t in trained.items()}

# %% [markdown]
# ## The protocol
#
# A metric means nothing without its evaluation protocol. This is ours.

# %%
table(STRICT.card())

# %% [markdown]
# ## The result
#
# Next to the two similarities stand two methods that learn their own index: SparCode (notebook 08) and Deep Retrieval (09).
# Deep Retrieval is evaluated on what its index returns: a target that it does not return is a miss. All other methods score
# every item. The best value of a column is bold.
#
# **HR@k** is the share of users whose next item is in the first *k*. **NDCG@k** also gives more credit to higher ranks. **MRR**
# is the mean of 1/rank. Intervals are 95 % bootstrap intervals over users.

# %%
results = pd.concat([t.metrics.assign(method=m) for m, t in trained.items()], ignore_index=True)
chosen = ["HR@1", "HR@10", "HR@50", "HR@200", "NDCG@10", "MRR"]
measured = results[results["metric"].isin(chosen)].pivot(index="method", columns="metric", values="value")
measured = measured.loc[list(trained), chosen]
record("results", measured.reset_index())
table(measured, best="columns")

# %%
figures.metric_bars(results, ["HR@10", "NDCG@10", "MRR"])

# %% [markdown]
# ## Explore the metrics
#
# Choose a metric, a cut-off and the methods.

# %%
MetricExplorer(results).at(view)

# %% [markdown]
# **To answer with the controls.** Select HSTU with the dot product and HSTU with MoL. At which list length is MoL's lead
# largest, relative to the metric itself?
#
# <details><summary>An answer</summary>
#
# The list length is printed below. With hundreds of items in the list the two must come close: either one finds most next
# items, and the similarity mainly changes their order near the top.
#
# </details>

# %%
findings.largest_leads(results, [("SASRec + dot", "SASRec + MoL"), ("HSTU + dot", "HSTU + MoL")])

# %% [markdown]
# The same for every cut-off: how long must the list be?

# %%
figures.metric_by_k(results, "HR")

# %% [markdown]
# ## Is the difference real?
#
# Every method is evaluated on the same users, so the comparison can be paired: what makes a user easy for both methods cancels,
# and the interval of the *difference* is narrower than the two bars suggest. An interval that excludes 0 is unlikely to be due
# to the choice of users. It does not account for randomness in training. *from* and *to* are the ends of the 95 % interval.

# %%
pairs = [("SASRec + dot", "SASRec + MoL"), ("HSTU + dot", "HSTU + MoL")]
differences = pd.concat(
    [compare(ranks[a], ranks[b], ks=(10, 50)).assign(comparison=f"{b} against {a}") for a, b in pairs]
)
chosen = differences[differences["metric"].isin(["HR@10", "NDCG@10", "HR@50", "MRR"])].set_index("comparison")
record("differences", chosen.reset_index())
table(chosen.rename(columns={"first": "dot", "second": "MoL", "low": "from", "high": "to"}))

# %%
findings.significance(chosen.reset_index())

# %%
for a, b in pairs:
    row = chosen.loc[f"{b} against {a}"].set_index("metric").loc["NDCG@10"]
    record(f"NDCG@10 of {b} over {a}", 100 * row["difference"] / row["first"], unit="%")

# %% [markdown]
# Randomness in training takes several seeds, which change the initial weights, the order of batches and the negatives. The
# table shows what `workbench study run seeds` measured for this dataset, if it was run: mean ± standard deviation over the
# seeds, and below each pair of models their difference on the same seeds. A dot product called *wide* stores as many floats of
# an item as the mixture.

# %%
stored = sorted((paths.reports() / "tables").glob(f"seeds-{dataset}-*.csv"))
over = [format_seeds(pd.read_csv(path)) for path in stored]
columns = ["model", "seeds", "HR@10", "HR@50", "NDCG@10", "MRR"]
by_seed = Seeds(models=(compared["HSTU + dot"].name, compared["HSTU + MoL"].name), dataset=dataset)
table(pd.concat(over, ignore_index=True)[columns]) if over else index_findings.not_stored(by_seed)

# %% [markdown]
# A model of another size may give another answer. `workbench study run fair` trains the published sizes on MovieLens 1M on
# equal terms: the same encoder, loss, negatives, weight decay and patience for each similarity. Next to the plain dot product
# stand one with the mixture's user-id component and one that is as wide as what the mixture stores of an item. (After ±: the
# standard deviation over seeds; in brackets: the 95 % interval over users.)

# %%
fair = Fair(dataset=dataset).stored()
fair_columns = ["model", "seeds", "parameters", "HR@10", "NDCG@10"]
table(
    format_fair(fair)[fair_columns]
) if fair is not None else f"Here the data are {dataset}, for which there are no such models."

# %% [markdown]
# ## What the protocol is worth
#
# The same weights, evaluated in other ways. Publications differ in all of these choices: which interaction is the target,
# whether the encoder sees the time of the target, which items of the history are left out, and whether items that nobody rated
# are candidates. The first row is our protocol; each other row changes one choice and shows what it adds to NDCG@10.

# %%
boards = [switchboard(t.retriever(), sequences).assign(method=m) for m, t in trained.items() if m in compared]
choices = pd.concat(boards, ignore_index=True)
effect = one_switch(choices, "NDCG@10")
record("protocol", effect)
table(of_protocols(choices))

# %%
findings.protocol(effect)

# %% [markdown]
# Some choices need training again: a **temporal split** (targets are the first interactions after a point in time that all
# training precedes, so that nobody learns from another's future), another **order of ties**, and the **epoch chosen on test**
# targets. A study trains the models once for each of them, and keeps the table. A temporal split has other users and
# targets: compare methods there, not values.

# %%
methods = {preset.name: method for method, preset in compared.items()}
retrained = Choices(dataset, models=tuple(methods))
again = retrained.stored()
if again is not None:
    again["method"] = again["method"].replace(methods)
table(of_choices(again)) if again is not None else index_findings.not_stored(retrained)

# %% [markdown]
# Change several choices at once. The grey mark is the strict protocol.

# %%
trained_again = [] if again is None else [again[again["training"] != AS_STRICT]]
ProtocolSwitchboard(pd.concat([choices.assign(training=AS_STRICT), *trained_again]))

# %% [markdown]
# **To answer with the controls.** Is there a protocol under which another method is the best? Two published numbers can only be
# compared if all of these choices agree.

# %% [markdown]
# ## For which items?
#
# Users in five groups of equal size, by the popularity of their held-out item. A method that only repeats popular items is
# strong on the right and nowhere else.

# %%
split = pd.concat([by_popularity(r, sequences).assign(method=m) for m, r in ranks.items()])
figures.metric_bars(split.rename(columns={"group": "metric", "NDCG@10": "value"})).update_layout(
    title_text="NDCG@10 by popularity of the held-out item",
    xaxis_title_text="interactions of the held-out item, from rare to popular",
    yaxis_title_text="NDCG@10",
)

# %% [markdown]
# **To answer with a parameter.** For which items does MoL gain over the dot product? Is it the same for `dataset = "ml-1m"`
# with `profile = "standard"`?
#
# <details><summary>An answer</summary>
#
# On MovieLens 1M, in one run of the small models, MoL with HSTU gains among the most popular two fifths and loses a little
# among the rarest. Whether a learned similarity helps rare or popular items has to be measured; there is no general rule. The
# groups in which it gains on this dataset are printed below.
#
# </details>

# %%
findings.gains(split, pairs)

# %% [markdown]
# ## The whole distribution of ranks
#
# The share of users whose held-out item has a rank or a better one: of two lines the higher is the better. A line ends below
# 100 % if some items are not found at all (Deep Retrieval), and jumps at its end if some are in the history, which is left out.

# %%
# Deep Retrieval may not reach a target, which then has no rank.
reached = {m: r["rank"].where(r["target_score"] > float("-inf")) for m, r in ranks.items()}
figures.rank_distribution(pd.concat([pd.DataFrame({"method": m, "rank": r}) for m, r in reached.items()]))

# %% [markdown]
# ## One user
#
# A history, and the item that came next. With `user = -1` it is the first user with a history of sufficient length.

# %%
user = example_user(sequences, user)
table(history(sequences, user))

# %% [markdown]
# What two methods would have recommended. *held out* marks the item that came next, if it is in the list; its rank is in the
# heading.

# %%
two = {
    name: recommendations(trained[name].retriever(), sequences, user) for name in ("HSTU + dot", "HSTU + MoL")
}
rank = {name: int(ranks[name].set_index("user_id")["rank"][user]) for name in two}
table(two["HSTU + dot"]).set_caption(f"HSTU + dot (held-out item at rank {rank['HSTU + dot']:,})")

# %%
table(two["HSTU + MoL"]).set_caption(f"HSTU + MoL (held-out item at rank {rank['HSTU + MoL']:,})")

# %% [markdown]
# ## Compared with published results
#
# Results that were published for this dataset, if there are any. Keep the protocol in mind: the published
# models are larger and trained for longer, their best epoch was chosen on the test targets, and HSTU had access to the
# timestamp of the target.

# %%
theirs = published(dataset, ["SASRec", "SASRec+MoL", "HSTU", "HSTU+MoL"], source="Table 3")
printed = ["HR@1", "HR@10", "HR@50", "HR@200", "MRR"]
theirs = theirs.pivot(index="method", columns="metric", values="value").reindex(columns=printed)
table(theirs) if len(theirs) else f"No results were published for {dataset}."

# %% [markdown]
# ## Exercise
#
# NDCG@k with one relevant item per user, from the ranks alone.


# %%
def ndcg(ranks, k):
    "NDCG@k of users whose held-out items have these ranks (B,), from 1."


check("ndcg", ndcg)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def ndcg(ranks, k):
#     gains = 1 / torch.log2(1 + ranks.double())
#     return torch.where(ranks <= k, gains, 0.0).mean()
# ```
#
# </details>

# %% [markdown]
# ## What you have seen
#
# - Differences are reported with intervals, on the same users, over the whole catalogue.
# - An average does not show for which users or items a method is better: look at the split by popularity before you trust a
#   single number.
#
# **To try.** Change `user` and find one for whom the two lists disagree. What do the items that only MoL finds have in common
# with the history? Then train with another `seed`, and check which differences remain.
