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
# **Question.** A language model turns a text into one vector, and retrieval is a cosine. A word with two meanings needs to be near
# two places at once. Does a **mixture of logits** on the same frozen vectors find more?
#
# You will score a text by hand, train heads that start from the same cosine, compare them with BM25, and search for yourself.

# %% tags=["parameters"]
dataset = "embedded-text"
profile = "quick"
seed = 0

# %%
import torch

from workbench import text_encoders
from workbench.data.text.build import EMBEDDED, REVERSE, load_text
from workbench.data.text.storage import prepared_names
from workbench.explore.tables import table
from workbench.explore.text_figures import ways_with_intervals
from workbench.explore.text_widget import SearchBox
from workbench.models.text_heads import EncodedCollection, find_or_train
from workbench.reporting import record
from workbench.studies.study import Models
from workbench.studies.text import HEADS, TextRetrieval
from workbench.studies.text_search import TextSearch
from workbench.training.text_training import HeadTraining

# %% [markdown]
# ## The task
#
# The quick profile uses a set that is **made**: each invented word stands for two documents that have nothing in common. The standard
# profile takes a real task, the reverse dictionary: from a definition in the 1913 Webster to the sense in WordNet. It needs the two
# dictionaries (`workbench data prepare reverse-dictionary --from PATH`); without them the made set stands in.

# %%
prepared = prepared_names()
wanted = REVERSE if profile != "quick" else EMBEDDED
name = dataset if dataset in prepared else wanted if wanted in prepared else EMBEDDED
limits = {"train": 10_000, "test": 2_000} if profile == "standard" else {}
collection = load_text(name, seed=seed).sampled(limits)
print(f"{name}: {len(collection.documents):,} documents, {len(collection.queries):,} queries")

# %%
test = collection.of_split("test")
some = test.head(6).merge(collection.relevance).merge(collection.documents, on="document_id")
table(some[["text_x", "text_y"]].rename(columns={"text_x": "query", "text_y": "an answer"}))

# %% [markdown]
# ## One score by hand
#
# The encoder is frozen; here it is WordLlama, the mean of a text's token vectors. Zero-shot retrieval is the cosine.

# %%
encoder = text_encoders.load("wordllama")
encoded = EncodedCollection(collection, encoder, progress=False)
query = encoder.encode([test["text"].iloc[0]])
cosines = (query @ encoded.documents().vectors.T)[0]
nearest = collection.documents.assign(cosine=cosines.numpy()).nlargest(5, "cosine")
table(nearest[["text", "cosine"]].reset_index(drop=True))

# %% [markdown]
# A mixture projects each side into two groups, takes all $2 \times 2$ cosines $s_p$, and adds them up with weights $\pi_p$ that depend
# on the pair: $\varphi = \sum_p \pi_p s_p$. Our heads **start from the encoder**: the first group projects by the identity, so
# before training $s_1$ is the cosine above, divided by the temperature.

# %%
epochs = {"quick": 10, "standard": 5, "full": 3}[profile]
training = HeadTraining(epochs=epochs, learning_rate=1e-3)
random_starts = ["dot-2-random", "mol-2-random"] if name == EMBEDDED else []
names = ["zero-shot", "dot-2", "mol-2", *random_starts]
heads = {h: find_or_train(encoded, HEADS[h], training, seed).head for h in names}

# %%
mol = heads["mol-2"]
with torch.inference_mode():
    q, d = mol.queries(query), mol.documents(encoded.documents().vectors[:3])
    f, g = q.components[0], d.components  # (Pq, d), (N, Px, d)
    s = torch.stack([(g[:, j] @ f[i]) for i in range(2) for j in range(2)], dim=1)  # (N, P)
    pi = mol.similarity.gates(s, q.gate, d.gate)
    by_hand = (pi * s).sum(1)
    torch.testing.assert_close(by_hand, mol.similarity.score(q, d)[0], rtol=1e-4, atol=1e-4)

# %% [markdown]
# The four weights of each of three documents, and what they weigh. By hand and by the library the score is the same.

# %%
parts = {f"π{p + 1}": pi[:, p].numpy() for p in range(4)} | {f"s{p + 1}": s[:, p].numpy() for p in range(4)}
table(collection.documents.head(3)[["text"]].assign(**parts, score=by_hand.numpy()), digits=3)

# %% [markdown]
# ## The table
#
# Every head has the same training examples, the same number of steps and (gate aside) the same number of weights. Intervals are
# bootstrapped over **words**: definitions of one word are not independent. `difference` is to the dot product, query by query.

# %%
sizes = {f"{split}_queries": count for split, count in limits.items()}
chosen = {"encoder": "wordllama", "heads": tuple(names), "epochs": epochs, "rates": (1e-3,)}
study = TextRetrieval(data=name, **chosen, seeds=1, first=seed, **sizes)
results = study.table(Models())
everything = results[results["subset"] == "all"]
record("text retrieval", everything)

# %%
metric = "NDCG@10" if name == EMBEDDED else "Hit@10"
shown = everything[everything["metric"] == metric]
table(shown[["way", "value", "low", "high", "difference", "difference_low", "difference_high"]])

# %%
ways_with_intervals(results, metric)

# %%
mixture = shown.set_index("way").loc["mol-2"]
record(f"mixture over dot product, {metric}", float(mixture["difference"]))
verdict = (
    "above"
    if mixture["difference_low"] > 0
    else "below"
    if mixture["difference_high"] < 0
    else "not apart from"
)
print(f"The mixture is {verdict} the dot product: {mixture['difference']:+.3f} {metric}")

# %% [markdown]
# On the made set the mixture wins **by construction**, from either start. A random start is better there: the words are invented, so
# there is no pretrained geometry worth keeping, and the fair comparison is that of the two heads that start at random. On real text
# the difference must be read with its interval.
#
# ## Search for yourself
#
# Type a text and press Enter. Choose *parts of mol-2* to see which component brings a document up, and with which weight.

# %%
search = TextSearch(encoded, heads)
first = test["text"].iloc[0] if name == EMBEDDED else "a person who cannot bear noise"
SearchBox(search, first)

# %%
components = search.components(first, "mol-2", k=3)
record("parts of one search", components)
table(components.drop(columns="share"), digits=3)

# %% [markdown]
# **To answer with the control.** Search for a word with two meanings. Do the heads agree on the first answer? Which component carries
# the second meaning?
#
# <details><summary>An answer</summary>
#
# The zero-shot column gathers documents that share words with your text. The trained heads move towards what the training pairs meant.
# In the mixture, documents of different meanings are often carried by different components: compare the longest bars.
#
# </details>

# %% [markdown]
# ## What to take away
#
# - A frozen encoder and a head of a few hundred thousand weights train in minutes, and can start from the cosine.
# - A mixture needs a reason: several meanings per query. Where there is one vector's worth of meaning, a dot product is as good.
# - Words still count: BM25 is a baseline on every line, and its union with a head is often better than either.
#
# **To try.** `workbench study run text encoder=minilm` takes a transformer as the encoder; a folder of BEIR's layout
# (`workbench data prepare NAME --from FOLDER`) takes your own texts.
