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
# # 07 · Recall and latency
#
# **Question.** How fast can the best 100 items under a learned similarity be found, and what is lost by being faster? Every searcher is
# asked the same queries, in turns, in one run, beside the way the published code does it. You will see the frontier of latency and
# recall under **two definitions of recall** that tell different stories, which answers come with a **proof**, and how far each
# searcher is from the least time that this machine allows. Then the controls are yours: any searcher, any parameter, measured here and
# now; and one query at a time, to see *which* items a fast searcher loses.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %%
from workbench import data, paths
from workbench.bench import plans, tables
from workbench.bench.live import LiveBench
from workbench.bench.run import run
from workbench.bench.workloads import Trained
from workbench.explore import search_figures as figures
from workbench.explore.lens_widget import QueryLens
from workbench.explore.search_widget import SearchExplorer
from workbench.explore.tables import table
from workbench.explore.update_times import answers
from workbench.models.model_store import find_trained, load_or_train
from workbench.reporting import record
from workbench.training.presets import learned_indexes, lineup

# %% [markdown]
# ## What is measured
#
# A trained HSTU + MoL retriever, real users' queries, their histories left out, their next items as labels. The corpus is
# **inflated**: beside the catalogue's own items it holds noisy copies of them, each half as far from its original as that is from
# its nearest neighbour. So it is large enough for speed to matter, the labels stay valid, and the copies crowd around the items
# that they must be told from. (The `standard` profile also measures the catalogue as it is.)

# %%
sequences = data.load(dataset)
trained = load_or_train(lineup(profile, dataset)["HSTU + MoL"], sequences, seed=seed)
plan = plans.of_profile(profile, str(trained.folder), title=dataset)
raw = run(plan, anew=profile == "quick", progress=False)
everything = tables.summary(raw)

# %% [markdown]
# Entries take turns, round by round, each round in another order: what slows the machine for a while slows all of them. Every
# time, id and score is kept; all that follows is derived from those tables.

# %%
group = everything[everything["workload"] == everything["workload"].iloc[-1]]
group = group[(group["batch_size"] == 32) & (group["k"] == 100)].reset_index(drop=True)
print(
    f"{group['workload'].iloc[0]}, 32 queries a call, k = 100; {raw.metadata['machine']}, {raw.metadata['threads']} threads"
)

# %% [markdown]
# ## The whole table
#
# **Baseline**: as published, the item side of every item is computed again on each call, and everything is held at once. **Scored**: the
# items whose full similarity was computed, of the mean query. **MB**: memory beyond the item state, index and call together.

# %%
columns = ["method", "p50 ms", "p95 ms", "× baseline", "recall", "relative HR", "scored", "MB"]
view = tables.shown(group)[columns]
record("searchers", view)
table(view)

# %%
fast = group[group["recall"] >= 0.99].nsmallest(1, "p50_ms").iloc[0]
record("fastest at recall .99 or more", fast["label"])
record("its speed-up over the baseline", fast["speed_up"], unit="×")

# %% [markdown]
# ## Recall against the true top 100
#
# **Overlap recall**: of the 100 best items by the similarity itself, how many were returned? (Ties count by score.) Right and low is
# best. A line joins the settings of one method; the area of a mark is its memory.

# %%
figures.frontier(group, "recall", "Latency against overlap")

# %% [markdown]
# ## Recall against what users did
#
# **Relative hit rate**: how often is the user's next item among the 100, compared with brute force? It is the measure of the
# published tables. It forgives every item that nobody was waiting for: a searcher may lose much of the true list and still
# score 1, and even more than 1 by luck. Compare the same marks in both figures before believing either.

# %%
figures.frontier(group, "relative_hr", "Latency against hit rate") if group[
    "relative_hr"
].notna().any() else "No labels here."

# %% [markdown]
# ## Proofs
#
# **Certified**: the searcher can prove that no other item belongs in the list. **In fact exact**: the list is the true one, proof
# or not. The first can never exceed the second (a false certificate would be a bug, and is counted). The distance between the two
# is what a better bound could still gain.

# %%
record("false certificates", int(everything["false_certificates"].sum()))
figures.proofs(group)

# %% [markdown]
# ## Your turn: measure here and now
#
# The explorer lays what you measure over the sweep above. Besides the retriever of the sweep it takes what else of this dataset is in
# `ckpts/`: another mixture, and **SparCode** and **Deep Retrieval**, which learned an index of their own. Those two search under *their*
# score: their overlap is with brute force under that score, while their label hit rate can be compared with everybody's. Their index
# knows the catalogue alone: choose the corpus *as it is*.

# %%
others = {"SASRec + MoL": lineup(profile, dataset)["SASRec + MoL"], **learned_indexes(profile)}
checkpoints = {"HSTU + MoL": str(trained.folder)}
for name, preset in others.items():
    if found := find_trained(preset, sequences, seed=seed):
        checkpoints[name] = str(found.folder)

# %%
fitted = (
    paths.checkpoints() / f"{dataset}-cpu-hstu-dot-paths"
)  # paths that were fitted to a finished dot product
if "HSTU + Deep Retrieval" not in checkpoints and fitted.is_dir():
    checkpoints["HSTU + Deep Retrieval"] = str(fitted)
for name, preset in others.items():
    if name not in checkpoints:
        print(f"to add {name}: workbench train {preset.name} --dataset {dataset} --seed {seed}")

# %% [markdown]
# Choose searchers, move their sliders, press *measure*. All of them and brute force take turns, with the same queries as the sweep; an index
# is built when it is first asked for, and kept. What was measured here is ringed. Hover over a mark for all its figures.

# %%
bench = LiveBench()
explorer = SearchExplorer(checkpoints, plan, everything, bench=bench, folder=paths.reports() / "views")
explorer.run()  # what the button does, once, so that there is something to see
explorer

# %%
here = bench.table
record("measured here", tables.shown(here.assign(of_roofline=float("nan")))[["method", "p50 ms", "recall"]])
print(explorer.command_line)

# %% [markdown]
# The command does the same without a notebook: same queries, same lists, so the same recall to the last digit; only the times are new.
#
# **To answer with the controls.** Set *n2* of the average as low as overlap recall stays above .9. What does the relative hit rate say at
# that setting, and at half of it?
#
# <details><summary>An answer</summary>
#
# Halve *n2* until the overlap falls below .9, then change *recall* to relative HR: the mark moves to the right again. Lists are cut from the
# far end of the average's order, and what the average ranks low is seldom what the user took next. The hit rate notices the loss
# later than the overlap does; with few hits it also jumps about, so measure more *rounds* before you believe a small difference.
#
# </details>
#
# **And another one.** Does a graph (*FAISS HNSW*) make the average faster here? Measure it beside the plain average with the same *n2*.
#
# <details><summary>An answer</summary>
#
# A graph saves looking at every vector, and pays for each step it walks, with worse access to memory. At some ten thousand
# items a plain product with all of them is a fraction of the cost of rescoring $n_2$ candidates: there is little to save, and recall to
# lose. Raise *efSearch* until the recall is back and compare again, then try a larger corpus.
#
# </details>

# %% [markdown]
# ## One query under the lens
#
# A recall of .98 is a mean. For one query, a searcher finds everything, or loses certain items. Here is the catalogue without copies, so that
# every item has a title: every point is an item, by its **bound** (the largest component score) and its score. Items that were missed are
# crosses.

# %%
titles = sequences.items["title"].set_axis(range(1, sequences.num_items + 1))
catalogue = Trained(str(trained.folder), title=dataset)
lens = QueryLens(plan, titles, workload=catalogue, bench=bench, k=10)
lens.controls["searcher"].value = "average"
lens.controls["average n2"].value = 20
lens

# %%
seen = lens.seen()
record("missed by a short list of the average", int(seen.places["missed"].sum()), unit="of 10")
record("items whose bound reaches the last score", seen.survivors)

# %% [markdown]
# **To answer with the controls.** Change to *per component* and raise *n1* until the list is certified. The list was right long before that:
# what was the searcher waiting for?
#
# <details><summary>An answer</summary>
#
# For the dotted line to pass the dashed one. The dotted line is the largest bound of an item in none of the lists; as long as it lies right
# of $S_K$, such an item *could* belong to the best, whatever its score. Longer lists do not find better items any more; they only take away
# the items that could still have surprised. The searcher itself knows a little less than the figure: it sees the ends
# of its lists and not the items beyond, so its own gap can be larger.
#
# </details>
#
# ## How fast do the dashboards answer?
#
# Milliseconds from a change of a control until the new figure has left for the browser, on this machine as it was; and what of that its
# processors worked on it. Measuring takes seconds, and shows how far it is.

# %%
queries = [("query", q) for q in range(1, 13)]
moves = [("view", "proofs"), ("recall", "relative HR"), ("view", "frontier"), ("log", False)]
back = [("recall", "overlap"), ("log", True), ("k", 10), ("k", plan.ks[-1])]
trials = {"explorer": (explorer, moves + back), "lens": (lens, queries)}
answered = answers(trials)
record("updates of the dashboards (ms)", answered)
table(answered.round(0))

# %% [markdown]
# ## The least that is possible
#
# A **roofline**: the operations and bytes that each algorithm needs, divided by the best rates that were measured on this machine in the
# same run. Left of a mark's tick nobody can be with this algorithm; the way from the tick to the mark is what an implementation loses.

# %%
print(
    f"{raw.ceilings.operations / 1e9:,.0f} GFLOP/s in an fp32 matrix product, {raw.ceilings.bytes / 1e9:,.1f} GB/s copied"
)
figures.roofline_bars(group)

# %% [markdown]
# ## Beside what was published
#
# Table 5 of "Retrieval with Learned Similarities": milliseconds for a batch of 32 on an RTX 6000 Ada, hit rates relative to brute
# force. Other data, another machine: compare the *shape*. There too averaging is the fast choice and lists per component are the safe
# one. (One of its rows, on NQ320K, reports a relative hit rate of 1.00 at 100 with at most 80 candidates: it is no recall of a top 100.)

# %%
theirs = tables.published_searches("Amazon-Books", 100)
figures.frontier(theirs, "relative_hr", title="Published: Amazon Books, 695,762 items, k = 100")

# %%
theirs = tables.published_searches("ML-20M", 100)
figures.frontier(theirs, "relative_hr", title="Published: ML-20M, 27,278 items, k = 100")

# %% [markdown]
# ## What you have seen
#
# - "Recall" needs a definition: overlap with the true list, or hits on labels. The second is kinder.
# - A searcher that scores few items is fast only if it finds those few cheaply.
# - Proofs are rarer than truth: many lists are exact without anyone being able to say so.
# - A mean recall is made of queries that lose nothing and queries that lose certain items; the lens shows which.
#
# **To try.** `workbench bench search --preset sizes` measures the published corpora with random weights. Which methods lose their
# lead when the corpus has 695,762 items, and which gain it? Next: **10_scaling** asks how cost grows.
