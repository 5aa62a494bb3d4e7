"""Servers on one machine: the same pod manifest as on a cluster, run by the podman engine."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from unittest.mock import patch

import kubespawner.spawner

from spawner.answering import SERVER_CONTAINER, AnsweringSpawner
from spawner.engine import Claim, Engine, EngineError, PodExists, PodState
from spawner.machine import Machine
from spawner.profile_list import Capabilities
from spawner.refusals import StartRefused
from studovna.text import Text


class PodmanSpawner(AnsweringSpawner):
    """ProfileSpawner whose pods the podman engine of this machine runs.

    KubeSpawner's options, manifests, names and state are used as they are; what would talk to a
    Kubernetes API is replaced: ``_start``, ``stop``, ``poll`` and the watches.
    """

    machine: ClassVar[Machine]
    engine: ClassVar[Engine]
    """Shared by all servers of the process; set once by the hub's configuration."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # KubeSpawner connects to a cluster while it is made; here there is none.
        with (
            patch.object(kubespawner.spawner, "load_config", lambda **_: None),
            patch.object(kubespawner.spawner, "shared_client", lambda *_: None),
        ):
            super().__init__(*args, **kwargs)

    async def capabilities(self) -> Capabilities:
        return await self.machine.capabilities()

    async def _start_watching_pods(self, replace: bool = False) -> None:
        """Nothing to watch: the engine is asked when the hub wants to know."""

    async def _start_watching_events(self, replace: bool = False) -> None:
        """Nothing to watch: the engine tells its events while it starts a pod."""

    async def _ensure_namespace(self) -> None:
        """One machine has no namespaces."""

    async def _start(self) -> str:
        await self.load_user_options()
        pod = await self.get_pod_manifest()
        claims = [self.get_pvc_manifest()] if self.storage_pvc_ensure else []
        self._tell(Text("Creating the server"), 30)
        try:
            await self._run(pod, claims)
            url = await self.engine.url(self.pod_name, self.port)
        except EngineError as error:
            raise self.refused(error) from error
        await self.wait_for_answer(url)
        return url

    async def _run(self, pod: Any, claims: list[Any]) -> None:
        """Run the pod within ``run_timeout``. Raises EngineError, StartRefused."""
        try:
            async with asyncio.timeout(self.run_timeout):
                try:
                    await self.engine.run(pod, claims, on_event=self._tell)
                except PodExists:
                    # Left over from a start that the hub did not live to finish.
                    await self.end_pod(0)
                    await self.engine.run(pod, claims, on_event=self._tell)
        except TimeoutError:
            raise StartRefused(
                Text(
                    "Your server was not ready to run within {minutes} minutes. Its last step was: "
                    "{step}. An image that is being fetched is fetched on: start it again later.",
                    minutes=round(self.run_timeout / 60),
                    step=Text.from_json(self._events[-1]["text"]),
                ),
                reason="timeout",
                status_code=504,
            ) from None

    async def pod_state(self) -> PodState:
        return await self.engine.state(self.pod_name)

    async def pod_tail(self, lines: int) -> list[str]:
        return await self.engine.tail(self.pod_name, SERVER_CONTAINER, lines)

    async def end_pod(self, grace: float) -> None:
        await self.engine.end(self.pod_name, grace)

    async def homes(self, *, measured: bool = True) -> list[Claim]:
        return await self.engine.claims(self.home_labels(), measured=measured)

    async def erase_home(self, name: str) -> None:
        await self.engine.erase_claim(name)

    async def stop(self, now: bool = False) -> None:
        """End the pod. JupyterHub forgets the server whatever happens here, so a pod that cannot be
        ended now is left to ``leftovers``, and the person is told."""
        try:
            await self.end_pod(0 if now else self.delete_grace_period)
        except EngineError as error:
            self.log.error("%s could not be ended: %s", self._log_name, error.detail)
            self._ended(
                Text(
                    "Your server could not be ended yet. {why} The hub goes on trying; your home "
                    "is kept.",
                    why=error.sentence,
                )
            )
