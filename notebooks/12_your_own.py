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
# # 12 · Your own data, vectors, similarity, encoder and searcher
#
# **Question.** How do you use the workbench with your own data, vectors and models? You will recommend from a table of orders
# with e-mail addresses and article numbers, search vectors from any source, train a similarity and an encoder that you write
# yourself, search with a searcher of your own, and put the result behind a small web server.

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0
view = ""

# %%
import numpy as np
import pandas as pd

import workbench as wb

# %% [markdown]
# ## Your data
#
# All you need is a table of users, items and times. Here it is made from a dataset of the workbench, with ids such as a shop
# would have. Yours may be a CSV file: `wb.load_data("orders.csv")`.

# %%
known = wb.load_data(dataset, seed=seed)
rows = pd.DataFrame({"item": known.item_ids, "timestamp": known.timestamps})
rows["user"] = np.repeat(np.arange(known.num_users), known.lengths)

# %%
from workbench.explore.tables import table

orders = pd.DataFrame(
    {
        "user_id": "user" + rows["user"].astype(str) + "@shop.example",
        "item_id": "sku-" + rows["item"].astype(str).str.zfill(5),
        "timestamp": pd.to_datetime(rows["timestamp"], unit="s"),
    }
)
table(orders.head())

# %%
shop = wb.load_data(orders, name="my-shop")
print(f"{shop.num_users:,} users, {shop.num_items:,} items, {len(shop.item_ids):,} interactions")

# %% [markdown]
# Train a preset on it; four epochs are enough for a first look. The result is stored in `ckpts/`, and running the same line
# again loads it from there. *exact* marks a list that is proved to be the best.

# %%
from workbench.reporting import record

model = wb.train("quick/sasrec-mol", shop, epochs=4, seed=seed, progress=False)
history = list(orders["item_id"][:3])
best = model.recommend(history, k=5)
record("recommendations", best)
table(best.drop(columns="title"))  # these items have none but their ids

# %% [markdown]
# The history can come from anybody. For a user in the data, pass the user's id. Unknown items are skipped, with a warning that
# counts them.

# %%
table(model.recommend(user="user7@shop.example", k=5).drop(columns="title"))

# %% [markdown]
# Why is the first item ranked first? A Mixture-of-Logits shows how much each component contributes; the effect of an item of
# the history is how much lower the score would be without it.

# %%
why = model.explain(best["item_id"][0], history)
table(why.components)

# %%
table(why.history.drop(columns="title"))

# %% [markdown]
# ## Your vectors
#
# Embeddings from any source, such as a language model, become an index in one line. Here a query is a noisy copy of a vector; a
# history would be the mean of its items.

# %%
drawn = np.random.default_rng(seed)
vectors = drawn.normal(size=(1000, 32))
index = wb.from_embeddings(vectors, ids=[f"doc-{i}" for i in range(1000)], normalize=True).index("exact")
queries = vectors[:2] + 0.1 * drawn.normal(size=(2, 32))
found = index.search_embeddings(queries, k=3).to_source()
assert found.loc[found["rank"] == 1, "item_id"].tolist() == ["doc-0", "doc-1"]
table(found.drop(columns="title"))

# %% [markdown]
# How much noise does the index tolerate? The control moves along the standard deviation of the noise.

# %%
from workbench.explore.curve_explorer import Axes
from workbench.explore.curve_explorer_widget import CurveExplorer

shares = []
for noise in [0.1, 0.2, 0.5, 1, 1.5, 2, 3, 4]:
    noisy = vectors[:200] + noise * drawn.normal(size=(200, 32))
    found = index.search_embeddings(noisy, k=10).to_source()
    right = found["item_id"] == "doc-" + found["query"].astype(str)
    first = right & (found["rank"] == 1)
    shares += [("first", noise, first.sum() / 200), ("in the first 10", noise, right.sum() / 200)]
curves = pd.DataFrame(shares, columns=["curve", "x", "y"])
axes = Axes("standard deviation of the noise", "copies that find their vector", unit="noise", share=True)
CurveExplorer("Noisy copies", curves, axes, "noise", "Noise in every number", start=1).at(view)

# %% [markdown]
# ## Your similarity and your encoder
#
# A similarity is a class with its settings. Whatever depends on the query alone or on the item alone is computed once, in
# `queries` and `items`; `score` combines them. This one is a **Hadamard-MLP**: the dot product, corrected by a small network
# that reads $q \circ x$,
#
# $$\phi(q, x) = \langle q, x \rangle + \mathrm{MLP}(q \circ x) .$$
#
# The decorator is all the registration there is. A missing title would raise an error here, not after hours of training.

# %%
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from workbench import encoders, similarities
from workbench.contracts import Encoder, Similarity
from workbench.retriever import RetrieverConfig
from workbench.similarities.dot import DotItems, DotQueries
from workbench.training.config import TrainingConfig


# %%
@dataclass(frozen=True)
class HadamardConfig:
    kind: ClassVar[str] = "my_hadamard"
    hidden: int = 16


# %%
@similarities.register(HadamardConfig, title="a Hadamard-MLP", label="Hadamard-MLP")
class HadamardMLP(Similarity):
    pair_bytes = 256  # temporaries of `score` per pair: sizes the tiles of a search

    def __init__(self, config, dim):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))

    def queries(self, embeddings, user_ids=None):
        return DotQueries(embeddings)

    def items(self, embeddings, ids):
        return DotItems(ids, embeddings)

    def score(self, queries, items):
        return self.score_pairs(queries.vectors[:, None], items.vectors)

    def score_candidates(self, queries, items, rows):
        return self.score_pairs(queries.vectors[:, None], items.vectors[rows])

    def score_pairs(self, q, x):
        return (q * x).sum(-1) + self.mlp(q * x)[..., 0]

    def regularizers(self, queries, items, rows):
        return {}


# %% [markdown]
# An encoder takes the embeddings of a history and returns one vector per position, which must not depend on later items. This
# one adds the last item to the mean of all items up to it.


# %%
@dataclass(frozen=True)
class RecentConfig:
    kind: ClassVar[str] = "my_recent"
    weight: float = 2.0


@encoders.register(RecentConfig, title="Recent mean")
class Recent(Encoder):
    objective = "next item"

    def __init__(self, config, dim):
        super().__init__()
        self.weight, self.project = config.weight, nn.Linear(dim, dim)

    def forward(self, embeddings, batch):
        count = torch.arange(1, embeddings.shape[1] + 1, device=embeddings.device)[:, None]
        return self.project(embeddings.cumsum(1) / count + self.weight * embeddings)

    def encode(self, embeddings, batch):
        return self(embeddings, batch)[torch.arange(len(batch)), batch.lengths - 1]


# %% [markdown]
# Nothing else has to change: training, checkpoints, evaluation and search all accept both.

# %%
config = RetrieverConfig(RecentConfig(), HadamardConfig(), dim=8, max_length=60)
settings = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.01)
mine = wb.train(config, shop, training=settings, seed=seed, progress=False)
table(mine.recommend(history, k=3).drop(columns="title"))

# %% [markdown]
# Both models are judged by the last item of each user. Each bar is a model, with the interval over users: if the intervals
# overlap widely, a lead says little, and after so few epochs neither model has shown what it can do.

# %%
from workbench.explore.widgets import MetricExplorer

measured = {"yours": mine.evaluate(), "SASRec + MoL": model.evaluate()}
results = pd.concat([rows.assign(method=name) for name, rows in measured.items()], ignore_index=True)
wide = results.pivot(index="metric", columns="method", values="value")
record("metrics", wide.loc[["HR@10", "NDCG@10"]].reset_index())
MetricExplorer(results).at(view)

# %% [markdown]
# On the command line a preset gives the settings a name. Put the same classes and this call into a file, `my_parts.py`, and
# pass `--import my_parts.py` to `workbench train` with the preset's name, and to every other command that loads the model.

# %%
from workbench.training.presets import Preset, add_preset

add_preset(Preset("mine/recent-hadamard", "my-shop", config, settings, source="my own")).name

# %% [markdown]
# ## Your searcher
#
# A searcher is registered in the same way. This one scores every second item and ignores the rest; a useful one would choose
# better. Its answer is a `TopK`: scores, ids, whether each list is proved (`exact`), how far it may be from the true one
# (`gap`, here unknown), and how many items were scored.

# %%
from workbench.contracts import Searcher, TopK
from workbench.search import registry


@dataclass(frozen=True)
class EveryNthSettings:
    kind: ClassVar[str] = "my-every-nth"
    step: int = 2


# %%
@registry.register(EveryNthSettings, title="every n-th item", label="every n-th")
class EveryNth(Searcher):
    def __init__(self, settings, similarity, items):
        self.similarity, self.items = similarity, items[:: settings.step]

    def search(self, queries, k, exclude=None, allowed=None):
        scores = self.similarity.score(queries, self.items)
        if exclude is not None:
            seen = (self.items.ids[None, :, None] == exclude[:, None]).any(2)
            scores = scores.masked_fill(seen, -torch.inf)
        best, rows = scores.topk(min(k, len(self.items)))
        ids, count = self.items.ids[rows].where(best > -torch.inf, -1), torch.ones(len(queries))
        return TopK(best, ids, count > 1, count * torch.inf, count.long() * len(self.items))

    def upsert(self, items):
        raise NotImplementedError("build the index again")

    def remove(self, ids):
        raise NotImplementedError("build the index again")


# %%
table(mine.index("my-every-nth", step=2).search([history], k=3).to_source().drop(columns="title"))

# %% [markdown]
# ## A small server
#
# A server only needs the index. It answers `/recommend?history=sku-00001,sku-00002`.

# %%
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# %%
served = model.index("exact")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        items = self.path.partition("history=")[2].split(",")
        try:
            found = served.search([items], k=5).to_source()
            status, answer = 200, found[["item_id", "score"]].to_dict("records")
        except ValueError as error:
            status, answer = 400, {"error": str(error)}
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

# %%
address = f"http://127.0.0.1:{server.server_port}/recommend?history={','.join(history)}"
with urllib.request.urlopen(address) as reply:
    answer = json.load(reply)
server.shutdown()
server.server_close()
table(pd.DataFrame(answer))

# %% [markdown]
# ## What you have seen
#
# - Your own ids go in and come out; no step requires a target or an internal item number.
# - A similarity, an encoder or a searcher is one class and one registration.
# - An index holds the model, the items and the searcher, which is enough to serve.
#
# **To try.** Save the index with `served.save("my-index")` and search it on the command line:
# `workbench index search my-index --history sku-00001`. Then give your similarity component scores (`ComponentSimilarity`):
# what does `mine.index("exact")` prove for it?
