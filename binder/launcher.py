"""From an image to a running server of the person who asked, through the hub."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from jupyterhub.traitlets import Callable as CallableTrait
from tornado.log import app_log
from traitlets import Bool, Integer
from traitlets.config import LoggingConfigurable

from studovna.text import Text

from . import metrics
from .builds import PRIVATE
from .errors import BinderError, Failed, Refused
from .events import EventLog, event, failed
from .hub import HubClient, HubRefused, HubUnavailable

ASK_AGAIN = 0.1  # seconds after which the hub is asked whether a start has begun
KEPT_LAUNCHES = 500  # logs of launches that can still be resumed


@dataclass(frozen=True)
class LaunchRequest:
    """Whose server of which repository is wanted.

    ``options`` are those of the profile (image and resources); ``binder`` the keys of BinderHub's
    contract; ``notes`` sentences for the person that come first. A ``private`` repository is not
    named in metrics, which everybody may read.
    """

    person: str
    image: str
    repo_url: str
    provider: str
    hub_url: str
    options: dict[str, str]
    binder: dict[str, str]
    repo_quota: int = 0
    notes: tuple[Text, ...] = ()
    private: bool = False

    @property
    def server_name(self) -> str:
        return server_name(self.repo_url)

    @property
    def display_name(self) -> str:
        """What people see the server called."""
        path = urlsplit(self.repo_url).path.strip("/") or self.repo_url
        return path.removesuffix(".git")[-100:]


@dataclass
class Launch:
    """One launch that goes on or has ended not long ago.

    ``counted``: it was found to be within the limits, and is on its way to the hub.
    """

    request: LaunchRequest
    counted: bool = False
    log: EventLog = field(default_factory=lambda: EventLog("launch-" + secrets.token_hex(6)))
    task: asyncio.Task[None] | None = None

    @property
    def failed(self) -> bool:
        return (self.log.final or {}).get("phase") == "failed"


def server_name(repo_url: str) -> str:
    """The name of the server of a repository: at most 30 of ``[a-z0-9-]``, one per repository.

    >>> server_name("https://github.com/binder-examples/requirements")
    'requirements-b24a660f'
    """
    bare = repo_url.rstrip("/").removesuffix(".git")
    last = re.split(r"[/:]", bare)[-1].lower()
    slug = re.sub(r"[^a-z0-9]+", "-", last)[:21].strip("-") or "repository"
    return f"{slug}-{hashlib.sha256(bare.encode()).hexdigest()[:8]}"


def is_binder_server(server: dict[str, Any]) -> bool:
    """Whether a server, as the hub describes it, was started by this service."""
    options = server.get("user_options") or {}
    return options.get("profile") == "binder" or "binder_request" in options


class Launcher(LoggingConfigurable):
    """Starts servers. One launch at a time for each server, watched by any number of viewers."""

    retries = Integer(4, help="How often a hub that does not answer is asked.").tag(config=True)
    retry_delay = Integer(4, help="Seconds before the hub is asked again; doubled each time.").tag(
        config=True
    )
    launch_timeout = Integer(600, help="Seconds that a server may take to start.").tag(config=True)
    allow_named_servers = Bool(True, help="Known for BinderHub's sake.").tag(
        config=True, ignored="each repository has a server of its own name"
    )
    named_server_limit_per_user = Integer(
        int(os.environ.get("JUPYTERHUB_NAMED_SERVER_LIMIT_PER_USER") or 5),
        help="How many Binder servers a person may run at once; 0: any number.",
    ).tag(config=True)
    pre_launch_hook = CallableTrait(
        None,
        allow_none=True,
        help="""
        Called before a server is started with (launcher, image, username, server_name, repo_url);
        may be a coroutine; an exception refuses the launch.
        """,
    ).tag(config=True)

    def __init__(self, hub: HubClient, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hub = hub
        self._launches: OrderedDict[tuple[str, str], Launch] = OrderedDict()

    def launch(self, request: LaunchRequest) -> Launch:
        """Start a person's server of a repository, or join the launch that goes on."""
        key = (request.person, request.server_name)
        launch = self._launches.get(key)
        if launch is None or launch.log.closed:
            launch = self._launches[key] = Launch(request)
            launch.task = asyncio.create_task(self._run(launch))
        self._launches.move_to_end(key)
        for old, entry in list(self._launches.items()):
            if len(self._launches) <= KEPT_LAUNCHES:
                break
            if entry.log.closed:
                del self._launches[old]
        return launch

    def by_log(self, person: str, log: str) -> Launch | None:
        """A person's launch whose log has this name."""
        for (who, _server), launch in self._launches.items():
            if who == person and launch.log.name == log:
                return launch
        return None

    async def _run(self, launch: Launch) -> None:
        request, started, attempts = launch.request, time.perf_counter(), [0]
        status = "failure"
        with metrics.LAUNCHES_INPROGRESS.track_inprogress():
            try:
                async with asyncio.timeout(self.launch_timeout):
                    url = await self._start(launch, attempts)
                last = event("ready", Text("Server running at {url}", url=url))
                last |= {"image": request.image, "repo_url": request.repo_url}
                last |= request.binder | {"url": url}
                status = "success"
            except TimeoutError:
                last = failed(
                    Text(
                        "The server of {url} did not start within {seconds} seconds. It may "
                        "still come up: open the link again in a while.",
                        url=request.repo_url,
                        seconds=self.launch_timeout,
                    )
                )
            except BinderError as error:
                status = "refused" if isinstance(error, Refused) else "failure"
                last = failed(await self._explained(request, error), status_code=error.status)
            except Exception:
                app_log.exception("Launching %s for %s broke", request.image, request.person)
                last = failed(
                    Text(
                        "The launch broke through a fault of the service, which its "
                        "administrators find in the log. Open the link again to try once more."
                    )
                )
        if status != "refused":
            retries = attempts[0] if status == "success" else -1
            taken = time.perf_counter() - started
            metrics.LAUNCH_TIME.labels(status=status, retries=retries).observe(taken)
        metrics.LAUNCH_COUNT.labels(
            status=status,
            provider=request.provider,
            repo=PRIVATE if request.private else request.repo_url,
        ).inc()
        launch.log.close(last)

    async def _start(self, launch: Launch, attempts: list[int]) -> str:
        """Bring the server up; its URL. Raises Refused or Failed."""
        request, log = launch.request, launch.log
        log.append(event("launching", Text("Launching server...")))
        for note in request.notes:
            log.append(event("launching", note))
        person, name = quote(request.person, safe="@~"), request.server_name
        url = f"{request.hub_url}user/{person}/{name}/"
        for attempt in range(self.retries):
            attempts[0] = attempt
            try:
                if await self._up(launch):
                    return url
                break
            except HubUnavailable as error:
                if attempt + 1 == self.retries:
                    raise
                wait, why = self.retry_delay * 2**attempt, error.message
            except HubRefused as error:
                if error.status != 429 or attempt + 1 == self.retries:
                    raise
                wait, why = self.retry_delay * 2**attempt, error.message
            log.append(event("launching", why))
            log.append(event("launching", Text("Trying again in {seconds} seconds.", seconds=wait)))
            await asyncio.sleep(wait)
        raise Failed(Text("The server of {url} ended while it was starting.", url=request.repo_url))

    async def _up(self, launch: Launch) -> bool:
        """One attempt: find the server, start it if need be, follow it until it is ready."""
        request, log = launch.request, launch.log
        name = request.server_name
        counted = self._counted()
        servers = dict((await self.hub.user(request.person)).get("servers") or {})
        server = servers.get(name) or {}
        while server.get("pending") in ("stop", "rename"):
            log.append(event("launching", Text("Waiting for the server that is just stopping.")))
            await asyncio.sleep(2)
            counted = self._counted()
            servers = dict((await self.hub.user(request.person)).get("servers") or {})
            server = servers.get(name) or {}
        if server.get("ready"):
            self._note_other_version(launch, server)
            log.append(event("launching", Text("Your server of this repository runs already.")))
            return True
        if server.get("pending") != "spawn":
            others = await self._servers_of_all(request.repo_url) if request.repo_quota else set()
            # No await from here until it is counted: of two for the last place, one is to get it.
            counted += self._counted()
            self._check_limit(request, servers, counted)
            self._check_repo_quota(request, others, counted)
            launch.counted = True
            if self.pre_launch_hook is not None:
                await self._hook(request)
            self._note_new_version(launch, server)
            return await self._start_and_follow(launch)
        return await self._follow(launch)

    async def _start_and_follow(self, launch: Launch) -> bool:
        """Ask for the server, and follow its start from its first moment.

        The hub answers the request itself only when the server is there, or after some seconds
        (its ``slow_spawn_timeout``).
        """
        request = launch.request
        asking = asyncio.create_task(self._post(request))
        try:
            while not asking.done():
                await asyncio.wait([asking], timeout=ASK_AGAIN)
                servers = (await self.hub.user(request.person)).get("servers") or {}
                if (servers.get(request.server_name) or {}).get("pending") == "spawn":
                    return await self._follow(launch)
            await asking
            return await self._follow(launch)
        finally:
            # The start itself goes on, whether anybody waits for the answer or not.
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _explained(self, request: LaunchRequest, error: BinderError) -> Text:
        """Why a launch ended, as a sentence that can be translated where the hub has one.

        What the hub says of a start that failed is English.
        """
        person, name = quote(request.person, safe=""), request.server_name
        try:
            end = await self.hub.request("GET", f"users/{person}/servers/{name}/last-end")
            text = Text.from_json(end["text"])
        except (BinderError, LookupError, TypeError, ValueError, AttributeError):
            return error.message  # a hub that is not ours, or one that knows of no such start
        return text if str(error.message).startswith(str(text)) else error.message

    def _note_new_version(self, launch: Launch, server: dict[str, Any]) -> None:
        """Say what becomes of the person's files when the last server was of another version."""
        if _is_of_other_image(server, launch.request.image):
            launch.log.append(
                event(
                    "launching",
                    Text(
                        "The repository has changed since you opened it last. What is new is "
                        "added to your folder {folder}; files that you have there stay as they "
                        "are. The repository's own are in /srv/repo.",
                        folder=f"~/{launch.request.server_name}",
                    ),
                )
            )

    def _note_other_version(self, launch: Launch, server: dict[str, Any]) -> None:
        if _is_of_other_image(server, launch.request.image):
            launch.log.append(
                event(
                    "launching",
                    Text(
                        "It runs another version of the repository. To get this one, stop the "
                        "server on the hub's home page and open the link again."
                    ),
                )
            )

    def _counted(self) -> list[Launch]:
        """The launches that limits have let through, and whose servers the hub may not know yet."""
        return [one for one in self._launches.values() if one.counted and not one.log.closed]

    async def _servers_of_all(self, repo_url: str) -> set[tuple[str, str]]:
        """The owners and names of a repository's servers, of all people."""
        return {
            (str(server["owner"]), str(server.get("name") or ""))
            async for server in self.hub.active_servers()
            if (server.get("user_options") or {}).get("repo_url") == repo_url
        }

    def _check_limit(
        self, request: LaunchRequest, servers: dict[str, Any], counted: Iterable[Launch]
    ) -> None:
        """``counted`` are those from before the hub was asked, and those from now."""
        limit = self.named_server_limit_per_user
        running = {
            other: str(server.get("display_name") or other)
            for other, server in servers.items()
            if is_binder_server(server) and not server.get("stopped", False)
        }
        for one in counted:
            if one.request.person == request.person and not one.failed:
                running.setdefault(one.request.server_name, one.request.display_name)
        running.pop(request.server_name, None)
        if limit and len(running) >= limit:
            raise Refused(
                Text(
                    "You run {count} servers from repositories, and at most {limit} are allowed: "
                    "{names}. Stop one on the hub's home page, then open the link again.",
                    count=len(running),
                    limit=limit,
                    names=", ".join(sorted(running.values())),
                ),
                status=409,
            )

    def _check_repo_quota(
        self, request: LaunchRequest, running: set[tuple[str, str]], counted: Iterable[Launch]
    ) -> None:
        for one in counted:
            if one.request.repo_url == request.repo_url and not one.failed:
                running.add((one.request.person, one.request.server_name))
        running.discard((request.person, request.server_name))
        if request.repo_quota and len(running) >= request.repo_quota:
            raise Refused(
                Text(
                    "{count} servers of {url} are running, which is as many as this site allows "
                    "at once. Try again later.",
                    count=len(running),
                    url=request.repo_url,
                ),
                status=429,
            )

    async def _hook(self, request: LaunchRequest) -> None:
        hook: Callable[..., Awaitable[None] | None] = self.pre_launch_hook
        try:
            result = hook(
                self, request.image, request.person, request.server_name, request.repo_url
            )
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            app_log.warning("pre_launch_hook refused %s: %s", request.repo_url, error)
            said = getattr(error, "log_message", None) or str(error) or type(error).__name__
            raise Refused(Text("{message}", message=said), status=403) from error

    async def _post(self, request: LaunchRequest) -> None:
        body = {
            "display_name": request.display_name,
            "user_options": {
                "profile": "binder",
                "image--unlisted-choice": request.image,
                "repo_url": request.repo_url,
                **request.options,
                **request.binder,
            },
        }
        server = f"users/{quote(request.person, safe='')}/servers/{request.server_name}"
        try:
            await self.hub.request("POST", server, body)
        except HubRefused as error:
            # Someone (another window) started it in the meantime: follow that start.
            if "is already running" not in str(error.message):
                raise

    async def _follow(self, launch: Launch) -> bool:
        request, log = launch.request, launch.log
        person = quote(request.person, safe="")
        path = f"users/{person}/servers/{request.server_name}/progress"
        async for step in self.hub.progress(path, self.launch_timeout):
            message = str(step.get("message") or "").strip()
            if step.get("ready"):
                return True
            if step.get("failed"):
                said = message.removeprefix("Spawn failed: ")
                if not said:
                    raise Failed(Text("The server did not start."))
                raise Failed(Text("{message}", message=said))
            if message and message != "Server requested":  # which has been said
                text = step.get("text") or {}
                log.append(event("launching", _text(message, text)))
        return False


def _is_of_other_image(server: dict[str, Any], wanted: str) -> bool:
    options = server.get("user_options") or {}
    image = options.get("image--unlisted-choice") or options.get("image")
    return bool(image) and image != wanted


def _text(message: str, text: dict[str, Any]) -> Text:
    """A progress sentence of the hub, with its template where the spawner sends it along."""
    try:
        return Text.from_json(text)
    except (LookupError, TypeError, ValueError, AttributeError):
        return Text("{message}", message=message)
