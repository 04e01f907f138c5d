"""A small server of an index, for demonstrations: recommend, search, health, metrics; JSON in, JSON out.

fastapi and uvicorn are optional: an ImportError names the install command.
"""

import socket
import threading
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StrictStr

from workbench.front_door.index import Found, Index
from workbench.runtime import require
from workbench.search.registry import SEARCHERS

LARGEST_BATCH = 256
"""Queries of a request."""

LONGEST_HISTORY = 10_000
MOST_RESULTS = 1_000
LARGEST_BODY = 4 * 2**20
"""Bytes of a request."""

MOST_WAITING = 64
"""Requests that wait for the searcher; more are refused."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper ends, in seconds, of the histogram of latencies."""

ITEM = StrictInt | StrictStr
RESULTS = Annotated[int, Field(ge=1, le=MOST_RESULTS)]


class Recommend(BaseModel):
    """A request to /recommend: source ids, oldest first; `timestamps` in seconds, for encoders that read them."""

    model_config = ConfigDict(extra="forbid")
    histories: Annotated[
        list[Annotated[list[ITEM], Field(min_length=1, max_length=LONGEST_HISTORY)]],
        Field(min_length=1, max_length=LARGEST_BATCH),
    ]
    k: RESULTS = 10
    exclude_history: bool = True
    timestamps: list[list[StrictInt]] | None = None


class Search(BaseModel):
    """A request to /search: query embeddings."""

    model_config = ConfigDict(extra="forbid")
    embeddings: Annotated[list[list[FiniteFloat]], Field(min_length=1, max_length=LARGEST_BATCH)]
    k: RESULTS = 10


class Busy(Exception):
    """Too many requests wait."""


@dataclass
class Metrics:
    """What was served since the start: requests by path and status, queries, and how long requests took."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    queries: int = 0
    buckets: Counter[float] = field(default_factory=Counter)
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Note an answered request."""
        with self.lock:
            self.requests[path, status] += 1
            self.seconds += seconds
            self.buckets.update(end for end in BUCKETS if seconds <= end)

    def text(self) -> str:
        """As Prometheus reads it."""
        with self.lock:
            total = self.requests.total()
            lines = ["# TYPE workbench_requests_total counter"]
            lines += [
                f'workbench_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.requests.items())
            ]
            lines += ["# TYPE workbench_queries_total counter", f"workbench_queries_total {self.queries}"]
            lines += ["# TYPE workbench_request_seconds histogram"]
            lines += [
                f'workbench_request_seconds_bucket{{le="{end}"}} {self.buckets[end]}' for end in BUCKETS
            ]
            lines += [
                f'workbench_request_seconds_bucket{{le="+Inf"}} {total}',
                f"workbench_request_seconds_sum {self.seconds:.6f}",
                f"workbench_request_seconds_count {total}",
            ]
        return "\n".join(lines) + "\n"


class _Service:
    """An index that one request at a time searches."""

    def __init__(self, index: Index) -> None:
        self.index, self.metrics = index, Metrics()
        items = index.model.catalogue.items
        self._ids, self._titles = items["item_id"].tolist(), items["title"].tolist()
        self._turn, self._places = threading.Lock(), threading.BoundedSemaphore(MOST_WAITING)

    def answer(self, queries: int, search: Callable[[], Found]) -> dict[str, Any]:
        """The lists of a search as JSON; Busy if too many wait, ValueError if the request does not fit the index."""
        if not self._places.acquire(blocking=False):
            raise Busy
        try:
            with self._turn, warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                found = search()
        finally:
            self._places.release()
        with self.metrics.lock:
            self.metrics.queries += queries
        lists = [self._rows(found, query) for query in range(queries)]
        said = [str(note.message) for note in notes if issubclass(note.category, UserWarning)]
        return {"lists": lists, "exact": found.exact.tolist(), "notes": said}

    def _rows(self, found: Found, query: int) -> list[dict[str, Any]]:
        """One list: without a table, which would take longer than the search."""
        pairs = zip(found.topk.ids[query].tolist(), found.topk.scores[query].tolist(), strict=True)
        return [
            {"rank": rank, "item_id": self._ids[item - 1], "title": self._titles[item - 1], "score": score}
            for rank, (item, score) in enumerate(pairs, 1)
            if item > 0
        ]


Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Bounded:
    """ASGI: refuses bodies that are too large, as they arrive, and counts what is answered by path and status."""

    def __init__(
        self, app: Any, metrics: Metrics, paths: tuple[str, ...], refuse: Callable[[str], Any]
    ) -> None:
        self.app, self.metrics, self.paths, self.refuse = app, metrics, paths, refuse

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, received = time.perf_counter(), 500, 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LARGEST_BODY:
                raise ValueError("the body is too large")
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        given = dict(scope["headers"]).get(b"content-length", b"0")
        try:
            if not given.isdigit() or int(given) > LARGEST_BODY:
                refusal = self.refuse(f"a request has at most {LARGEST_BODY:,} bytes; send smaller batches")
                await refusal(scope, receive, watched)
            else:
                await self.app(scope, counted, watched)
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.count(path, status, time.perf_counter() - start)


def application(index: Index) -> Any:
    """The web application of an index, for any ASGI server.

    GET /recommend?history=ID,ID&k=10 and POST /recommend with `Recommend`; POST /search with `Search`; GET /health and /metrics
    (Prometheus). Lists come as `{"lists": [[{rank, item_id, title, score}]], "exact": […], "notes": […]}`; an error is
    `{"error": "…"}` with status 400 (does not fit the index), 404, 405, 413, 422 (malformed), 503 (busy) or 500.
    Raises ImportError without fastapi.
    """
    fastapi = require("fastapi")
    responses, errors = require("fastapi.responses"), require("fastapi.exceptions")
    service = _Service(index)
    # Its pages of documentation would load scripts from other hosts.
    app = fastapi.FastAPI(title="workbench", docs_url=None, redoc_url=None)

    def failed(status: int, message: str) -> Any:
        return responses.JSONResponse({"error": message}, status)

    def health() -> dict[str, Any]:
        described = {"status": "ok", "model": index.model.name, "items": len(index.corpus)}
        return described | {"searcher": SEARCHERS.to_dict(index.settings)}

    def metrics() -> Any:
        return responses.PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    def recommended(request: Recommend) -> dict[str, Any]:
        return service.answer(
            len(request.histories),
            lambda: index.search(
                request.histories,
                request.k,
                timestamps=request.timestamps,
                exclude_history=request.exclude_history,
            ),
        )

    def recommend_one(history: str, k: RESULTS = 10) -> dict[str, Any]:
        items: list[int | str] = [item.strip() for item in history.split(",") if item.strip()]
        if not 1 <= len(items) <= LONGEST_HISTORY:
            raise ValueError(f"history must be 1 to {LONGEST_HISTORY:,} item ids, separated by commas")
        return recommended(Recommend(histories=[items], k=k))

    def recommend(request: Recommend) -> dict[str, Any]:
        return recommended(request)

    def search(request: Search) -> dict[str, Any]:
        return service.answer(
            len(request.embeddings), lambda: index.search_embeddings(request.embeddings, request.k)
        )

    for method, path, function in (
        ("GET", "/health", health),
        ("GET", "/metrics", metrics),
        ("GET", "/recommend", recommend_one),
        ("POST", "/recommend", recommend),
        ("POST", "/search", search),
    ):
        app.add_api_route(path, function, methods=[method])

    def malformed(request: Any, error: Any) -> Any:
        parts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3]]
        return failed(422, "; ".join(parts))

    app.add_exception_handler(errors.RequestValidationError, malformed)
    app.add_exception_handler(ValueError, lambda request, error: failed(400, str(error)))
    app.add_exception_handler(
        Busy, lambda request, error: failed(503, f"{MOST_WAITING} requests are waiting; try again later")
    )
    app.add_exception_handler(
        require("starlette.exceptions").HTTPException,
        lambda request, error: failed(error.status_code, str(error.detail)),
    )
    app.add_exception_handler(Exception, lambda request, error: failed(500, "the server failed"))
    paths = ("/recommend", "/search", "/health", "/metrics")
    app.add_middleware(_Bounded, metrics=service.metrics, paths=paths, refuse=lambda text: failed(413, text))
    return app


@dataclass
class Serving:
    """A server that listens at `address` and answers once `run` is called; `stop` ends it from another thread."""

    server: Any
    listening: socket.socket
    address: str

    def run(self) -> None:
        """Serve until `stop`, or an interrupt."""
        self.server.run(sockets=[self.listening])

    def stop(self) -> None:
        """Finish what is being answered, and end."""
        self.server.should_exit = True


def serving(index: Index, host: str = "127.0.0.1", port: int = 8000) -> Serving:
    """A server of `index` at this address; port 0 takes any that is free.

    Raises ImportError without fastapi and uvicorn, and OSError if the address is not available.
    """
    uvicorn = require("uvicorn")
    app = application(index)
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(MOST_WAITING)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot listen at {host}:{port} ({reason}); choose another --port or --host"
        ) from error
    config = uvicorn.Config(app, log_level="warning", ws="none", http="h11", lifespan="off")
    shown = f"[{host}]" if ":" in host else host
    return Serving(uvicorn.Server(config), listening, f"http://{shown}:{listening.getsockname()[1]}")
