"""The spawner of one machine with JupyterHub's own people and database, over engines that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub import orm
from jupyterhub.auth import Authenticator
from jupyterhub.user import User
from tornado.web import HTTPError
from traitlets.config import Config

from spawner import hub_config, podman_call
from spawner.deployment import Deployment
from spawner.engine import MISSING, Claim, ContainerState, Engine, EngineUnavailable, PodState
from spawner.leftovers import LABELS, Leftovers, wanted_pods
from spawner.pages import PageData
from spawner.podman_engine import PodmanEngine
from spawner.podman_spawner import PodmanSpawner
from spawner.profile_list import Capabilities
from spawner.quota import Resources
from spawner.refusals import StartRefused
from studovna.podman import Podman
from studovna.profile_schema import Profile
from studovna.profiles import load_profiles
from studovna.site import load_site
from studovna.text import Text

ROOT = Path(__file__).resolve().parents[2]

MakeUser = Callable[..., Any]


class SmallEngine(Engine):
    """An engine of names only, which breaks when it is told to."""

    def __init__(self) -> None:
        self.pods: dict[str, PodState] = {}
        self.homes: list[Claim] = []
        self.broken = self.pulling = False

    def _work(self) -> None:
        if self.broken:
            raise EngineUnavailable(Text("Podman is broken."), "database is locked")

    async def run(
        self, pod: Any, claims: Any = (), on_event: Any = None, *, data: Any = ()
    ) -> None:
        self._work()
        if self.pulling:
            on_event(Text("Fetching the image {image}", image="quay.io/a/large:1"))
            await asyncio.sleep(60)
        self.pods[pod.metadata.name] = PodState("Running", labels=pod.metadata.labels)

    async def state(self, name: str) -> PodState:
        self._work()
        return self.pods.get(name, MISSING)

    async def states(self, labels: Any) -> dict[str, PodState]:
        self._work()
        return {n: s for n, s in self.pods.items() if labels.items() <= s.labels.items()}

    async def logs(self, name: str, container: str, **more: Any) -> Any:
        raise NotImplementedError
        yield

    async def tail(self, name: str, container: str, lines: int) -> list[str]:
        self._work()
        return []

    async def url(self, name: str, port: int) -> str:
        return f"http://127.0.0.1:{port}"

    def hub_address(self) -> str:
        return "127.0.0.1"

    async def end(self, name: str, grace: float = 10) -> None:
        self._work()
        self.pods.pop(name, None)

    async def erase_claim(self, name: str) -> None:
        self._work()

    async def claims(self, labels: Any, *, measured: bool = True) -> list[Claim]:
        self._work()
        return [c for c in self.homes if labels.items() <= c.labels.items()]


class _Machine:
    async def capabilities(self) -> Capabilities:
        return Capabilities()


@pytest.fixture
def make_user(tmp_path: Path) -> MakeUser:
    """A person of JupyterHub's, whose servers are this site's."""
    db = orm.new_session_factory("sqlite:///:memory:")()

    def make(name: str, settings: str = "", *, manage_groups: bool = False) -> Any:
        file = tmp_path / "site.yaml"
        file.write_text(f"profiles: {ROOT / 'profiles'}\n{settings}")
        site = load_site(file)
        deployment = Deployment(site, load_profiles(site.profiles_folder, site), tmp_path)

        class Spawner(PodmanSpawner):
            machine: Any = _Machine()
            engine: Any = SmallEngine()

        found = db.query(orm.User).filter_by(name=name).one_or_none()
        if found is None:
            found = orm.User(name=name)
            db.add(found)
            db.commit()
        return User(
            found,
            {
                "spawner_class": Spawner,
                "authenticator": Authenticator(allow_all=True, manage_groups=manage_groups),
                "config": Config({"ProfileSpawner": {"deployment": deployment}}),
            },
            db,
        )

    return make


def test_the_site_file_alone_says_who_is_in_its_groups(make_user: MakeUser) -> None:
    user = make_user("ana", "groups: {staff: [ana], teachers: [eva]}")
    # What JupyterHub has kept of an older file, or an admin has added there.
    user.orm_user.groups = [orm.Group(name="teachers")]
    assert user.spawner.groups() == {"staff"}


def test_a_provider_that_manages_groups_is_believed(make_user: MakeUser) -> None:
    user = make_user("ana", manage_groups=True)
    user.orm_user.groups = [orm.Group(name="teachers")]
    assert user.spawner.groups() == {"teachers"}


async def test_a_stop_that_fails_is_told_and_its_pod_is_ended_later(make_user: MakeUser) -> None:
    spawner = make_user("ana").spawner
    engine = spawner.engine
    engine.pods[spawner.pod_name] = PodState("Running", labels=LABELS)
    engine.pods["build"] = PodState("Running", labels={"component": "build"})
    engine.pods["jupyter-eva"] = PodState("Running", labels=LABELS)
    engine.broken = True
    await spawner.stop()
    assert "could not be ended yet. Podman is broken." in spawner.get_state()["last_end"]["message"]

    leftovers = Leftovers(engine, lambda: {"jupyter-eva"}, Path("no.log"))
    await leftovers.sweep()
    engine.broken = False
    await leftovers.sweep()
    assert spawner.pod_name in engine.pods  # seen for the first time
    await leftovers.sweep()
    assert set(engine.pods) == {"build", "jupyter-eva"}


async def test_a_pod_whose_server_is_found_between_two_sweeps_lives(make_user: MakeUser) -> None:
    engine = SmallEngine()
    engine.pods["jupyter-ana"] = PodState("Running", labels=LABELS)
    servers: set[str] = set()
    leftovers = Leftovers(engine, lambda: servers, Path("no.log"))
    for wanted in ([], ["jupyter-ana"], [], ["jupyter-ana"]):
        servers.clear()
        servers.update(wanted)
        await leftovers.sweep()
    assert engine.pods


def test_pods_of_servers_in_the_database_and_of_active_ones_are_wanted(make_user: MakeUser) -> None:
    user = make_user("ana")
    names = ["run", "start", "stop"]
    user.db.add_all(orm.Spawner(name=name, user=user.orm_user) for name in names)
    running, starting, stopped = (user.spawners[name] for name in names)
    running.orm_spawner.server = orm.Server()
    running.orm_spawner.state = running.get_state()
    stopped.orm_spawner.state = stopped.get_state()
    user.db.commit()
    app = SimpleNamespace(db=user.db, users={})
    assert wanted_pods(app) == {running.pod_name}
    starting._spawn_pending = True
    app.users[user.id] = user
    assert wanted_pods(app) == {running.pod_name, starting.pod_name}


async def test_the_home_page_says_when_homes_cannot_be_listed(make_user: MakeUser) -> None:
    user = make_user("ana")
    page = PageData(user.spawner.deployment, user, [])
    assert await page.homes() == []
    user.spawner.engine.broken = True
    assert await page.homes() is None


async def test_no_persons_home_is_the_home_of_somebody_elses_server(make_user: MakeUser) -> None:
    theirs = make_user("of-ana").spawner
    ours = make_user("ana").spawner
    ours.home_kind = "server"
    assert await theirs._home_name() == "home-of-ana"
    assert await ours._home_name() == "server-home-ana"


async def test_a_servers_home_of_before_is_found_again(make_user: MakeUser) -> None:
    spawner = make_user("ana").spawner
    spawner.home_kind = "server"
    spawner.engine.homes = [
        Claim("home-of-ana", 1, 1, datetime.now(UTC), spawner.home_labels()),
    ]
    assert await spawner._home_name() == "home-of-ana"
    spawner.engine.broken = True
    with pytest.raises(StartRefused, match="Podman is broken"):
        await spawner._home_name()


async def test_a_start_that_takes_too_long_says_what_it_was_at(make_user: MakeUser) -> None:
    spawner = make_user("ana").spawner
    spawner.engine.pulling = True
    spawner._tell(Text("Creating the server"), 30)
    spawner.run_timeout = 1
    with pytest.raises(StartRefused) as refusal:
        await spawner._run(None, [])
    assert "Fetching the image quay.io/a/large:1." in refusal.value.jupyterhub_message
    assert refusal.value.status_code == 504


def test_jupyterhubs_own_limit_is_later_than_ours_together(make_user: MakeUser) -> None:
    deployment = make_user("ana").spawner.deployment
    slow = Profile.model_validate({
        "title": "Slow", "image": "lab", "cpu": {"request": 1, "limit": 1}, "home": "none",
        "memory": {"request": "1G", "limit": "1G"}, "answer_seconds": 1800,
    })  # fmt: skip
    c = Config()
    hub_config.configure_spawner(c, replace(deployment, profiles={"slow": slow}))
    assert c.ProfileSpawner.start_timeout > c.ProfileSpawner.run_timeout + 1800


async def test_a_pull_that_stalls_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\nexec sleep 60\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(podman_call, "PULL_SECONDS", 0.2)
    engine = PodmanEngine(Podman(tmp_path), "stalled")
    with pytest.raises(EngineUnavailable, match="0.2 s"):
        await engine._pull("quay.io/a/large:1", lambda _: None)
    assert not engine._pulls


async def test_out_of_memory_is_said_with_the_limit_after_a_restart_of_the_hub(
    make_user: MakeUser,
) -> None:
    before = make_user("ana").spawner
    before.reserved = Resources(1.0, 1.0, 2**29, 2**31)
    after = make_user("ana").spawner
    after.load_state(before.get_state())
    killed = ContainerState("ended", exit_code=137, oom_killed=True)
    sentence = await after.how_it_ended(PodState("Failed", {"notebook": killed}))
    assert "its limit of 2 GB" in sentence


async def test_a_server_with_a_home_of_its_own_keeps_its_name(make_user: MakeUser) -> None:
    user = make_user("ana")
    user.db.add(orm.Spawner(name="work", user=user.orm_user))
    spawner = user.spawners["work"]
    await spawner.rename("work", "play")
    spawner.home_kind = "server"
    home = Claim(await spawner._home_name(), 1, 1, datetime.now(UTC), spawner.home_labels())
    spawner.engine.homes = [home]
    with pytest.raises(HTTPError) as refusal:
        await spawner.rename("work", "play")
    assert refusal.value.status_code == 409
    assert home.name in str(refusal.value)
    # Another server of the same person has nothing to lose.
    await user.spawner.rename("", "other")
