"""An application that knows nothing of the hub: HTTP and WebSockets with the standard library.

``application.py PORT [SECONDS|mute|crash]``: listens after so many seconds, or answers nothing, or
ends at once. Runs in a plain Debian image.
"""

import base64
import hashlib
import http.server
import json
import os
import signal
import socket
import socketserver
import struct
import sys
import time

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def answer(self, status=200, body=b"", **headers):
        """A whole response."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        """Pages by the end of their path, so that both ways of prefixes find them."""
        page = self.path.partition("?")[0].rpartition("/")[2]
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.echo()
        elif page == "stream":
            self.stream()
        elif page == "away":
            self.answer(302, Location=self.path.rpartition("/")[0] + "/there?a=b")
        elif page == "cookies":
            self.send_response(200)
            self.send_header("Set-Cookie", "first=1; Path=/; HttpOnly")
            self.send_header("Set-Cookie", "second=2; Domain=localhost; Path=/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif page == "broken":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only a part")
            self.close_connection = True
        elif page == "large":
            self.large(int(self.path.partition("?")[2]))
        elif page == "crash":
            print("the application says farewell", flush=True)
            os._exit(7)
        elif page == "page":
            self.answer(body=PAGE, Content_Type="text/html; charset=utf-8")
        else:
            told = {
                "path": self.path,
                "headers": [[k.lower(), v] for k, v in self.headers.items()],
                "environment": dict(os.environ),
                "arguments": sys.argv[1:],
                "cwd": os.getcwd(),
            }
            self.answer(body=json.dumps(told).encode(), Content_Type="application/json")

    def do_POST(self):
        """The length and hash of the body, and its beginning."""
        digest, length, begin = hashlib.sha256(), 0, b""
        for chunk in self.chunks():
            digest.update(chunk)
            length += len(chunk)
            begin = (begin + chunk)[:100]
        told = {"length": length, "sha256": digest.hexdigest(), "begin": begin.decode("latin-1")}
        self.answer(body=json.dumps({"method": self.command, **told}).encode())

    do_PUT = do_DELETE = do_PATCH = do_POST

    def chunks(self):
        """The body, chunked or not."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().strip(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            chunk = self.rfile.read(min(left, 1 << 16))
            left -= len(chunk)
            yield chunk

    def stream(self):
        """Five pieces, a moment apart."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(5):
            piece = f"data: {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(0.3)
        self.wfile.write(b"0\r\n\r\n")

    def large(self, size):
        """So many bytes."""
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        block = b"x" * (1 << 20)
        while size:
            self.wfile.write(block[: min(size, len(block))])
            size -= min(size, len(block))

    def echo(self):
        """A WebSocket that says what it hears; text and bytes."""
        key = self.headers["Sec-WebSocket-Key"] + GUID
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while True:
            first, second = self.rfile.read(2)
            length = second & 0x7F
            if length == 126:
                (length,) = struct.unpack("!H", self.rfile.read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.rfile.read(8))
            mask = self.rfile.read(4)
            masked = self.rfile.read(length)
            data = bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))
            header = bytes([first]) + (
                bytes([length]) if length < 126 else b"\x7e" + struct.pack("!H", length)
                if length < 1 << 16 else b"\x7f" + struct.pack("!Q", length)
            )  # fmt: skip
            self.wfile.write(header + data)
            if first & 0x0F == 8:
                return

    def log_message(self, format, *arguments):
        """Nothing: the log is for last words."""


PAGE = b"""<!doctype html><title>My application</title><h1>My application</h1>
<p id="said">not yet</p><script>
const here = new URL("ws", location.href);
here.protocol = here.protocol.replace("http", "ws");
const socket = new WebSocket(here);
socket.onopen = () => socket.send("hello");
const said = document.getElementById("said");
socket.onmessage = (event) => { said.textContent = "echo: " + event.data; };
</script>"""


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A thread a connection."""

    daemon_threads = True


if __name__ == "__main__":
    print("the application begins", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    word = sys.argv[2] if len(sys.argv) > 2 else "0"
    if word == "crash":
        sys.exit(print("the licence has run out") or 3)
    if word == "mute":
        with socket.create_server(("", int(sys.argv[1]))):
            time.sleep(3600)
    time.sleep(float(word))
    Server(("", int(sys.argv[1])), Handler).serve_forever()
