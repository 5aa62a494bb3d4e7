"""A relay between a hub and the API server that counts the requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType

import aiohttp
import yaml
from aiohttp import web
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from tests.bench.hubs import free_port

_OWN = {"host", "connection", "transfer-encoding", "content-length", "content-encoding"}
"""Headers of one connection, or that aiohttp writes itself."""


def kind_of(method: str, path: str, watch: bool) -> str:
    """What a request asks for, without the names in it.

    >>> kind_of("GET", "/api/v1/namespaces/x/pods/jupyter-a", False)
    'get pods'
    >>> kind_of("GET", "/api/v1/namespaces/x/pods", True)
    'watch pods'
    >>> kind_of("GET", "/api/v1/nodes", False)
    'list nodes'
    """
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    if method != "GET":
        verb = {"POST": "create", "PUT": "update"}.get(method, method.lower())
    elif watch:
        verb = "watch"
    else:
        verb = "get" if len(parts) > 1 else "list"
    return " ".join([verb, *parts[:1], *parts[2:3]])


class CountingRelay:
    """Speaks plain HTTP to one hub, and to the API server of KUBECONFIG with its credentials."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        """Requests so far, by ``kind_of``."""
        self.received = 0
        """Bytes that the hub was sent."""
        self._port = free_port()
        self._loop = asyncio.new_event_loop()
        self.kubeconfig = folder / "kubeconfig"
        here = {"server": f"http://127.0.0.1:{self._port}"}
        context = {"cluster": "bench", "user": "bench"}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "bench", "cluster": here}],
                    "users": [{"name": "bench", "user": {}}],
                    "contexts": [{"name": "bench", "context": context}],
                    "current-context": "bench",
                }
            )
        )

    def __enter__(self) -> CountingRelay:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _start(self) -> None:
        settings = Configuration()
        await config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=settings)
        self._settings = settings
        self._client = ApiClient(settings)
        self._runner = web.ServerRunner(web.Server(self._carry))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, shutdown_timeout=1).start()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _carry(self, request: web.BaseRequest) -> web.StreamResponse:
        watch = request.query.get("watch", "").lower() in ("true", "1")
        self.counts[kind_of(request.method, request.path, watch)] += 1
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _OWN}
        query: list[tuple[str, str]] = []
        await self._client.update_params_for_auth(headers, query, ["BearerToken"])
        body = await request.read()
        async with self._client.rest_client.pool_manager.request(
            request.method,
            f"{self._settings.host}{request.raw_path}",
            headers=headers,
            data=body or None,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as reply:
            kept = {k: v for k, v in reply.headers.items() if k.lower() not in _OWN}
            answer = web.StreamResponse(status=reply.status, reason=reply.reason, headers=kept)
            # A hub that ends leaves in the middle.
            with contextlib.suppress(ConnectionError):
                await answer.prepare(request)
                async for chunk in reply.content.iter_any():
                    self.received += len(chunk)
                    await answer.write(chunk)
                await answer.write_eof()
            return answer
