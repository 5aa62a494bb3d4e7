"""Names of servers, the .resources file, tokens: pure parts of a launch."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from binder import tokens
from binder.errors import Refused
from binder.hub import HubRefused
from binder.launcher import Launcher, LaunchRequest, is_binder_server, server_name
from binder.resources import RepositoryResources, cap, parse, profile_options
from studovna.site import Project
from studovna.text import Text


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/binder-examples/requirements",
        "https://github.com/u/" + "Long_Name." * 20,
        "ssh://git@example.org/ěšč.git",
        "10.5281/zenodo.3242074",
        "https://example.org/-/",
    ],
)
def test_server_names(url: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,28}[a-z0-9]", server_name(url))


def test_server_names_tell_repositories_apart() -> None:
    urls = ["https://a/u/r", "https://a/v/r", "https://b/u/r", "https://a/u/R"]
    assert len({server_name(url) for url in urls}) == 4
    assert server_name("https://a/u/r.git") == server_name("https://a/u/r/") == server_name(urls[0])


@pytest.mark.parametrize(
    ("text", "values", "problems"),
    [
        ("", {}, 0),
        ("# nothing\n\n", {}, 0),
        ("gpu=1\ncpur=2\ncpul=8\nmemr=4\nmeml=16", dict(gpu=1, cpur=2, cpul=8, memr=4, meml=16), 0),
        ("cpul = 4  # cores", dict(cpul=4), 0),
        ("cpul=4\r\nmeml=8\r\n", dict(cpul=4, meml=8), 0),
        ("cpul=4.5", {}, 1),
        ("meml=8G", {}, 1),
        ("cpul=-1", {}, 1),
        ("cpul=0", {}, 1),
        ("cpu=4", {}, 1),
        ("nonsense", {}, 1),
        ("cpul=4\ncpul=5", dict(cpul=5), 0),
        ("cpul=99999999999999", {}, 1),
        ("cpul=٤", {}, 1),
        ("<script>=1", {}, 1),
    ],
)
def test_resources(text: str, values: dict[str, int], problems: int) -> None:
    found, said = parse(text)
    assert found == RepositoryResources(**values) and len(said) == problems
    assert all("Line 1" in sentence for sentence in said)


def test_resources_are_capped_by_the_project() -> None:
    asked = RepositoryResources(gpu=1, cpur=100, cpul=2, memr=4, meml=100)
    capped, notes = cap(asked, Project())
    assert capped == RepositoryResources(gpu=1, cpur=2, cpul=2, memr=4, meml=64)
    assert len(notes) == 3


@pytest.mark.parametrize(
    ("wanted", "options"),
    [
        (RepositoryResources(), {}),
        (RepositoryResources(gpu=0), {}),
        (RepositoryResources(cpul=4), {"cpu-limit": "4"}),
        (RepositoryResources(memr=8), {"memory-request": "8G", "memory-limit": "8G"}),
        (
            RepositoryResources(gpu=2, cpur=1, cpul=4),
            {"gpu": "2", "cpu-request": "1", "cpu-limit": "4"},
        ),
    ],
)
def test_profile_options(wanted: RepositoryResources, options: dict[str, str]) -> None:
    assert profile_options(wanted) == {f"{k}--unlisted-choice": v for k, v in options.items()}


def test_binder_servers_are_told_from_others() -> None:
    assert is_binder_server({"user_options": {"profile": "binder"}})
    assert not is_binder_server({"user_options": {"profile": "cpu"}})
    assert not is_binder_server({"user_options": None})


class DoubleHub:
    """A hub that takes a moment for every answer, and where servers start at once."""

    def __init__(self) -> None:
        self.servers: dict[tuple[str, str], dict[str, Any]] = {}
        self.refuse: set[str] = set()

    async def user(self, name: str) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        mine = {server: model for (who, server), model in self.servers.items() if who == name}
        return {"servers": mine}

    async def active_servers(self) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(0.01)
        for (who, name), model in list(self.servers.items()):
            yield {**model, "name": name, "owner": who}

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        await asyncio.sleep(0.05)
        if method != "POST":
            raise HubRefused(Text("There is nothing."), status=404)
        _, person, _, name = path.split("/")
        if name in self.refuse:
            raise HubRefused(Text("No."), status=403)
        self.servers[person, name] = {"ready": True, "user_options": body["user_options"]}

    async def progress(self, path: str, seconds: float) -> AsyncIterator[dict[str, Any]]:
        yield {"ready": True}


def launch_of(person: str, repository: str, quota: int = 0) -> LaunchRequest:
    return LaunchRequest(
        person=person, image=f"h/{repository}:1", repo_url=f"https://example.org/{repository}",
        provider="Git", hub_url="/", options={}, binder={}, repo_quota=quota,
    )  # fmt: skip


async def ends(launcher: Launcher, *requests: LaunchRequest) -> list[str]:
    """What becomes of launches that are asked for at the same moment."""
    launches = [launcher.launch(request) for request in requests]
    await asyncio.gather(*(launch.task for launch in launches))
    return [str((launch.log.final or {})["phase"]) for launch in launches]


async def test_links_opened_at_once_stay_within_a_persons_limit() -> None:
    hub = DoubleHub()
    launcher = Launcher(hub, named_server_limit_per_user=2)
    asked = [launch_of("ana", f"r{number}") for number in range(5)]
    found = await ends(launcher, *asked, launch_of("ben", "r0"))
    assert sorted(found[:5]) == ["failed"] * 3 + ["ready"] * 2 and found[5] == "ready"
    assert len(hub.servers) == 3
    # What did not start takes no place.
    hub.servers.clear()
    hub.refuse = {asked[0].server_name}
    assert await ends(launcher, asked[0]) == ["failed"]
    assert await ends(launcher, *asked[1:3]) == ["ready", "ready"]


async def test_links_opened_at_once_stay_within_a_repositorys_quota() -> None:
    hub = DoubleHub()
    launcher = Launcher(hub, named_server_limit_per_user=0)
    asked = [launch_of(f"p{number}", "r", 2) for number in range(5)]
    found = await ends(launcher, *asked, launch_of("p0", "other"))
    assert sorted(found[:5]) == ["failed"] * 3 + ["ready"] * 2 and found[5] == "ready"
    again = next(one for one, end in zip(asked, found, strict=False) if end == "ready")
    assert await ends(launcher, again) == ["ready"]  # one's own is not counted against oneself


def test_build_tokens() -> None:
    secret = b"k" * 32
    token = tokens.mint_build_token(secret, "gh/u/r/HEAD", "hub.example.org", 300)
    tokens.check_build_token(secret, token, "gh/u/r/HEAD", "hub.example.org", True)
    tokens.check_build_token(secret, token, "gh/u/r/HEAD", "elsewhere", False)
    old = tokens.mint_build_token(secret, "gh/u/r/HEAD", "hub.example.org", -1)
    for bad, spec, origin in [
        (token, "gh/u/other/HEAD", "hub.example.org"),
        (token, "gh/u/r/HEAD", "elsewhere"),
        (old, "gh/u/r/HEAD", "hub.example.org"),
        ("x.y.z", "gh/u/r/HEAD", "hub.example.org"),
    ]:
        with pytest.raises(Refused):
            tokens.check_build_token(secret, bad, spec, origin, True)


def test_a_login_keeps_git_tokens() -> None:
    kept = {"git_tokens": {"github.com": {"username": "u", "token": "t"}}}
    new = {"name": "ana", "auth_state": {"access_token": "x"}}
    assert tokens.keep_git_tokens(None, new, {**kept, "access_token": "old"}) == {
        "access_token": "x",
        **kept,
    }
    assert tokens.keep_git_tokens(None, {"name": "ana", "auth_state": None}, kept) == kept
    assert tokens.keep_git_tokens(None, {"name": "ana", "auth_state": None}, None) is None


@pytest.mark.parametrize(
    ("host", "username", "token"),
    [("-h", "", "t"), ("a b", "", "t"), ("h", "a:b", "t"), ("h", "", "a b"), ("h", "", "a\nb")],
)
def test_tokens_that_cannot_be(host: str, username: str, token: str) -> None:
    with pytest.raises(Refused):
        tokens.check_token(host, username, token)
