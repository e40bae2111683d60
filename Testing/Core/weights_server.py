"""A real HTTP server on this machine that serves files, with Range, and breaks off on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """What the server does, and what it was asked for.

    break_after: bytes of the body after which the next answers end, one number an answer.
    honours_range: whether a Range request is answered with 206.
    """

    content: bytes
    break_after: list[int] = field(default_factory=list)
    honours_range: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(content: bytes) -> Iterator[Served]:
    """Serve `content` at every path but /missing until the end of the `with` block."""
    served = Served(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 (http.server's name)
            served.asked.append(self.headers.get("Range"))
            if self.path == "/missing":
                self.send_error(404)
                return
            wanted = self.headers.get("Range")
            start = int(wanted[len("bytes=") : -1]) if wanted and served.honours_range else 0
            body = served.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                last = len(served.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            self.end_headers()
            if served.break_after:
                body = body[: served.break_after.pop(0)]
            with suppress(ConnectionError):  # A client may have read enough.
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
