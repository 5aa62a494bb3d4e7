"""A real git host on loopback: git's own http-backend behind a small HTTP server.

``/<repository>`` is open, ``/private/<repository>`` wants ``reader``/``s3cret-token``, ``/moved/…``
redirects to the open one, ``/trap/…`` redirects to an address given by the test, ``/slow/…`` never
answers, ``/cut/…`` breaks off in the middle of a repository. ``requests`` records the paths that
were asked for.
"""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "s3cret-token"


def git(folder: Path, *args: str) -> str:
    env = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{
            f"GIT_{who}_{what}": "t@example.org" if what == "EMAIL" else "t"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    done = subprocess.run(
        ["git", *args], cwd=folder, env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make_repository(folder: Path, files: dict[str, str] | None) -> str:
    """A bare-servable repository; its commit (empty without files)."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "http.receivepack", "false")
    if files is None:
        return ""
    return commit(folder, files)


def commit(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a commit")
    return git(folder, "rev-parse", "HEAD")


class GitHost:
    """``url`` is ``http://127.0.0.1:<port>``; ``root`` holds the repositories."""

    def __init__(self, root: Path, address: str = "127.0.0.1") -> None:
        self.root = root
        self.requests: list[str] = []
        self.trap = ""
        self.authorizations: list[str] = []
        host = self
        self._release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                pass

            def do_GET(self) -> None:
                host.serve(self, b"")

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                host.serve(self, self.rfile.read(length))

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://{address}:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._release.set()
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path, _, query = handler.path.partition("?")
        self.requests.append(path)
        self.authorizations.append(handler.headers.get("Authorization", ""))
        first, _, rest = path.lstrip("/").partition("/")
        if first == "slow":
            self._release.wait(60)
            return
        if first in ("moved", "trap"):
            target = f"{self.url}/{rest}" if first == "moved" else f"{self.trap}/{rest}"
            self._answer(handler, 301, [("Location", f"{target}?{query}")], b"")
            return
        if first == "cut":
            path = f"/{rest}"
        if first == "html":
            self._answer(handler, 200, [("Content-Type", "text/html")], b"<html>hello</html>")
            return
        if first == "private":
            wanted = "Basic " + base64.b64encode(f"reader:{TOKEN}".encode()).decode()
            if handler.headers.get("Authorization") != wanted:
                asks = [("WWW-Authenticate", 'Basic realm="git"')]
                self._answer(handler, 401, asks, b"")
                return
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": handler.command,
            "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        if handler.headers.get("Content-Encoding"):
            environment["HTTP_CONTENT_ENCODING"] = handler.headers["Content-Encoding"]
        done = subprocess.run(
            ["git", "http-backend"], env=environment, input=body, capture_output=True, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        status, headers = 200, []
        for line in head.decode().splitlines():
            name, _, value = line.partition(": ")
            if name == "Status":
                status = int(value.split()[0])
            else:
                headers.append((name, value))
        if first == "cut" and handler.command == "POST" and b"PACK" in content:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: content.index(b"PACK") + 40])
            handler.close_connection = True
            return
        self._answer(handler, status, headers, content)

    @staticmethod
    def _answer(
        handler: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
