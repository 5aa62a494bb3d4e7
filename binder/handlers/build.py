"""``/build/<provider>/<spec>``: one stream of events from a link to a running server."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from tornado.iostream import StreamClosedError
from tornado.web import Finish

from studovna.text import Text

from ..builds import Build
from ..errors import BinderError, Refused
from ..events import FINAL_PHASES, Event, EventLog, event, failed, has_text, parse_event_id, sse
from ..launcher import LaunchRequest
from ..service import Link
from ..tokens import check_build_token
from .base import BaseHandler, translated

KEEPALIVE = 25.0  # seconds between signs of life on an idle stream
HEARTBEAT = 5.0  # the same for our page, whose script must see them (a proxy may hide a dead peer)
BATCH = 64 * 1024  # bytes written to one viewer at once
PAUSE = 0.05  # seconds between two batches, so that a chatty build costs its viewers little

T = TypeVar("T")


class BuildHandler(BaseHandler):
    """Streams events. The HTTP status is 200 whatever happens: EventSource shows no other."""

    _ended = False
    _heartbeat = False

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")

    def redirect(self, *_args: Any, **_kwargs: Any) -> None:
        """An event stream cannot lead to a login page."""
        self.not_signed_in()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        status, message = self.problem(status_code, kwargs)
        self.set_status(200)
        if not self._ended:
            self._ended = True
            data = json.dumps({"phase": "failed", "status_code": status, "message": message + "\n"})
            self.write(sse(data, f"refused-{secrets.token_hex(4)}.1.end"))
        self.finish()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._headers_written:
            # The stream has begun: what went wrong is its last event.
            self.write_error(status_code, **kwargs)
            return
        super().send_error(status_code, **kwargs)

    async def prepare(self) -> None:
        await super().prepare()
        if self.request.method == "OPTIONS":
            return
        accepted = self.request.headers.get("Accept", "")
        if "text/event-stream" not in accepted.lower():
            raise Refused(Text("Missing Accept header: text/event-stream"))

    async def get(self, prefix: str, _spec: str) -> None:
        spec = self.raw_spec(f"/build/{prefix}/")
        last_id = self.request.headers.get("Last-Event-ID") or self.get_query_argument(
            "last_event_id", ""
        )
        seen = parse_event_id(last_id)
        if seen and seen[2]:
            self.set_status(204)  # all has been said; this ends EventSource's reconnecting
            return
        self._check_build_token(f"{prefix}/{spec}")
        self._heartbeat = self.get_query_argument("heartbeat", "") == "1"
        build_only = self.get_query_argument("build_only", "").lower() == "true"
        link = await self.alive(self.service.resolve(prefix, spec, self.person))
        if link.note:
            await self.emit(event("waiting", link.note))
        try:
            await self._image(link, seen, build_only)
            if not self._ended:
                await self._launch(link, seen, prefix, spec)
        except BinderError as error:
            await self.emit(failed(error.message, status_code=error.status))

    def _check_build_token(self, provider_spec: str) -> None:
        token = self.get_query_argument("build_token", "")
        if token:
            check_build_token(
                self.settings["build_token_secret"],
                token,
                provider_spec,
                self.origin(),
                self.settings["build_token_check_origin"],
            )

    async def _image(self, link: Link, seen: Any, build_only: bool) -> None:
        """See to it that the image is there: at once, or by the one build of it."""
        queue = self.service.queue
        launching = seen is not None and seen[0].startswith("launch-")
        build = queue.by_log(seen[0]) if seen else None
        if build is None or build.request.image != link.image:
            if await self.alive(self.service.image_labels(link.image)) is not None:
                if not launching:
                    await self.emit(self._found(link, build_only))
                return
            build = await queue.submit(self.service.build_request(link, self.person))
        await self._watch(build, seen[1] if seen and seen[0] == build.log.name else 0, build_only)

    def _found(self, link: Link, build_only: bool) -> Event:
        build = {"id": self.service.build_request(link, self.person).name}
        if build_only:
            said = Text("Done! Found built image")
            return event("ready", said, imageName=link.image, build=build)
        said = Text("Found built image, launching...")
        return event("built", said, imageName=link.image, build=build)

    async def _watch(self, build: Build, position: int, build_only: bool) -> None:
        last = self.service.store.last_seconds(build.request.timed_as)
        about = {
            "id": build.name,
            "seconds": round(build.seconds(), 1),
            "asked_ago": round(time.time() - build.asked, 1),
            "last_seconds": last,
            "may_cancel": build.request.started_by == self.person,
        }
        await self.emit(event("waiting", Text("Waiting for the build..."), build=about))
        place: int | None = None

        def also() -> Event | None:
            nonlocal place
            if build.position is None or build.position == place:
                return None
            place = build.position
            said = Text("Waiting in the queue, in place {position}.", position=place)
            return event("waiting", said, position=place)

        def change(new: Event) -> Event:
            if build_only and new.get("phase") == "built":
                return new | event("ready", Text("Done! Image built"))
            return new

        await self.follow(build.log, position, change, also)

    async def _launch(self, link: Link, seen: Any, prefix: str, spec: str) -> None:
        if self.current_user.get("kind", "user") != "user":
            raise Refused(Text("A service has no servers: ask with build_only=true."), status=403)
        launcher, resolved = self.service.launcher, link.resolved
        launch = launcher.by_log(self.person, seen[0]) if seen else None
        position = seen[1] if seen and launch else 0
        if launch is None:
            options, notes = await self.service.server_options(link.image)
            binder = {
                "token": secrets.token_urlsafe(16),
                "binder_ref_url": resolved.ref_url,
                "binder_launch_host": self.settings["badge_base_url"] or self.public_url(),
                "binder_request": f"v2/{prefix}/{spec}",
                "binder_persistent_request": f"v2/{prefix}/{resolved.resolved_spec}",
            }
            launch = launcher.launch(
                LaunchRequest(
                    person=self.person,
                    image=link.image,
                    repo_url=resolved.repo_url,
                    provider=self.service.providers[prefix].name,
                    hub_url=self.hub_url(),
                    options=options,
                    binder=binder,
                    repo_quota=self.service.repo_quota(link),
                    notes=notes,
                    private=resolved.private,
                )
            )
        if launch.request.image != link.image:
            # Of the log's other viewers, whose version it is, none is to read this.
            said = Text(
                "Your server of this repository is just starting with another version of it. To "
                "get this one, stop the server on the hub's home page and open the link again."
            )
            await self.emit(event("launching", said))
        await self.follow(launch.log, position)

    async def follow(
        self, log: EventLog, position: int, change: Any = None, also: Any = None
    ) -> None:
        """Send a log from a position to its end, as it grows.

        ``change`` may alter an event for this viewer; ``also`` may add one that no log holds.
        """
        english = self.locale.code.startswith("en")
        while True:
            change_of_log = log.change
            size = 0
            while position < len(log.events) and size < BATCH:
                data = log.events[position]
                position += 1
                last = log.closed and position == len(log.events)
                # A program's output needs no translation, and is most of a log.
                if last or (not english and has_text(data)):
                    new = json.loads(data)
                    new = change(new) if change and last else new
                    self._ended = new.get("phase") in FINAL_PHASES
                    data = json.dumps(self._translated(new))
                ending = ".end" if self._ended else ""
                self.write(sse(data, f"{log.name}.{position}{ending}"))
                size += len(data)
            if size:
                await self.sent()
            if log.closed and position >= len(log.events):
                return
            if position >= len(log.events):
                extra = also() if also else None
                if extra is not None:
                    await self.emit(extra)
                await self.alive(change_of_log.wait())
                await asyncio.sleep(PAUSE)

    async def emit(self, new: Event) -> None:
        """Send an event that only this viewer gets."""
        ending = new["phase"] in FINAL_PHASES
        self._ended = self._ended or ending
        event_id = f"own-{secrets.token_hex(4)}.1.end" if ending else ""
        self.write(sse(json.dumps(self._translated(new)), event_id))
        await self.sent()

    def _translated(self, new: Event) -> Event:
        text = new.get("text")
        if not isinstance(text, dict) or self.locale.code.startswith("en"):
            return new
        said = translated(self.locale, Text.from_json(text))
        return new | {"message": said + "\n"}

    async def sent(self) -> None:
        """Wait until what was written has left; a viewer who left ends the handler."""
        try:
            await self.flush()
        except StreamClosedError:
            raise Finish from None

    async def alive(self, awaitable: Awaitable[T]) -> T:
        """Wait for something, and show signs of life meanwhile."""
        task = asyncio.ensure_future(awaitable)
        try:
            while True:
                seconds = HEARTBEAT if self._heartbeat else KEEPALIVE
                done, _ = await asyncio.wait({task}, timeout=seconds)
                if done:
                    return task.result()
                sign = "event: alive\ndata: {}\n\n" if self._heartbeat else ":keepalive\n\n"
                self.write(sign)
                await self.sent()
        finally:
            task.cancel()
