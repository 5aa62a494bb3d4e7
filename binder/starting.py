"""What answers at Binder's address until Binder itself does.

JupyterHub starts its services one after another and is not reached by anybody before the last one
answers; importing Binder takes seconds. So the address answers from the first moment, with a page
that asks again by itself. Only the standard library is imported here.
"""

from __future__ import annotations

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>Binder</title><p>Binder is starting \xe2\x80\xa6</p></html>
"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """The service's own page, on which JupyterHub waits, is there; nothing else is yet."""
        there = urlsplit(self.path).path == os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
        self.send_response(200 if there else 503)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("Retry-After", "2")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *args: object) -> None:
        """The hub's questions while it waits are not worth a line each."""


def host_to_listen_on(host: str) -> str:
    """The host of an address that somebody set; empty for all of both families.

    A pod's first address may be of either, and nobody means one family by `0.0.0.0`.

    >>> host_to_listen_on("0.0.0.0"), host_to_listen_on("127.0.0.1")
    ('', '127.0.0.1')
    """
    return "" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only


class _Server(ThreadingHTTPServer):
    def __init__(self, host: str, port: int) -> None:
        self._both = not host and socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if self._both or ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        if self._both:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Starting:
    """The stand-in's server; nothing when this is not a managed service of a hub."""

    def __init__(self) -> None:
        url = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", ""))
        self._server: _Server | None = None
        if url.hostname and url.port:
            self._server = _Server(host_to_listen_on(url.hostname), url.port)
            threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def end(self) -> None:
        """Give the address to the one who has it by right."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
