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
# # 11 · Text retrieval: can a mixture read better than a dot product?
#
# **Question.** A language model turns a text into one vector, and retrieval is a cosine. A word with two meanings needs to be
# near two places at once. Does a **mixture of logits** on the same frozen model find more?
#
# You will score a text by hand, compare trained heads with BM25, search for yourself, measure how fast the best documents are
# found, and see how many documents a vector of a given width can tell apart at all. If `dataset` is none of texts, as those of
# the other pages, this page takes texts of its own, which it names in *The task*.

# %% tags=["parameters"]
dataset = "embedded-text"
profile = "quick"
seed = 0
view = ""

# %% [markdown]
# ## First, by hand
#
# Three texts as bags of four words. The cosine of a query with each document is all that a dot product sees.

# %%
import torch

from workbench.course import check

documents = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]])
asked = torch.tensor([0.0, 1, 0, 1])
cosines = documents @ asked / (documents.norm(dim=1) * asked.norm())
cosines

# %% [markdown]
# The query has one word in common with each document, and a cosine cannot tell them apart: whether the words belong together
# has to be *learned*.

# %%
import numpy as np
import pandas as pd

from workbench.bench import plans, tables
from workbench.bench.run import run
from workbench.bench.workloads import TextCorpus
from workbench.data.text.build import EMBEDDED, FIRST_TRIAL, REVERSE, load_text
from workbench.data.text.storage import prepared_names
from workbench.evaluation.text import query_metrics
from workbench.explore import findings, search_figures
from workbench.explore.tables import table
from workbench.explore.text_figures import critical_sizes, token_attention
from workbench.explore.text_widget import SearchBox, WaysExplorer
from workbench.reporting import record
from workbench.studies.limit import Limit
from workbench.studies.study import Models
from workbench.studies.text import TextRetrieval
from workbench.studies.text_ablations import TextAblations
from workbench.studies.text_search import TextSearch

# %% [markdown]
# ## The task
#
# The quick profile uses a set that is **made**: each invented word stands for two documents that have nothing in common. The
# standard profile takes a real task, the reverse dictionary: from a definition in the 1913 Webster to the sense in WordNet. It
# needs the two dictionaries (`workbench data prepare reverse-dictionary --from PATH`); without them the made set stands in.

# %%
prepared = prepared_names()
wanted = REVERSE if profile != "quick" else EMBEDDED
name = dataset if dataset in prepared else wanted if wanted in prepared else EMBEDDED
collection = load_text(name, seed=seed)
why = "" if name == dataset else f", since {dataset} has no texts"
print(f"{name}{why}: {len(collection.documents):,} documents, {len(collection.queries):,} queries")
print("queries, and groups of them that share a word, after each step of preparing:")
table(pd.DataFrame(collection.steps))

# %%
if name == REVERSE:
    words = collection.queries["text"].str.split().str.len()
    pairs = collection.queries.groupby(["group", "part_of_speech"]).ngroups
    print(f"{len(words):,} queries of {pairs:,} words and parts of speech, {words.mean():.1f} words each")
    print(f"{FIRST_TRIAL.name} of the same files: {FIRST_TRIAL.queries:,} of {FIRST_TRIAL.groups:,}")
    for least in (5, 6):
        longer = words[words >= least]
        print(f"with {least} words or more here: {len(longer):,} queries, {longer.mean():.1f} words each")
    print("Short definitions are kept here, because people search with few words too.")

# %% [markdown]
# Some test queries, with what answers them:

# %%
test = collection.of_split("test")
some = test.head(6).merge(collection.relevance).merge(collection.documents, on="document_id")
table(some[["text_x", "text_y"]].rename(columns={"text_x": "query", "text_y": "an answer"}).head(12))

# %% [markdown]
# ## The encoder and the heads
#
# The encoder is frozen: WordLlama, the mean of a text's token vectors, in the quick profile; MiniLM, a small transformer, for
# the dictionary (its vectors of all documents are computed once, in some minutes, and cached). Zero-shot retrieval is the
# cosine: the documents nearest to the first test query.

# %%
if name == REVERSE and profile == "standard":
    study = TextRetrieval()  # as the shipped heads were trained
else:
    options = {"epochs": 10, "rates": (1e-3,), "temperatures": (0.05,), "seeds": 1, "first": seed}
    study = TextRetrieval(data=name, encoder="wordllama", **options)
encoded = study.encoded()
encoder = encoded.encoder
query = encoder.encode([test["text"].iloc[0]])
print(f"query: {test['text'].iloc[0]}")
cosines = (query @ encoded.documents().vectors.T)[0]
nearest = collection.documents.assign(cosine=cosines.numpy()).nlargest(5, "cosine")
table(nearest[["text", "cosine"]].reset_index(drop=True))

# %% [markdown]
# A mixture projects each side into two groups, takes all $2 \times 2$ cosines, divides them by a temperature $\tau$, and adds
# them up with weights $\pi_p$ that depend on the pair: $\varphi = \sum_p \pi_p s_p$ with $s_p = \cos_p / \tau$. Our heads
# **start from the encoder**: the first group projects by the identity, so before training $s_1$ is the cosine above over
# $\tau$. In the token-aware heads each group also has a vector of its own that shows which tokens of the query it looks at.
#
# The number in a name counts groups: `dot-2` is one dot product of twice the encoder's width, `mol-2` the mixture of 2 × 2
# components. With `random` all projections start at random. With `tokens` each group of the query attends over tokens; with
# `all-tokens` every token is a component (MaxSim, as in ColBERT), which here ranks the 1,000 best by the cosine again.

# %%
random_starts = ["dot-2-random", "mol-2-random"] if name == EMBEDDED else []
stored = study.stored() if name == REVERSE else None
token_aware = ["mol-2-tokens"] if stored is None or "mol-2-tokens" in set(stored["way"]) else []
names = ["zero-shot", "dot-2", "mol-2", *token_aware, *random_starts]
heads = {head: study.head(head, encoded, study.setting(head), seed) for head in names}
rows = [(h, found.head.count_parameters(), found.seconds) for h, found in heads.items()]
table(pd.DataFrame(rows, columns=["head", "parameters", "seconds of training"]), digits=0)

# %% [markdown]
# ## One score by hand

# %%
mol = heads["mol-2"].head
with torch.inference_mode():
    q, d = mol.queries(query), mol.documents(encoded.documents().vectors[:3])
    f, g = q.components[0], d.components  # (Pq, d), (N, Px, d)
    s = torch.stack([(g[:, j] @ f[i]) for i in range(2) for j in range(2)], dim=1)  # (N, P)
    pi = mol.similarity.gates(s, q.gate, d.gate)
    by_hand = (pi * s).sum(1)
    torch.testing.assert_close(by_hand, mol.similarity.score(q, d)[0], rtol=1e-4, atol=1e-4)

# %% [markdown]
# The four weights of each of three documents for the same query, and the scores $s_p$ that they weigh. By hand and by the
# library the score is the same.

# %%
parts = {f"π{p + 1}": pi[:, p].numpy() for p in range(4)} | {f"s{p + 1}": s[:, p].numpy() for p in range(4)}
table(collection.documents.head(3)[["text"]].assign(**parts, score=by_hand.numpy()), digits=3)

# %% [markdown]
# ## The table
#
# Every head has the same training examples, the same number of steps and (gate and attention aside) the same number of weights.
# Intervals are bootstrapped over **words**: queries of one word are not independent. `difference` is paired, query by query, to
# the row that `against` names: a mixture to the dot product of its size and start, a dot product that starts at random to the
# one that does not, and that to the zero-shot cosine. It is empty if that row is not in the table. `floats` are the numbers
# stored for a document.

# %%
results = (
    TextRetrieval(**{**vars(study), "heads": tuple(names)}).table(Models()) if stored is None else stored
)
everything = results[results["subset"] == "all"]
record("text retrieval", everything)
metric = "NDCG@10" if name == EMBEDDED else "Hit@10"
shown = everything[everything["metric"] == metric]
columns = [
    "way",
    "seeds",
    "value",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "against",
]
columns += [column for column in ("floats",) if column in shown]
several = len(study.rates) * len(study.temperatures) > 1
chosen = "chosen for each head on validation queries" if several else "the same for all heads"
print(f"value: {metric}; learning rate and temperature: {chosen}")
table(shown[columns].fillna({"seeds": 1}), digits=3)

# %%
WaysExplorer(results, metric).at(view)

# %%
verdicts = []
compared = shown.dropna(subset=["difference"])  # not every head has a dot product of its kind next to it
for way in [w for w in compared["way"] if w.startswith(("mol", "maxsim")) or w == "dot-2-random"]:
    row = compared.set_index("way").loc[way]
    above, below = row["difference_low"] > 0, row["difference_high"] < 0
    word = "above" if above else "below" if below else "not apart from"
    interval = f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
    verdicts.append(f"{way} is {word} {row['against']}: {row['difference']:+.3f} {metric} {interval}")
record("learned similarities against dot products", "; ".join(verdicts))
print("\n".join(verdicts))

# %% [markdown]
# The made set favours a mixture **by construction**: one vector for a query has to be near two documents that have nothing in
# common. Its words are invented, so that there is no pretrained geometry worth keeping, and a head that starts from that
# geometry may lose by it. The lines above say what this run found, with the interval of each difference. The same by kind of
# query, if there are several:

# %%
chosen = results[
    (results["metric"] == metric) & results["way"].isin(["BM25", *names, "BM25 + dot-2", "BM25 + mol-2"])
]
counts = results.drop_duplicates("subset").set_index("subset")["queries"]
kinds = [s for s in counts.index if s == "all" or counts[s] < counts["all"]]
by_subset = chosen.pivot(index="way", columns="subset", values="value")[kinds]
by_subset = by_subset.rename(columns={s: f"{s} ({counts[s]:,})" for s in kinds}).reset_index()
table(by_subset, digits=3) if len(kinds) > 1 else findings.finding("All test queries are of one kind.")

# %% [markdown]
# ## Is it the setting?
#
# A tie, or a lead, can mean that one side was trained badly. So one setting at a time was changed on the dictionary, for the
# mixture and the dot product of its size, and both were judged on validation queries (`workbench study run text-ablations`).
# *train*: on training queries; *components* in use, out of all; *shared*: of the ten best of both. The **temperature** divides
# scores before the softmax of the loss: the higher it is, the more documents a query learns from.

# %%
changes, columns = TextAblations().stored(), ["change", "dot", "mixture", "difference"]
columns += ["difference_low", "difference_high", "dot_train", "mixture_train", "components", "shared"]
"There is no table yet." if changes is None else table(changes[columns], digits=3)

# %%
None if changes is None else findings.ablations(changes)

# %% [markdown]
# ## Where the heads differ
#
# The test queries on which the place of the first right document differs most between the dot product and the mixture (101: not
# among the first hundred).

# %%
relevant = encoded.relevant("test")
places = test[["text", "group", "answers"]].copy()
for head in ("dot-2", "mol-2"):
    found = heads[head].lists(encoded, "test", 100)
    places[head] = 1 / query_metrics(found, relevant)["MRR@100"].clip(lower=1 / 101)
gain = np.log(places["dot-2"] / places["mol-2"])
extremes = pd.concat([places.loc[gain.nlargest(4).index], places.loc[gain.nsmallest(4).index]])
table(extremes.reset_index(drop=True), digits=0)

# %% [markdown]
# ## Search for yourself
#
# Type a text and press Enter (a page offers the texts that were searched for it). Choose *parts of mol-2* to see which
# component brings a document up, and *tokens of mol-2-tokens* to see which words each component reads.

# %%
search = TextSearch(encoded, {h: found.head for h, found in heads.items()})
first = test["text"].iloc[0] if name == EMBEDDED else "a person who cannot bear noise"
SearchBox(search, first, examples=extremes["text"]).at(view)

# %% [markdown]
# The parts of one search in numbers, for the best three documents: `q1·d2` is the component of the query's first group and the
# document's second. Below them, how much each group of the query looks at each of its tokens.

# %%
print(f"query: {first}")
components = search.components(first, "mol-2", k=3)
record("parts of one search", components)
table(components.drop(columns="share"), digits=3)

# %%
token_attention(search.attention(first, token_aware[0])) if token_aware else "No head here looks at tokens."

# %% [markdown]
# **To answer with the control.** Search for a word with two meanings. Do the heads agree on the first answer? Which component
# carries the second meaning?
#
# <details><summary>An answer</summary>
#
# The zero-shot column gathers documents that share words with your text. The trained heads move towards what the training pairs
# meant. In the mixture, documents of different meanings are often carried by different components: compare the longest bars.
#
# </details>

# %% [markdown]
# ## How fast is it found?
#
# The mixture's head is searched by every searcher of the workbench: with a proof, by lists per component, by the average of the
# components. The published claim for text is that the 100 best by the average, rescored, lose nothing. *p50 ms* is the median
# time of a call, *recall* the share of the true best that are found, *relative HR* the answers found over those of brute force,
# *certified* the share of queries whose list is proved, and *scored* the documents whose full score was computed.

# %%
folder = str(heads["mol-2"].folder)
at = {"batch_size": 32, "k": 10, "rounds": 3, "queries": 96}
plan = plans.chosen_points(TextCorpus(folder, title=name), plans.text(folder).points, **at)
measured = tables.summary(run(plan, progress=False))
searchers = tables.shown(measured)
record("searchers on text", searchers)
print(f"{at['batch_size']} queries a call, the best {at['k']} of {len(collection.documents):,} documents")
table(searchers[["method", "p50 ms", "recall", "relative HR", "certified", "scored"]])

# %% [markdown]
# What does a proof cost? The area of a mark is the memory of the index.

# %%
search_figures.frontier(measured, "certified", "Latency against the share of proved lists")

# %%
findings.average_claim(measured)

# %% [markdown]
# ## What can vectors of a given width tell apart?
#
# A task with no text in it: every pair of documents is the answer of one query, and the vectors of both sides are optimised
# directly. The largest corpus that gradient descent solves is the *critical size* of that many floats (LIMIT, arXiv
# 2508.21038).

# %%
limit = Limit(floats=(2, 4), largest=8, steps=300, seeds=1).stored()
if limit is None:
    limit = Limit(floats=(2, 4), largest=8, steps=300, seeds=1).table(Models())
record("critical sizes", limit)
critical_sizes(limit)

# %% [markdown]
# This is what descent *finds*. A dot product of four floats can tell any number of documents apart in pairs: put document $t$
# at $(t, t^2, t^3, t^4)$, and let the query of the pair $\{a, b\}$ be the coefficients of $-(t - a)^2 (t - b)^2$, which is 0 at
# its two documents and negative elsewhere.

# %%
t = torch.linspace(-1, 1, 30, dtype=torch.float64)
a, b = t[4], t[17]
curve = torch.stack([t, t**2, t**3, t**4], dim=1)
coefficients = torch.stack(
    [2 * (a + b) * a * b, -((a + b) ** 2 + 2 * a * b), 2 * (a + b), -torch.ones_like(a)]
)
print("best two documents:", (curve @ coefficients).topk(2).indices.sort().values.tolist())

# %% [markdown]
# ## Exercise
#
# A query can have several right documents. MRR takes the first one that is found.


# %%
def reciprocal_rank(found, relevant, k):
    "1 / place of the first relevant document among the first k found, 0 if there is none."


check("reciprocal rank", reciprocal_rank)

# %% [markdown]
# <details><summary>A solution</summary>
#
# ```python
# def reciprocal_rank(found, relevant, k):
#     hits = torch.isin(found[:k], relevant).nonzero().flatten()
#     return 1 / (1 + hits[0]) if len(hits) else 0.0
# ```
#
# </details>

# %% [markdown]
# ## What to take away
#
# - A head on a frozen encoder trains fast (*seconds of training*), and can start from the cosine.
# - Choose the settings of each method for itself, on validation, before you compare: at a temperature that suits one, another
#   may look tied.
# - BM25 needs no training. Its union with a head can be better than either, or worse than a good head: read the table.
# - A width that is enough in theory may be out of reach of training.
#
# **To try.** `workbench study run text encoder=wordllama` trains on another encoder in minutes; a folder of BEIR's layout
# (`workbench data prepare NAME --from FOLDER`) takes your own texts.
