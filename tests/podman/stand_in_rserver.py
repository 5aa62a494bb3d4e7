#!/opt/venv/bin/python3
"""A stand-in for RStudio's server, for tests: RStudio itself is on no package registry.

It knows the flags that RStudio's documentation lists, serves HTTP on the socket that it is told,
and says what it was started with and what was wrong with that.
"""

import http.server
import json
import os
import socketserver
import sys
from pathlib import Path

FLAGS = {
    "auth-none", "www-frame-origin", "www-verify-user-agent", "secure-cookie-key-file",
    "server-user", "www-root-path", "server-data-dir", "database-config-file", "www-socket",
}  # fmt: skip


def problems(flags: dict[str, str]) -> list[str]:
    """What RStudio's server would stumble over."""
    found = [f"unknown flag {name}" for name in flags if name not in FLAGS]
    found += [f"missing flag {name}" for name in FLAGS if name not in flags]
    wanted = {"auth-none": "1", "www-frame-origin": "same", "www-verify-user-agent": "0"}
    found += [f"{name} is {flags.get(name)}" for name in wanted if flags.get(name) != wanted[name]]
    if flags.get("server-user") != "jovyan":
        found.append(f"server-user is {flags.get('server-user')}")
    if not os.access(flags.get("server-data-dir", ""), os.W_OK):
        found.append("server-data-dir cannot be written")
    database = Path(flags.get("database-config-file", "/missing"))
    if not database.is_file() or "provider=sqlite" not in database.read_text():
        found.append("database-config-file names no database")
    return found


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.endswith("/moved"):
            # RStudio answers with its own address, which nobody outside can reach.
            self.send_response(302)
            self.send_header("Location", f"http://localhost:8787{ROOT_PATH}there")
            self.end_headers()
            return
        body = json.dumps(
            {
                "what": "a stand-in for RStudio's server",
                "flags": FOUND,
                "problems": problems(FOUND),
                "home": os.environ.get("HOME"),
                "folder": os.getcwd(),
                "uid": os.getuid(),
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *args: object) -> None:
        """Nobody reads it."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


if "--help" in sys.argv:
    print("\n".join(f"  --{name} arg" for name in sorted(FLAGS)))
    sys.exit(0)
FOUND = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
ROOT_PATH = FOUND.get("www-root-path", "/")
Server(FOUND["www-socket"], Handler).serve_forever()
