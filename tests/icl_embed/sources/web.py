"""A real web server on the loopback interface whose answers a test writes down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """Paths and their answers; ``requests`` are the (path, Range header) pairs that came."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, str]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, *answers: Answer) -> str:
        """The answers to successive requests; the last one repeats."""
        self.answers[path] = list(answers)
        return self.url + path


@contextmanager
def running_site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, self.headers.get("Range", "")))
            answers = site.answers.get(self.path)
            if not answers:
                self.send_error(404)
                return
            (answers.pop(0) if len(answers) > 1 else answers[0])(self)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


def whole(
    data: bytes, content_type: str = "application/octet-stream", *, declare: int | None = None
) -> Answer:
    """The data, honouring Range; ``declare`` lies about the length."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        part = data[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(part) if declare is None else declare))
        handler.end_headers()
        handler.wfile.write(part)

    return answer


def cut_after(data: bytes, count: int) -> Answer:
    """Promises everything, sends ``count`` bytes and hangs up."""
    return whole(data[:count], declare=len(data))


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def silence(release: threading.Event) -> Answer:
    """Sends headers, then nothing until released."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.flush()
        release.wait(5)

    return answer


def endless(chunk: bytes, limit: int) -> Answer:
    """No Content-Length, and far more than anybody asked for."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(limit):
                handler.wfile.write(chunk)
        except OSError:
            pass  # the client had enough

    return answer
