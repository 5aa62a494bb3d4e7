"""The queue of builds, its logs and its memory; the executor is a double in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from binder.builds import Build, BuildExecutor, BuildQueue, BuildRequest
from binder.errors import Failed, Refused
from binder.events import Event, EventLog, event, parse_event_id, sse
from binder.providers import Credential
from binder.ratelimit import RateLimiter
from binder.service import BinderService, Shared
from binder.store import BuildStore
from studovna.site import Site
from studovna.text import Text


class DoubleExecutor(BuildExecutor):
    """Builds that last until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.exists: set[str] = set()
        self.ending = asyncio.Event()  # what ending a build in the engine takes
        self.ending.set()
        self.fault: Exception | None = None

    def gate(self, image: str) -> asyncio.Event:
        return self.gates.setdefault(image, asyncio.Event())

    async def run(self, request: BuildRequest) -> AsyncGenerator[Event, None]:
        self.begun.append(request.image)
        yield event("fetching", Text("Fetching"))
        await self.gate(request.image).wait()
        if self.fault:
            raise self.fault
        yield event("pushing", Text("Pushing"))

    async def cancel(self, name: str) -> None:
        self.cancelled.append(name)
        await self.ending.wait()

    async def running(self) -> set[str]:
        return self.exists


def request(image: str, person: str = "ana") -> BuildRequest:
    return BuildRequest(
        image=image,
        repo_url=f"https://example.org/{image}",
        ref="a" * 40,
        content="git",
        fetch_url=f"https://example.org/{image}",
        resolved_spec="s",
        provider="Git",
        started_by=person,
        git_config=(("http.followRedirects", "false"),),
        credential=Credential("u", "s3cret"),
    )


@pytest.fixture
def executor() -> DoubleExecutor:
    return DoubleExecutor()


@pytest.fixture
def queue(executor: DoubleExecutor, tmp_path: Path) -> BuildQueue:
    return BuildQueue(executor, BuildStore(tmp_path), limit=2)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.005)


async def test_one_build_for_all_who_ask(queue: BuildQueue, executor: DoubleExecutor) -> None:
    builds = await asyncio.gather(*(queue.submit(request("x", f"p{n}")) for n in range(200)))
    await settle()
    assert len(set(map(id, builds))) == 1 and executor.begun == ["x"]
    build = builds[0]
    assert len(build.people) == 200 and len(build.log.events) == 2
    executor.gate("x").set()
    await settle()
    assert build.log.final == event("built", Text("The image is built."), imageName="x")
    assert build.state == "built" and queue.active() == []


async def test_an_image_that_was_just_built_is_not_built_again(
    queue: BuildQueue, executor: DoubleExecutor
) -> None:
    """Who asked the registry before it was there comes to the queue after it was built."""
    build = await queue.submit(request("x"))
    executor.gate("x").set()
    await settle()
    assert await queue.submit(request("x", "ben")) is build and executor.begun == ["x"]
    build.ended -= 60
    assert await queue.submit(request("x", "ben")) is not build


async def test_people_take_turns(queue: BuildQueue, executor: DoubleExecutor) -> None:
    for number in range(4):
        await queue.submit(request(f"a{number}", "ana"))
    late = await queue.submit(request("b0", "ben"))
    await queue.submit(request("b1", "ben"))
    await settle()
    assert executor.begun == ["a0", "a1"]
    assert [b.position for b in queue.active()] == [None, None, 1, 3, 2, 4]
    executor.gate("a0").set()
    await settle()
    assert executor.begun[2:] == ["a2"] and late.position == 1
    for image in ("a1", "a2", "a3", "b0", "b1"):
        executor.gate(image).set()
    await settle()
    assert executor.begun[2:] == ["a2", "b0", "a3", "b1"]


async def test_cancel_a_running_and_a_waiting_one(
    queue: BuildQueue, executor: DoubleExecutor
) -> None:
    builds = [await queue.submit(request(f"x{number}")) for number in range(4)]
    await settle()
    await queue.cancel(builds[0], "root")
    await queue.cancel(builds[3], "ana")
    for build, person in ((builds[0], "root"), (builds[3], "ana")):
        assert build.log.final and f"cancelled by {person}" in build.log.final["message"]
    assert executor.cancelled == [builds[0].name]
    await settle()
    assert executor.begun == ["x0", "x1", "x2"]
    await queue.cancel(builds[0], "root")  # again: nothing happens
    assert sum('"failed"' in data for data in builds[0].log.events) == 1


async def test_cancelled_twice_while_it_ends(queue: BuildQueue, executor: DoubleExecutor) -> None:
    executor.ending.clear()
    build = await queue.submit(request("x"))
    await settle()
    both = [asyncio.create_task(queue.cancel(build, person)) for person in ("ana", "root")]
    await settle()
    both.append(asyncio.create_task(queue.cancel(build, "root")))
    await settle()
    executor.ending.set()
    await asyncio.wait_for(asyncio.gather(*both), 5)
    assert build.log.final and "cancelled by ana" in build.log.final["message"]
    assert executor.cancelled == [build.name] and queue.active() == []
    again = await queue.submit(request("x"))
    await settle()
    assert again is not build and again.state == "running"


async def test_cancelled_before_its_first_step(queue: BuildQueue, executor: DoubleExecutor) -> None:
    build = queue._active["x"] = Build(request("x"), 1000)
    queue._start(build)
    await queue.cancel(build, "ana")
    assert executor.begun == [] and executor.cancelled == [build.name]
    assert build.log.final and "cancelled by ana" in build.log.final["message"]
    assert queue.active() == [] and queue._running == {}


async def test_cancelled_while_a_broken_one_is_cleared_away(
    queue: BuildQueue, executor: DoubleExecutor
) -> None:
    executor.ending.clear()
    executor.fault = ZeroDivisionError()
    executor.gate("x").set()
    build = await queue.submit(request("x"))
    await settle()
    cancelling = asyncio.create_task(queue.cancel(build, "ana"))
    await settle()
    executor.ending.set()
    await asyncio.wait_for(cancelling, 5)
    assert build.log.final and build.log.final["phase"] == "failed" and queue.active() == []


async def test_a_service_that_ends_lets_a_cancelled_build_end(
    queue: BuildQueue, executor: DoubleExecutor
) -> None:
    """Otherwise it would be found and followed again."""
    executor.ending.clear()
    build = await queue.submit(request("x"))
    await settle()
    tasks = [asyncio.create_task(queue.cancel(build, "ana"))]
    await settle()
    tasks.append(asyncio.create_task(queue.close()))
    await settle()
    executor.ending.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert build.log.final and "cancelled by ana" in build.log.final["message"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [(Failed(Text("pip said no.")), "pip said no."), (ZeroDivisionError(), "fault of the service")],
)
async def test_failures(
    queue: BuildQueue, executor: DoubleExecutor, fault: Exception, said: str
) -> None:
    executor.fault = fault
    build = await queue.submit(request("x"))
    executor.gate("x").set()
    await settle()
    assert build.log.final and build.log.final["phase"] == "failed"
    assert said in build.log.final["message"]
    again = await queue.submit(request("x"))
    assert again is not build


async def test_a_restart_finds_builds_again(tmp_path: Path) -> None:
    first = DoubleExecutor()
    queue = BuildQueue(first, BuildStore(tmp_path), limit=1)
    running = await queue.submit(request("x"))
    lost = await queue.submit(request("y"))
    waiting = [await queue.submit(replace(request(f"w{n}"), credential=None)) for n in range(2)]
    await settle()
    stored = (tmp_path / "active" / f"{running.name}.json").read_text()
    assert "s3cret" not in stored
    await queue.close()
    assert not running.log.closed  # the build goes on without us

    second = DoubleExecutor()
    stray = "build-" + "0" * 32
    second.exists = {running.name, stray}
    queue = BuildQueue(second, BuildStore(tmp_path), limit=1)
    asked_again = await queue.submit(replace(request("w1", "ben"), credential=None))
    await queue.restore()
    await settle()
    assert second.begun == ["w1", "x"] and queue.find(waiting[1].name) is asked_again
    again = queue.find(waiting[0].name)
    assert again and again.state == "waiting" and again.position == 1
    assert second.cancelled == [stray]
    found = queue.find(running.name)
    assert (
        found
        and found.state == "running"
        and found.request.git_config == (("http.followRedirects", "false"),)
    )
    ended = queue.find(lost.name)
    assert ended and ended.log.final and "interrupted" in ended.log.final["message"]
    for image in ("x", "w0", "w1"):
        second.gate(image).set()
    await settle()
    assert found.state == again.state == "built" and not list((tmp_path / "active").iterdir())


async def test_logs_and_times_are_kept(tmp_path: Path) -> None:
    executor = DoubleExecutor()
    store = BuildStore(tmp_path)
    queue = BuildQueue(executor, store, limit=1)
    build = await queue.submit(request("x"))
    executor.gate("x").set()
    await settle()
    assert "Fetching\n" in (await store.log(build.name) or "")
    assert BuildStore(tmp_path).last_seconds("https://example.org/x") is not None
    await store.forget(build.name)
    assert await store.log(build.name) is None
    with pytest.raises(ValueError, match="no build's name"):
        await store.log("../../etc/passwd")


async def test_too_many_wait(executor: DoubleExecutor, tmp_path: Path) -> None:
    queue = BuildQueue(executor, BuildStore(tmp_path), limit=1, waiting_limit=2)
    for number in range(3):
        await queue.submit(request(f"x{number}"))
    with pytest.raises(Refused, match="builds are waiting"):
        await queue.submit(request("x9"))
    assert (await queue.submit(request("x0"))).request.image == "x0"  # joining is free


@pytest.mark.parametrize("phase", ["fetching", "building", "pushing"])
def test_a_log_is_bounded_and_keeps_its_end(phase: str) -> None:
    log = EventLog("log", limit=100_000)
    for number in range(100_000):
        log.append(event(phase, f"line {number}"))
    log.append(event("pushing", "x" * 1_000_000))
    log.close({"phase": "failed", "message": "no\n"})
    assert sum(map(len, log.events)) < 200_000
    text = log.text()
    assert text.startswith("line 0\n") and "left out" in text and "line 99999\n" in text
    assert log.events[-1] == '{"phase":"failed","message":"no\\n"}'
    log.close({"phase": "built", "message": "yes\n"})
    log.append(event("building", "late"))
    assert json.loads(log.events[-1])["phase"] == "failed"


async def test_no_change_is_missed() -> None:
    log = EventLog("log")
    change = log.change
    log.close({"phase": "built", "message": ""})  # after the look, before the wait
    await asyncio.wait_for(change.wait(), 0.1)
    assert not log.change.is_set()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("abc-1.7", ("abc-1", 7, False)),
        ("abc.7.end", ("abc", 7, True)),
        ("", None),
        ("abc", None),
        ("abc.x", None),
        ("a\nb.1", None),
        ("a.9999999999", None),
    ],
)
def test_event_ids(text: str, parsed: object) -> None:
    assert parse_event_id(text) == parsed


def test_hostile_output_stays_one_event() -> None:
    data = json.dumps(event("building", "a\n\ndata: {}\n\n<script>\u2028"))
    assert sse(data).count("\n") == 2


def test_rate_limit() -> None:
    now = [0.0]
    limiter = RateLimiter(limit=2, period_seconds=3600)
    limiter.clock = lambda: now[0]
    limiter.start("ana")
    limiter.start("ana")
    with pytest.raises(Refused, match="60 minutes") as refused:
        limiter.start("ana")
    assert refused.value.status == 429
    limiter.start("ben")
    now[0] = 3601
    limiter.start("ana")


async def test_shared_answers() -> None:
    asked = []

    async def find() -> int:
        asked.append(1)
        await asyncio.sleep(0.02)
        if len(asked) == 1:
            raise Failed(Text("no"))
        return len(asked)

    shared = Shared(10)
    results = await asyncio.gather(
        *(shared.get("k", find) for _ in range(5)), return_exceptions=True
    )
    assert len(asked) == 1 and all(isinstance(r, Failed) for r in results)
    impatient = asyncio.ensure_future(shared.get("k", find))
    patient = asyncio.ensure_future(shared.get("k", find))
    await asyncio.sleep(0.005)
    impatient.cancel()
    assert await patient == 2 and await shared.get("k", find) == 2


async def test_an_image_that_was_just_absent_has_labels_when_it_is_built() -> None:
    class Registry:
        found: dict[str, str] | None = None

        async def image_labels(self, image: str) -> dict[str, str] | None:
            found = self.found
            await asyncio.sleep(0.02)
            return found

    site, registry = Site.model_validate({}), Registry()
    service = BinderService(site, {}, *[None] * 5, registry, "h/b/")
    assert await service.image_labels("x") is None
    late = asyncio.ensure_future(service.image_labels("x"))
    await asyncio.sleep(0.005)
    registry.found = {"studovna.resources": "cpul=1"}  # a build has ended
    options, _ = await service.server_options("x")
    assert options == {"cpu-limit--unlisted-choice": "1"}
    assert await late is None
