"""A server of S3 on this machine that counts its requests, takes its time and fails when it is told to."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest


class Counted:
    """A WSGI application around another.

    Attributes
    ----------
    made
        Requests by kind: GET, LIST, PUT, HEAD, ...
    failed
        Those that were answered with 404.
    most
        Most requests at a time.
    delay
        Seconds that each of them takes longer.
    faults
        What the next requests are answered with, instead.
    gone_after
        Requests until the server goes away, for good.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.made: Counter[str] = Counter()
        self.failed: list[str] = []
        self.most = self._now = 0
        self.delay = 0.0
        self.faults: list[str] = []
        self.gone_after: int | None = None
        self.matching: Callable[[str, str], bool] = lambda method, path: True

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        kind = "LIST" if method == "GET" and "list-type" in environ.get("QUERY_STRING", "") else method
        with self._lock:
            self.made[kind] += 1
            self._now += 1
            self.most = max(self.most, self._now)
            met = self.matching(kind, path)
            fault = self.faults.pop(0) if self.faults and met else None
            gone = False
            if self.gone_after is not None and met:
                self.gone_after -= 1
                gone = self.gone_after < 0

        def answer(status: str, headers: Any, *rest: Any) -> Any:
            if status.startswith("404"):
                self.failed.append(f"{kind} {path}")
            return start_response(status, headers, *rest)

        try:
            time.sleep(self.delay)
            if gone:
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return []
            if fault is not None:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(fault, [("Content-Length", "0")])
                return []
            return list(self._application(environ, answer))
        finally:
            with self._lock:
                self._now -= 1


class Server:
    """Where the server is, and what it counts."""

    def __init__(self, url: str, counted: Counted) -> None:
        self.url = url
        self.counted = counted
        self._buckets = 0

    def bucket(self) -> str:
        """Make a bucket of its own for a test."""
        self._buckets += 1
        name = f"bucket{self._buckets}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")).read()
        return f"s3://{name}"


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    pytest.importorskip("obstore")
    pytest.importorskip("moto.server")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            pass

    counted = Counted(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Server(f"http://127.0.0.1:{server.server_port}", counted)
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Point the environment at the server."""
    for key, value in environment(_server.url).items():
        monkeypatch.setenv(key, value)
    yield _server
    _server.counted.reset()


def environment(url: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
    }
