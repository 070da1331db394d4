"""An HTTP server for one's own browser: on this machine alone, behind a secret path, to read and not to change."""

import hmac
import json
import logging
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from larstore.errors import ConfigError, DamageError, LarstoreError
from train.results.display.browsing import JSON, Answer, Browser

ADDRESS = "127.0.0.1"
OWN_NAMES = {"127.0.0.1", "localhost"}  # other names in a request: a page of somebody else's sent the browser here
# plotly.js makes functions from text. Nothing comes from elsewhere, and nobody may frame the page.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src blob:; frame-ancestors 'none'; "
    "form-action 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
log = logging.getLogger("larstore.train")


class BrowseServer(ThreadingHTTPServer):
    """Serves a `Browser`'s pages on 127.0.0.1 under a path that holds a random token; ``url`` is where they begin.

    Args:
        browser: what is served.
        port: 0 takes a free one.

    Raises:
        ConfigError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, browser: Browser, port: int = 0) -> None:
        self.browser = browser
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"port {port}: {reason}. Fix: another --port, or 0 for a free one") from error

    @property
    def url(self) -> str:
        """Where the list of images is."""
        return f"http://{ADDRESS}:{self.server_address[1]}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: BrowseServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be idle

    def handle(self) -> None:
        """Until the browser closes the connection, in order or not."""
        try:
            super().handle()
        except ConnectionError:  # the browser went on to another event, or was closed
            self.close_connection = True

    def do_GET(self) -> None:
        self._send_answer()

    def do_HEAD(self) -> None:
        self._send_answer()

    def _send_answer(self) -> None:
        """Paths are compared with those that there are; none of them is a path on disk."""
        try:
            address = urlsplit(self.path)
        except ValueError:  # such as http://[
            address = urlsplit("")
        token, slash, path = address.path.removeprefix("/").partition("/")
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        mine = hmac.compare_digest(token.encode(), self.server.token.encode())
        if host not in OWN_NAMES or not mine or not slash:
            self._send(HTTPStatus.NOT_FOUND, _error("not found. Fix: the address that larstore browse printed"))
            return
        try:
            answer = self.server.browser.answer(path, dict(parse_qsl(address.query)))
        except DamageError as error:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _error(str(error)))
        except LarstoreError as error:
            self._send(HTTPStatus.BAD_REQUEST, _error(str(error)))
        else:
            missing = _error(f"no page {path!r}. Fix: begin at {self.server.url}")
            self._send(HTTPStatus.OK if answer else HTTPStatus.NOT_FOUND, answer or missing)

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        data = answer.text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "private, max-age=86400" if answer.lasting else "no-store")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def version_string(self) -> str:
        return "larstore"

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


def _error(text: str) -> Answer:
    return Answer(JSON, json.dumps({"error": text}))
