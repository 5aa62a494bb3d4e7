"""What the service asks of JupyterHub's REST API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.log import app_log
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from studovna.text import Text

from .errors import Failed, Refused

REQUEST_TIMEOUT = 30.0  # seconds


class HubUnavailable(Failed):
    """The hub did not answer, or answered with an error of its own: worth another try."""


class HubRefused(Refused):
    """The hub will not do it; the message is the hub's own sentence."""


class HubClient:
    """``api_url`` ends with a slash; ``token`` is the service's own."""

    def __init__(self, api_url: str, token: str) -> None:
        self.api_url = api_url
        self._token = token
        # One connection for each launch that is being followed: the default of 10 is too few.
        self._client = SimpleAsyncHTTPClient(force_instance=True, max_clients=2000)

    async def request(
        self, method: str, path: str, body: Any = None, accept: str = "application/json"
    ) -> Any:
        """One call. Raises HubRefused (4xx, with the hub's sentence) or HubUnavailable."""
        request = HTTPRequest(
            self.api_url + path,
            method=method,
            headers={"Authorization": f"token {self._token}", "Accept": accept},
            body=json.dumps(body) if body is not None else ("" if method == "POST" else None),
            request_timeout=REQUEST_TIMEOUT,
            connect_timeout=5,
            follow_redirects=False,
            allow_nonstandard_methods=True,
        )
        try:
            answer = await self._client.fetch(request)
        except HTTPClientError as error:
            raise _explained(error, method, path) from error
        except OSError as error:
            raise _unreachable(method, path, error) from error
        return json.loads(answer.body) if answer.body else None

    async def user(self, name: str) -> dict[str, Any]:
        """A person's model, with servers, stopped ones too. Raises like `request`."""
        path = f"users/{quote(name, safe='')}?include_stopped_servers=1"
        return dict(await self.request("GET", path))

    async def active_servers(self) -> AsyncIterator[dict[str, Any]]:
        """Every server of every person that runs or is starting, with its ``owner``."""
        offset: int | None = 0
        while offset is not None:
            query = urlencode({"state": "active", "offset": offset, "limit": 200})
            page = await self.request(
                "GET", f"users?{query}", accept="application/jupyterhub-pagination+json"
            )
            for user in page["items"]:
                for server in (user.get("servers") or {}).values():
                    yield {**server, "owner": user["name"]}
            following = page["_pagination"]["next"]
            offset = following["offset"] if following else None

    async def healthy(self) -> bool:
        """Whether the hub answers."""
        try:
            await self.request("GET", "health")
        except (Failed, Refused):
            return False
        return True

    async def progress(self, path: str, seconds: float) -> AsyncIterator[dict[str, Any]]:
        """The events of a server's start, from the hub's event stream, for at most ``seconds``."""
        chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        request = HTTPRequest(
            self.api_url + path,
            headers={
                "Authorization": f"token {self._token}",
                "Accept": "text/event-stream",
            },
            streaming_callback=chunks.put_nowait,
            request_timeout=seconds,
            connect_timeout=5,
            follow_redirects=False,
        )
        fetch = asyncio.ensure_future(self._client.fetch(request))
        fetch.add_done_callback(lambda _done: chunks.put_nowait(None))
        buffer = b""
        try:
            while (chunk := await chunks.get()) is not None:
                buffer += chunk
                *whole, buffer = buffer.split(b"\n\n")
                for block in whole:
                    if block.strip().startswith(b"data:"):
                        yield json.loads(block.strip()[5:])
            try:
                fetch.result()
            except HTTPClientError as error:
                raise _explained(error, "GET", path) from error
            except OSError as error:
                raise _unreachable("GET", path, error) from error
        finally:
            fetch.cancel()


def _unreachable(method: str, path: str, error: Exception) -> HubUnavailable:
    app_log.error("The hub did not answer %s %s: %s", method, path, error)
    return HubUnavailable(Text("The hub does not answer. Try again in a minute."), status=503)


def _explained(error: HTTPClientError, method: str, path: str) -> Failed | Refused:
    """The hub's own sentence where it gave one."""
    message = ""
    if error.response is not None and error.response.body:
        try:
            message = str(json.loads(error.response.body).get("message", ""))
        except (ValueError, AttributeError):
            message = ""
    app_log.warning("The hub answered %s %s with %s: %s", method, path, error.code, message)
    if error.code >= 500:
        if message and error.code == 500 and message != "Internal Server Error":
            return Failed(Text("{message}", message=message), status=502)
        return HubUnavailable(Text("The hub does not answer. Try again in a minute."), status=503)
    if not message:
        message = f"The hub refused this ({error.code} {error.message})."
    return HubRefused(Text("{message}", message=message), status=error.code)
