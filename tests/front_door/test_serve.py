"""The server of an index: what it answers, what it refuses, a thousand requests."""

import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import workbench as wb
from workbench.front_door import Index, serve

N, D = 50, 6


@pytest.fixture(scope="module")
def index() -> Index:
    vectors = np.random.default_rng(0).normal(size=(N, D))
    titles = [f"<script>alert({i})</script>" for i in range(N)]
    return wb.from_embeddings(vectors, ids=[f"{i:03d}" for i in range(N)], titles=titles).index("brute-force")


@pytest.fixture(scope="module")
def port(index: Index) -> Iterator[int]:
    server = serve.serving(index, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server.listening.getsockname()[1]
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    text = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"} if body is not None else {})
    answer = connection.getresponse()
    content, kind = answer.read().decode(), answer.headers["content-type"]
    connection.close()
    return answer.status, json.loads(content) if "json" in kind else content, kind


def test_lists_are_those_of_the_index(index, port):
    expected = index.search([["003"], ["010", "011"]], k=4)
    body = {"histories": [["003"], ["010", "011"]], "k": 4}
    status, answer, kind = ask(port, "POST", "/recommend", body)
    assert status == 200 and kind == "application/json" and answer["exact"] == [True, True]
    assert [row["item_id"] for rows in answer["lists"] for row in rows] == expected.to_source()[
        "item_id"
    ].tolist()
    assert answer["lists"][0][0]["title"].startswith("<script>") and answer["lists"][0][0]["rank"] == 1
    one = ask(port, "GET", "/recommend?history=010,%20011&k=4")[1]
    (alone,), (_, same) = one["lists"], answer["lists"]
    assert [row["item_id"] for row in alone] == [row["item_id"] for row in same]
    # A product of one row may be rounded in another order than one of two.
    assert [row["score"] for row in alone] == pytest.approx([row["score"] for row in same], rel=1e-5)
    assert "1 of 2 items" in ask(port, "GET", "/recommend?history=010,none&k=1")[1]["notes"][0]
    vectors = [[0.5] * D, [-1.0, 0, 0, 0, 0, 0]]
    found = ask(port, "POST", "/search", {"embeddings": vectors, "k": 3})[1]["lists"]
    assert [row["item_id"] for row in found[0] + found[1]] == index.search_embeddings(vectors, 3).to_source()[
        "item_id"
    ].tolist()
    health = ask(port, "GET", "/health")[1]
    assert (health["status"], health["items"], health["searcher"]["kind"]) == ("ok", N, "brute-force")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/recommend", {"histories": []}, 422, "histories: List should have at least 1 item"),
        ("POST", "/recommend", {"histories": [["1"]] * 257}, 422, "at most 256 items"),
        ("POST", "/recommend", {"histories": [["003"]], "k": 0}, 422, "greater than or equal to 1"),
        ("POST", "/recommend", {"histories": [["003"]], "k": 51}, 400, "k is 51, but the corpus holds 50"),
        ("POST", "/recommend", {"histories": [["nothing"]]}, 400, "nothing"),
        ("POST", "/recommend", {"histories": [["003"]], "depth": 2}, 422, "Extra inputs are not permitted"),
        ("POST", "/recommend", {"histories": [["003"]], "timestamps": [[1, 2]]}, 400, "give one for each"),
        ("POST", "/recommend", {"histories": [["003"]], "timestamps": []}, 400, "1 histories and 0 lists of"),
        ("POST", "/recommend", {"histories": [["003"]], "timestamps": [[1], [2]]}, 400, "and 2 lists of"),
        ("POST", "/recommend", {"histories": [["003"]], "timestamps": [[10**30]]}, 400, "seconds since 1970"),
        ("POST", "/recommend", {"histories": [["003"]], "timestamps": [[-1]]}, 400, "seconds since 1970"),
        ("POST", "/recommend", b"{", 422, "JSON decode error"),
        ("POST", "/search", {"embeddings": [[1.0] * 5]}, 400, "have 5 numbers each, the items' have 6"),
        ("POST", "/search", b'{"embeddings": [[NaN, 1, 1, 1, 1, 1]]}', 422, "finite number"),
        ("POST", "/search", b" " * (serve.LARGEST_BODY + 1), 413, "at most 4,194,304 bytes"),
        ("GET", "/recommend?history=", None, 400, "history must be 1 to"),
        ("GET", "/recommend", None, 422, "query.history: Field required"),
        ("GET", "/nowhere", None, 404, "Not Found"),
        ("DELETE", "/recommend", None, 405, "Method Not Allowed"),
        ("GET", "/docs", None, 404, "Not Found"),
    ],
)
def test_what_is_refused_gives_the_reason(port, method, path, body, status, message):
    found = ask(port, method, path, body)
    assert found[0] == status and found[2] == "application/json"
    assert message in found[1]["error"] and "Traceback" not in found[1]["error"]


def test_a_thousand_requests_are_answered_and_counted(index, port):
    before = ask(port, "GET", "/metrics")[1]
    expected = [index.search([[f"{i:03d}"]], k=3).to_source()["item_id"].tolist() for i in range(N)]
    seen: Counter[str] = Counter()

    def client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for request in range(first, 1_000, 4):
            connection.request("GET", f"/recommend?history={request % N:03d}&k=3")
            answer = connection.getresponse()
            rows = json.loads(answer.read())["lists"][0]
            right = [row["item_id"] for row in rows] == expected[request % N]
            seen[f"{answer.status} {'right' if right else 'wrong'}"] += 1
        connection.close()

    clients = [threading.Thread(target=client, args=(first,)) for first in range(4)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(120)
    assert seen == {"200 right": 1_000}

    def count(text: str, name: str) -> int:
        return next((int(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0)

    after = ask(port, "GET", "/metrics")[1]
    for name in ('workbench_requests_total{path="/recommend",status="200"}', "workbench_queries_total"):
        assert count(after, name) - count(before, name) == 1_000
    assert count(after, 'workbench_request_seconds_bucket{le="+Inf"}') == count(
        after, "workbench_request_seconds_count"
    )


def test_too_many_at_once_are_refused_and_failures_stay_inside(index, port, monkeypatch):
    monkeypatch.setattr(
        serve._Service, "answer", lambda self, queries, search: exec("raise Exception('/secret')")
    )
    status, answer, _ = ask(port, "GET", "/recommend?history=003")
    assert (status, answer) == (500, {"error": "the server failed"})
    monkeypatch.undo()
    service = serve._Service(index)
    for _ in range(serve.MOST_WAITING):
        service._places.acquire()
    with pytest.raises(serve.Busy):
        service.answer(1, lambda: index.search([["003"]]))

    def busy(self: object, queries: int, search: object) -> None:
        raise serve.Busy

    monkeypatch.setattr(serve._Service, "answer", busy)
    assert ask(port, "GET", "/recommend?history=003")[:2] == (
        503,
        {"error": "64 requests are waiting; try again later"},
    )


def test_an_address_that_is_taken_is_named(index, port):
    with pytest.raises(OSError, match=f"cannot listen at .*:{port} "):
        serve.serving(index, port=port)
    with pytest.raises(OSError, match="cannot listen at"):
        serve.serving(index, port=99_999)
