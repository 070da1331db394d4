"""A small HTTP server for tests: files with range requests, requests counted, and servers that misbehave."""

import re
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of files below the server's folder. ``server.mode``: "ranges", "whole" (ignores them), or a status.

    ``server.refused``: path -> mode of single files.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: else each answer waits 40 ms for an acknowledgement
    disable_nagle_algorithm = True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        with server.guard:
            server.running += 1
            server.most = max(server.most, server.running)
            server.requests[self.path] += 1
            first = server.requests[self.path] == 1
        try:
            if server.meet is not None and "/c/" in self.path:
                server.meet()
            self._answer(first)
        finally:
            with server.guard:
                server.running -= 1

    def _answer(self, first):
        mode = self.server.refused.get(self.path, self.server.mode)
        file = self.server.folder / unquote(self.path).lstrip("/")
        if mode == "late" and first:
            mode = 404
        if isinstance(mode, int) or not file.is_file():
            status = mode if isinstance(mode, int) else 404
            self._send(status, b"")
            return
        data = file.read_bytes()
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        if asked is None or mode == "whole":
            self._send(200, data)
            return
        low, high = asked.groups()
        start = int(low) if low else max(len(data) - int(high), 0)
        stop = min(int(high) + 1 if low and high else len(data), len(data))
        if start >= stop:
            self._send(416, b"")
        else:
            self._send(206, data[start:stop], f"bytes {start}-{stop - 1}/{len(data)}")

    def _send(self, status, data, content_range=None):
        self.server.sent += len(data)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.mode, self.requests, self.sent = Path(folder), "ranges", Counter(), 0
        self.refused = {}
        self.guard, self.running, self.most, self.meet = threading.Lock(), 0, 0, None

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request, client_address):
        """A client that goes away is no matter for a test's output."""


@contextmanager
def serving(folder):
    """A server of the files in ``folder`` while the context lasts."""
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
