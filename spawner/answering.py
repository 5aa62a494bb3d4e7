"""What every engine's servers have in common: waiting for the answer, and how they ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from jupyterhub.utils import url_path_join, utcnow

from spawner.engine import EngineError, PodState
from spawner.refusals import StartRefused
from spawner.spawner import ProfileSpawner
from spawner.web import SIDECAR_CONTAINER, STATE_PATH
from studovna.text import Text
from studovna.units import format_size

SERVER_CONTAINER = "notebook"
LOG_LINES = 15
ANSWER_INTERVAL = 0.05
STATE_INTERVAL = 0.5
STATE_AGE = 1.0  # seconds that an engine's answer about a pod may be old
VERSION_HEADER = "X-JupyterHub-Version"  # every single-user server of JupyterHub says it


@dataclass(frozen=True)
class _Heard:
    """What came back when a server was asked: whether it answers, and whether it is surely ours
    that does; of an application, whose sidecar answers before it, also the ports on which it
    listens."""

    answers: bool
    surely: bool = True
    ports: tuple[int, ...] = ()


def has_ended(state: PodState) -> bool:
    """Whether a server is over: its pod is, or one of the containers that it cannot be without."""
    own = [state.containers.get(name) for name in (SERVER_CONTAINER, SIDECAR_CONTAINER)]
    ended = any(one is not None and one.state == "ended" for one in own)
    return ended or state.phase not in ("Pending", "Running")


class AnsweringSpawner(ProfileSpawner):
    """ProfileSpawner over three things that an engine does with the server's pod."""

    async def pod_state(self) -> PodState:
        """The pod as it is now. Raises EngineError when that cannot be known."""
        raise NotImplementedError

    async def pod_tail(self, lines: int) -> list[str]:
        """The last lines that the server wrote. Raises EngineError."""
        raise NotImplementedError

    async def end_pod(self, grace: float) -> None:
        """End the pod, ``grace`` seconds after asking it to end itself. Raises EngineError."""
        raise NotImplementedError

    async def adopt_pod(self) -> bool:
        """Take over a pod whose start the hub did not live to finish; False where it cannot be."""
        return False

    def refused(self, error: EngineError) -> StartRefused:
        """An engine's error as the end of a start; called where the error is being handled."""
        self.log.exception("Could not start the pod of %s", self._log_name)
        return StartRefused(error.sentence, reason="engine", detail=error.detail, status_code=500)

    async def wait_for_answer(self, url: str) -> None:
        """Return when the server answers; raise with its own last words when it ends instead.

        JupyterHub asks again after this, but with a back-off of seconds: here the answer is
        noticed within ``ANSWER_INTERVAL``, and a container that died within ``STATE_INTERVAL``.
        Nothing is left of a server that does not answer.
        """
        self._tell(Text("Waiting for the server to answer"), 70)
        try:
            await self._until_it_answers(url)
        except StartRefused:
            # Nobody has worked in it, so there is nothing to give it time for.
            await self._end_quietly()
            raise

    async def _until_it_answers(self, url: str) -> None:
        heard = _Heard(False)
        deadline = time.monotonic() + self.http_timeout
        ask_state = time.monotonic() + STATE_INTERVAL
        doubtful_since: float | None = None
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    heard = await self._ask(session, url)
                except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
                    heard = _Heard(False, ports=heard.ports)
                now = time.monotonic()
                # Of a server that has died, somebody else's may have the port already: what does
                # not say that it is a server of a hub's is believed when the pod outlives it.
                doubtful_since = (doubtful_since or now) if heard.answers else None
                sure = heard.surely or now - (doubtful_since or now) > STATE_AGE
                if (heard.answers and sure) or now >= ask_state:
                    await self._still_lives()
                    if heard.answers and sure:
                        return
                    ask_state = time.monotonic() + STATE_INTERVAL
                if now >= deadline:
                    sentence = await self._no_answer(heard)
                    raise StartRefused(sentence, reason="timeout", status_code=504)
                await asyncio.sleep(ANSWER_INTERVAL)

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> _Heard:
        if not self.web_port:
            address = url_path_join(url, self.server.base_url, "api")
            async with session.get(address, allow_redirects=False) as response:
                return _Heard(response.status < 500, VERSION_HEADER in response.headers)
        address = url_path_join(url, self.server.base_url, STATE_PATH)
        headers = {"Authorization": f"token {self.api_token}"}
        async with session.get(address, headers=headers, allow_redirects=False) as response:
            response.raise_for_status()
            told: dict[str, Any] = await response.json(content_type=None)
            return _Heard(told["answers"], ports=tuple(told["listens"]))

    async def _no_answer(self, heard: _Heard) -> Text:
        """Why a server that runs was ended: it did not answer in time."""
        lines = await self._last_lines()
        if not self.web_port:
            return Text(
                "Your server runs but did not answer on port {port} within {seconds} "
                "seconds, so it was ended. Its last lines:\n{lines}",
                port=self.port,
                seconds=self.http_timeout,
                lines=lines,
            )
        if self.web_port in heard.ports:
            return Text(
                "The application listens on port {port} but did not answer a web request there "
                "within {seconds} seconds, so it was ended. Its last lines:\n{lines}",
                port=self.web_port,
                seconds=self.http_timeout,
                lines=lines,
            )
        if heard.ports:
            return Text(
                "Nothing answered on port {port}, which you asked for, within {seconds} seconds, "
                "so the application was ended. It listens on: {ports}. Start it again with the "
                "right port. Its last lines:\n{lines}",
                port=self.web_port,
                seconds=self.http_timeout,
                ports=", ".join(map(str, heard.ports)),
                lines=lines,
            )
        return Text(
            "The application did not listen on port {port}, or on any other, within {seconds} "
            "seconds, so it was ended. Its last lines:\n{lines}",
            port=self.web_port,
            seconds=self.http_timeout,
            lines=lines,
        )

    async def _still_lives(self) -> None:
        try:
            state = await self.pod_state()
        except EngineError as error:
            self.log.warning("%s: %s", self._log_name, error.sentence)
            return
        if has_ended(state):
            raise StartRefused(await self.how_it_ended(state), reason="ended", status_code=500)

    async def _last_lines(self) -> str:
        try:
            lines = await self.pod_tail(LOG_LINES)
        except EngineError:
            return ""
        return "\n".join(lines)

    async def how_it_ended(self, state: PodState) -> Text:
        """One sentence for a pod that is no longer running."""
        container = state.containers.get(SERVER_CONTAINER)
        sidecar = state.containers.get(SIDECAR_CONTAINER)
        if state.reason is not None:
            return Text(
                "Your server ended. {why} Your home is kept; start the server again.",
                why=state.reason,
            )
        if container is None or state.phase == "Missing":
            return Text(
                "Your server is gone: its container was removed outside of the hub. "
                "Your home is kept; start the server again."
            )
        if container.state != "ended" and sidecar is not None and sidecar.state == "ended":
            return Text(
                "What checks the sign-in before your application ended with exit code {code}. Your "
                "home is kept; start it again, and tell the operator if it happens again.",
                code=sidecar.exit_code,
            )
        if container.oom_killed:
            return Text(
                "Your server used more memory than its limit of {limit} and was ended by the "
                "machine. Your home is kept; start it again with a larger size.",
                # What the server got: after a restart of the hub the traits are the defaults.
                limit=format_size(
                    self.reserved.memory_limit if self.reserved else int(self.mem_limit or 0)
                ),
            )
        if container.exit_code == 137:
            return Text("Your server was killed from outside. Your home is kept; start it again.")
        return Text(
            "Your server ended by itself with exit code {code}. Its last lines:\n{lines}",
            code=container.exit_code,
            lines=await self._last_lines(),
        )

    async def poll(self) -> int | None:
        """None while the pod runs; otherwise its exit code, and ``last_end`` says what happened.

        None as well while the engine cannot be asked: a server is not given up for that.
        """
        try:
            state = await self.pod_state()
        except EngineError as error:
            self.log.warning("%s: %s %s", self._log_name, error.sentence, error.detail)
            return None
        if not has_ended(state):
            if self._start_pending or self.reserved is not None:
                return None
            return await self._take_over()
        # A start that failed has left no pod, and says itself why; and JupyterHub asks again while
        # it cleans up after a server whose end has been told already.
        told = self.server is None or self._start_pending or self.last_end is not None
        if state.phase == "Missing" and told:
            return 1
        self._ended(await self.how_it_ended(state))
        await self._end_quietly()
        container = state.containers.get(SERVER_CONTAINER)
        return container.exit_code if container and container.exit_code is not None else 1

    async def _take_over(self) -> int | None:
        """The hub died while this server was starting: nobody was ever in it."""
        try:
            if await self.adopt_pod():
                return None
            sentence = Text(
                "The hub was started again while your server was starting. Start it again."
            )
        except EngineError as error:
            sentence = error.sentence
        except StartRefused as error:
            sentence = error.jupyterhub_message
        self._ended(sentence)
        await self._end_quietly()
        return 1

    async def _end_quietly(self) -> None:
        """End what is left; when that fails, the next start or stop does it."""
        try:
            await self.end_pod(0)
        except EngineError as error:
            self.log.error("%s could not be ended: %s", self._log_name, error.sentence)

    def _ended(self, sentence: Text) -> None:
        self.last_end = {**sentence.as_event(), "at": utcnow().isoformat()}
        self.log.warning("%s: %s", self._log_name, sentence)
