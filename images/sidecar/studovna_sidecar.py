"""Lets the person in by the hub's sign-in, and passes them on to the application in the same pod.

jupyter-server-proxy's standalone mode, with what it lacks for an application that it did not start
itself: it wants a command to run (without one it answers 404 at its prefix), lets WebSockets in
without a sign-in, reads whole bodies into memory before it passes them on, hands the hub's cookies
and tokens to the application, and reports activity for as long as it lives (the hub's proxy knows
of real activity anyway).

What it goes by: JupyterHub's variables of a server, STUDOVNA_WEB_PORT and STUDOVNA_WEB_PREFIX.
"""

import asyncio
import hmac
import json
import logging
import os
import re
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import tornado.websocket
from jupyter_server_proxy.handlers import SuperviseAndProxyHandler
from jupyter_server_proxy.standalone.app import StandaloneProxyServer
from jupyter_server_proxy.standalone.proxy import make_standalone_proxy
from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado import httputil, iostream, web
from tornado.log import app_log
from yarl import URL

MAX_MESSAGE = 64 * 2**20
"""Bytes of one WebSocket message; it is in memory as a whole."""
MAX_BODY = 2**60
"""Bytes of a request's body. It passes through: the application says how large it may be."""
CHUNKS = 4
PROBE_SECONDS = 60.0
PROBE_INTERVAL = 0.05
ANSWER_SECONDS = 0.5
OWN_PATH = "_studovna"

_LISTENS = "0A"
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip

# Both sides: the application's messages are read by a client that takes the library's default.
tornado.websocket._default_max_message_size = MAX_MESSAGE


def listening_ports(tables):
    """The ports on which somebody listens, from the texts of /proc/net/tcp and tcp6."""
    ports = set()
    for table in tables:
        for line in table.splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == _LISTENS:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def own_cookie(name):
    """Whether a cookie is the hub's or this proxy's: those are keys, and not the application's."""
    return name.removeprefix("__Host-").startswith("jupyterhub-")


def other_cookies(header):
    """A Cookie header without the hub's cookies; "" when there are no others."""
    pairs = [pair.strip() for pair in header.split(";")]
    return "; ".join(p for p in pairs if p and not own_cookie(p.partition("=")[0].strip()))


def cookie_within(header, prefix, strip):
    """A Set-Cookie header of the application that holds for nothing but the application.

    Its path is put below ``prefix`` (``/user/ana/app``), and its domain is left out.
    """
    first, *attributes = header.split(";")
    path, others = "/", []
    for attribute in attributes:
        name, _, value = attribute.strip().partition("=")
        if name.lower() == "path":
            path = value if value.startswith("/") else "/"
        elif name.lower() != "domain":
            others.append(attribute.strip())
    inside = path == prefix or path.startswith(prefix + "/")
    if strip and not inside:
        path = prefix + path
    elif not inside:
        path = prefix + "/"
    return "; ".join([first, *others, f"Path={path}"])


class Application:
    """What is known of the application: its port, and whether it has answered."""

    def __init__(self, port, path, own_port):
        self.port = port
        self.path = path
        self.own_port = own_port
        self.answers = False
        self._probe = None

    async def state(self):
        """As JSON: whether it answers by HTTP, and the ports on which somebody listens."""
        if not self.answers:
            if self._probe is None:
                self._probe = asyncio.create_task(self._until_it_answers())
            await asyncio.wait({self._probe}, timeout=ANSWER_SECONDS)
        tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
        ports = listening_ports(table.read_text() for table in tables if table.exists())
        return {
            "answers": self.answers,
            "listens": [port for port in ports if port != self.own_port],
        }

    async def _until_it_answers(self):
        # One question at a time, with patience: a first answer may take long.
        timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
        url = URL(f"http://localhost:{self.port}{self.path}", encoded=True)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not self.answers:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url, allow_redirects=False):
                        self.answers = True
                        return
                await asyncio.sleep(PROBE_INTERVAL)


class _Running(SuperviseAndProxyHandler):
    """The library's handler of a command that it starts, for one that runs already."""

    port = 0
    unix_socket = None

    async def ensure_process(self):
        """It runs in a container of its own."""


class _Checked:
    """Over the library's standalone handler: everybody is checked, and everything is streamed."""

    async def prepare(self):
        # Asked without blocking; current_user then takes what is known.
        await self.hub_auth.get_user(self, sync=False)
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            if not self.current_user:
                raise web.HTTPError(403)
            return
        # What is answered before the body was read ends the connection, even if there is no body:
        # the proxy in front must know, or it sends the next request into it.
        self.set_header("Connection", "close")
        web.authenticated(lambda handler: None)(self)
        if self._finished:
            return
        self.request.connection.set_max_body_size(MAX_BODY)
        self._chunks = asyncio.Queue(CHUNKS)
        self._reply = asyncio.create_task(self._ask())

    # A request: passed on while it arrives.

    async def data_received(self, chunk):
        put = asyncio.create_task(self._chunks.put(chunk))
        # The application may answer before it has read everything, or break off.
        await asyncio.wait({put, self._reply}, return_when=asyncio.FIRST_COMPLETED)
        put.cancel()

    async def _body(self):
        while (chunk := await self._chunks.get()) is not None:
            yield chunk

    def _ask(self):
        headers = self.request.headers
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        uri = self.get_client_uri("http", "localhost", self.port, "")
        return self.settings["session"].request(
            self.request.method,
            URL(uri, encoded=True),
            headers=list(self.proxy_request_headers().get_all()),
            data=self._body() if has_body else None,
            allow_redirects=False,
        )

    def get_client_uri(self, protocol, host, port, proxied_path):
        # As it came, escapes included, which the library decodes and encodes anew.
        uri = self.request.uri
        if getattr(self, "_token_authenticated", False):
            path, _, query = uri.partition("?")
            kept = [part for part in query.split("&") if part and not part.startswith("token=")]
            uri = path + ("?" + "&".join(kept) if kept else "")
        if not self.absolute_url:
            uri = "/" + uri[len(self.base_url) :].lstrip("/")
        return f"{protocol}://{host}:{port}{uri}"

    def proxy_request_headers(self):
        headers = httputil.HTTPHeaders()
        websocket = self.request.headers.get("Upgrade", "").lower() == "websocket"
        for name, value in self.request.headers.get_all():
            lower = name.lower()
            if lower in _HOP_BY_HOP or lower == "expect":
                continue
            if websocket and lower.startswith("sec-websocket-"):
                continue  # of this connection; the other one has its own
            if lower == "authorization" and getattr(self, "_token_authenticated", False):
                continue
            if lower == "cookie":
                value = other_cookies(value)
                if not value:
                    continue
            # Bytes are bytes to us; aiohttp would write what it gets as UTF-8.
            headers.add(name, value.encode("latin-1", "replace").decode("utf-8", "surrogateescape"))
        if not self.absolute_url:
            for name in ("X-Forwarded-Context", "X-ProxyContextPath", "X-Forwarded-Prefix"):
                headers[name] = self.base_url
        return headers

    # The answer: passed on while it arrives.

    async def proxy(self, port, path):
        self._chunks_end()
        try:
            reply = await self._reply
        except aiohttp.ClientError as error:
            app_log.warning("The application on port %s: %s", self.port, error)
            raise web.HTTPError(502) from error
        self._answer = reply
        async with reply:
            await self._pass_on(reply)

    def _chunks_end(self):
        if self._chunks.full():
            # Nobody has read them, so nobody waits for the end.
            if self._reply.done():
                return
            self._end = asyncio.create_task(self._chunks.put(None))
        else:
            self._chunks.put_nowait(None)

    async def _pass_on(self, reply):
        self.set_status(reply.status, reply.reason)
        self._headers = httputil.HTTPHeaders()
        for raw_name, raw_value in reply.raw_headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            lower = name.lower()
            if lower in _HOP_BY_HOP:
                continue
            if lower == "location" and not self.absolute_url:
                value = self._location(value)
            elif lower == "set-cookie":
                value = cookie_within(value, self.base_url, not self.absolute_url)
            self.add_header(name, value)
        # The library's own flush cannot be waited for, and a slow reader must slow the writer down.
        flush = partial(web.RequestHandler.flush, self)
        try:
            await flush()
            async for chunk in reply.content.iter_any():
                self.write(chunk)
                await flush()
        except iostream.StreamClosedError:
            self._auto_finish = False  # the person has gone
        except (aiohttp.ClientError, httputil.HTTPOutputError) as error:
            # What is incomplete must not look complete.
            app_log.warning("The application broke off: %s", error)
            self._auto_finish = False
            self.request.connection.stream.close()

    def _location(self, location):
        parts = urlsplit(location)
        if (parts.scheme or parts.netloc) and parts.netloc == self.request.host:
            location = parts._replace(scheme="", netloc="").geturl() or "/"
        inside = location == self.base_url or location.startswith(self.base_url + "/")
        if location.startswith("/") and not location.startswith("//") and not inside:
            return self.base_url + location
        return location

    def on_connection_close(self):
        super().on_connection_close()
        if (answer := getattr(self, "_answer", None)) is not None:
            answer.close()
        elif (reply := getattr(self, "_reply", None)) is not None:
            reply.cancel()

    def compute_etag(self):
        return None

    def write_error(self, status_code, **kwargs):
        self.set_header("Connection", "close")  # as in prepare
        write_page(self, status_code)


SENTENCES = {
    403: ("This is somebody else's application.", "Toto je cizí aplikace."),
    502: (
        "The application does not answer. If it has ended, this page will say so in a moment.",
        "Aplikace neodpovídá. Pokud skončila, tato stránka to za chvíli řekne.",
    ),
}


def write_page(handler, status):
    """A page with one sentence, in the browser's language; asked for again while it may change."""
    czech = handler.request.headers.get("Accept-Language", "").lower().startswith("cs")
    reason = handler._reason
    sentence = SENTENCES[status][czech] if status in SENTENCES else f"{status} {reason}"
    again = '<meta http-equiv="refresh" content="5">' if status == 502 else ""
    handler.set_header("Content-Type", "text/html; charset=utf-8")
    handler.finish(
        f'<!doctype html><html lang="{"cs" if czech else "en"}"><meta charset="utf-8">{again}'
        '<meta name="viewport" content="width=device-width"><title>Studovna</title>'
        '<body style="font:1.1rem/1.5 sans-serif;max-width:40rem;margin:15vh auto;padding:0 1rem">'
        f"<p>{sentence}</p></body></html>"
    )


class StateHandler(web.RequestHandler):
    """What the hub asks while the application starts; with the server's own token only."""

    async def get(self):
        sent = self.request.headers.get("Authorization", "").removeprefix("token ")
        if not hmac.compare_digest(sent.encode(), os.environ["JUPYTERHUB_API_TOKEN"].encode()):
            raise web.HTTPError(403)
        self.write(json.dumps(await self.settings["application"].state()))


class SlashHandler(web.RequestHandler):
    """The address without a slash at its end."""

    def get(self):
        self.redirect(self.settings["base_url"] + "/", permanent=False)


class Sidecar(StandaloneProxyServer):
    """The standalone proxy in front of a port of the same pod."""

    name = "studovna-sidecar"

    def get_proxy_base_class(self):
        standalone, arguments = make_standalone_proxy(_Running, {"state": {}})
        handler = type("Handler", (_Checked, standalone), {})
        return web.stream_request_body(handler), arguments

    def get_proxy_attributes(self):
        attributes = super().get_proxy_attributes()
        return attributes | {"port": self.server_port, "unix_socket": None}

    def create_app(self):
        handler, arguments = self.make_proxy_handler()
        base = re.escape(self.base_url)
        path = f"{self.base_url}/" if self.absolute_url else "/"
        return web.Application(
            [
                (f"{base}", SlashHandler),
                (f"{base}/oauth_callback", HubOAuthCallbackHandler),
                (f"{base}/{OWN_PATH}/state", StateHandler),
                (f"{base}/(.*)", handler, arguments),
            ],
            base_url=self.base_url,
            hub_user=os.environ.get("JUPYTERHUB_USER", ""),
            hub_group="",
            cookie_secret=os.urandom(32),
            websocket_max_message_size=MAX_MESSAGE,
            application=Application(self.server_port, path, self.port),
            session=aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ),
        )


async def serve():
    """Listen where the hub expects a server, until the pod is ended."""
    server = Sidecar(
        server_port=int(os.environ["STUDOVNA_WEB_PORT"]),
        absolute_url=os.environ["STUDOVNA_WEB_PREFIX"] == "keep",
    )
    application = server.create_app()
    application.listen(server.port, server.address, xheaders=True)
    logging.info("Before the application on port %s", server.server_port)
    ended = asyncio.Event()
    # The first process of a container ends by no signal that it does not handle.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await application.settings["session"].close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    asyncio.run(serve())
