"""Small datasets in the published formats, and a local site that serves archives well or badly."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from workbench.data.interactions import Interactions
from workbench.data.prepare import prepare
from workbench.data.sequences import Sequences

settings.register_profile("patient", deadline=None)  # the first call of a checked function is slow
settings.load_profile("patient")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root: `data/` of these tests lies in it."""
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    """Three users and four movies in the format of MovieLens 1M: Latin-1, a tie in time, a movie nobody rated."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text(
        "1::30::5::100\n1::10::4::100\n1::20::3::90\n2::10::1::50\n2::30::2::60\n9::20::5::70\n"
    )
    (folder / "movies.dat").write_bytes(
        b"10::Heat (1995)::Action|Crime\n20::Am\xe9lie (2001)::Comedy\n30::Alien: A::Horror\n40::Unseen::Drama\n"
    )
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n9::M::25::15::55117\n")
    return folder


@pytest.fixture
def ml_csv(tmp_path: Path) -> Path:
    """Two users and three movies in the format of MovieLens 20M, with quotes in a title and a film without genres."""
    folder = tmp_path / "ml-csv"
    folder.mkdir()
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,5,3.5,10\n1,7,0.5,20\n4,5,5.0,15\n"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n5,"Matrix, The ""1999""",Action|Sci-Fi\n7,Misérables,(no genres listed)\n8,Unseen,Drama\n',
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="session")
def random_interactions() -> Callable[..., Interactions]:
    """Interactions of a seed in random order, with repeats and ties in time."""

    def make(seed: int, users: int = 30, items: int = 20, rows: int = 300) -> Interactions:
        random = np.random.default_rng(seed)
        table = pd.DataFrame(
            {
                "user_id": random.integers(100, 100 + users, rows),
                "item_id": random.integers(-5, items - 5, rows),
                "timestamp": random.integers(0, 50, rows),
                "rating": random.integers(1, 6, rows).astype(np.float32),
            }
        )
        return Interactions.complete(table)

    return make


@pytest.fixture(scope="session")
def sequences(random_interactions: Callable[..., Interactions]) -> Sequences:
    """Some 30 users with histories of various lengths."""
    return prepare(random_interactions(0), "random").sequences


@dataclass
class Page:
    """How the site answers for one path; `cuts` are the bytes after which successive answers break off."""

    content: bytes
    ranges: bool = True
    etag: str | None = '"v1"'
    status: int = 200
    length: bool = True
    location: str | None = None
    content_range: str | None = None
    cuts: list[int] = field(default_factory=list)


@dataclass
class Site:
    """A local server: its pages by path, and the headers of every request it got."""

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def serve(self, path: str, content: bytes = b"", **answer: Any) -> str:
        """The address of a page; `answer` are the other fields of Page."""
        self.pages[path] = Page(content, **answer)
        return self.address + path

    def asked(self, header: str) -> list[str | None]:
        """What each request said in `header`, in order."""
        return [headers.get(header) for _, headers in self.requests]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, dict(self.headers)))
            page = site.pages.get(self.path, Page(b"", status=404))
            start, status = 0, page.status
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", page.etag) == page.etag
            if asked and page.ranges and status == 200 and same:
                start = int(asked[1])
                status = 206 if start < len(page.content) else 416
            body = page.content[start:] if status in (200, 206) else b""
            self.send_response(status)
            if page.location:
                self.send_header("Location", page.location)
            if page.etag:
                self.send_header("ETag", page.etag)
            if status == 206:
                whole = f"bytes {start}-{len(page.content) - 1}/{len(page.content)}"
                self.send_header("Content-Range", page.content_range or whole)
            if status == 416:
                self.send_header("Content-Range", f"bytes */{len(page.content)}")
            if page.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if page.cuts:
                body = body[: page.cuts.pop(0)]
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()
