"""Specs of links, addresses of hosts, refs: what is let in and what is refused, by table."""

from __future__ import annotations

import asyncio
import csv
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binder import service as service_module
from binder.errors import BinderError, Failed, Refused
from binder.providers import PROVIDERS, AddressRules, Resolved, addresses
from binder.providers.addresses import is_public, resolve
from binder.providers.base import check_ref, check_spec
from binder.providers.git import parse_address, pick_commit, ref_names
from binder.service import BinderService

RULES = AddressRules.of([])
COMMIT = "a" * 40


def provider(prefix: str, **options):
    return PROVIDERS[prefix](prefix, RULES, **options)


@pytest.mark.parametrize(
    ("prefix", "spec", "url", "ref"),
    [
        ("gh", "u/r/HEAD", "https://github.com/u/r", "HEAD"),
        ("gh", "u/r.git/feature/x", "https://github.com/u/r", "feature/x"),
        ("gh", f"u/r/{COMMIT}", "https://github.com/u/r", COMMIT),
        ("gl", "g%2Fs%2Fp/main", "https://gitlab.com/g/s/p.git", "main"),
        ("gist", "u/8f7c2f0341ef", "https://gist.github.com/u/8f7c2f0341ef.git", "HEAD"),
        ("gist", "u/8f7c/master", "https://gist.github.com/u/8f7c.git", "HEAD"),
        ("git", "https%3A%2F%2Fexample.org%2Fx/v1", "https://example.org/x", "v1"),
        ("git", "http%3A%2F%2Fexample.org%3A80%2Fx/v1", "http://example.org/x", "v1"),
        ("git", "git%40example.org%3Alab%2Fn.git/HEAD", "ssh://git@example.org/lab/n.git", "HEAD"),
        ("git", "git%3A%2F%2Fexample.org%2Fx/a%2Fb", "git://example.org/x", "a/b"),
        (
            "git",
            "https%3A%2F%2F[2001%3Adb8%3A%3A1]%3A8443%2Fx/m",
            "https://[2001:db8::1]:8443/x",
            "m",
        ),
        ("zenodo", "10.5281/zenodo.3242074", "10.5281/zenodo.3242074", ""),
        ("figshare", "10.6084/m9.figshare.9782777.v1", "10.6084/m9.figshare.9782777.v1", ""),
        ("dataverse", "10.7910/DVN/TJCLKP", "10.7910/DVN/TJCLKP", ""),
        (
            "hydroshare",
            "8f7c2f0341ef4180b0dbe97f59130756",
            "https://www.hydroshare.org/resource/8f7c2f0341ef4180b0dbe97f59130756",
            "",
        ),
        (
            "ckan",
            "https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fsample",
            "https://demo.ckan.org/dataset/sample",
            "",
        ),
    ],
)
def test_specs(prefix: str, spec: str, url: str, ref: str) -> None:
    source = provider(prefix).parse(spec)
    assert (source.url, source.ref) == (url, ref)


@pytest.mark.parametrize(
    ("prefix", "spec", "said"),
    [
        ("gh", "u", "not of the form"),
        ("gh", "u/r", 'Did you mean "u/r/HEAD"?'),
        ("gh", "u//HEAD", "not of the form"),
        ("gh", "../r/HEAD", "as a part of its path"),
        ("gh", "%2e%2e/r/HEAD", "as a part of its path"),
        ("gh", "u/r/a/../b", "as a part of its path"),
        ("gh", "-u/r/HEAD", "cannot be the name"),
        ("gh", "u/-r/HEAD", "cannot be the name"),
        ("gh", "u/r%2Fs/HEAD", "cannot be the name"),
        ("gh", "u/r/-b", "not a name that a branch"),
        ("gh", "u/r/a..b", "not a name that a branch"),
        ("gh", "u/r/a@%7B1%7D", "no repository address has"),
        ("gh", "u/r/x*", "not a name that a branch"),
        ("gh", "u/r/x~1", "not a name that a branch"),
        ("gh", "u/r/x.lock", "not a name that a branch"),
        ("gh", "u/r/%00", "control character"),
        ("gh", "u/r/a%0Ab", "control character"),
        ("gh", "u/r/%E2%80%A8", "control character"),
        ("gh", "u/r/%FF", "not valid UTF-8"),
        ("gh", "<b>/r/HEAD", "no repository address has"),
        ("gh", "u/r/" + "x" * 10_000, "too long"),
        ("gl", "project/HEAD", "not of the form group/project"),
        ("gist", "u/not-hex", "not the id of a gist"),
        ("git", "noslash", "not of the form"),
        ("git", "x/HEAD", "must begin with"),
        ("git", "file%3A%2F%2F%2Fetc/HEAD", "must begin with"),
        ("git", "ext%3A%3Ash%2F-c/HEAD", "must begin with"),
        ("git", "FILE%3A%2F%2F%2Fetc/HEAD", "must begin with"),
        ("git", "ftp%3A%2F%2Fexample.org%2Fx/HEAD", "must begin with"),
        ("git", "--upload-pack%3Dx/HEAD", "must begin with"),
        ("git", "https%3A%2F%2F-oProxy%2Fx/HEAD", "names no host"),
        ("git", "ssh%3A%2F%2F-oProxyCommand%3Dx%2Fy/HEAD", "names no host"),
        ("git", "ssh%3A%2F%2F-u%40example.org%2Fy/HEAD", "cannot be a user name"),
        ("git", "git%40-host%3Ax/HEAD", "names no host"),
        ("git", "https%3A%2F%2Fexample.org%2F-x/HEAD", "path that no repository has"),
        ("git", "https%3A%2F%2Fexample.org%2F/HEAD", "no repository"),
        ("git", "https%3A%2F%2Fu%40example.org%2Fx/HEAD", "user name or a password"),
        ("git", "https%3A%2F%2Fexample.org%3A99999%2Fx/HEAD", "not a complete address"),
        ("git", "https%3A%2F%2Fexample.org%3A0%2Fx/HEAD", "names no host"),
        ("git", "https%3A%2F%2Fexample.org%2Fx%3Fa/HEAD", "query or a fragment"),
        ("git", "https%3A%2F%2F%2Fx/HEAD", "names no host"),
        ("zenodo", "11.1/x", "not a DOI"),
        ("hydroshare", "xyz", "not the id of a Hydroshare"),
        ("ckan", "https%3A%2F%2Fdemo.ckan.org%2Fx", "not the address of a CKAN"),
        ("ckan", "file%3A%2F%2Fx%2Fdataset%2Fy", "not the address of a CKAN"),
    ],
)
def test_refused_specs(prefix: str, spec: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        provider(prefix).parse(spec)
    assert said in str(refused.value)


@given(st.text(max_size=300))
def test_any_text_is_a_source_or_a_sentence(text: str) -> None:
    for prefix in PROVIDERS:
        try:
            source = provider(prefix).parse(text)
        except BinderError as error:
            assert str(error)
        else:
            assert not source.url.startswith("-") and not source.ref.startswith("-")
            assert "\0" not in source.url + source.ref


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.1.2.3",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.0.1", "198.18.0.1",
        "192.0.2.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1",
        "fe80::1%eth0",
        "fc00::1", "fd12::1", "fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::", "2001:db8::1", "::ffff:0:127.0.0.1",
        "not an address", "",
    ],
)  # fmt: skip
def test_addresses_inside(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "140.82.121.3", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_addresses_outside(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("allowed", "host", "port", "ok"),
    [
        (["git.lab"], "git.lab", 80, True),
        (["git.lab"], "GIT.lab.", 8443, True),
        (["git.lab:8443"], "git.lab", 8443, True),
        (["git.lab:8443"], "git.lab", 80, False),
        (["git.lab"], "evil.git.lab", 80, False),
        (["::1"], "::1", 80, True),
        (["[::1]:90"], "::1", 90, True),
        (["[::1]:90"], "::1", 91, False),
    ],
)
def test_allowed_hosts(allowed: list[str], host: str, port: int, ok: bool) -> None:
    assert AddressRules.of(allowed).allows_by_name(host, port) is ok


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
async def test_every_spelling_of_loopback_is_refused(host: str) -> None:
    with pytest.raises(Refused) as refused:
        await resolve(RULES, host, 80)
    assert refused.value.status in (403, 404)


async def test_a_name_with_one_address_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host, port, **_kwargs):
        return [
            (socket.AF_INET, 0, 0, "", (address, port)) for address in ("140.82.121.3", "10.0.0.7")
        ]

    monkeypatch.setattr(addresses, "_names", answer)
    with pytest.raises(Refused):
        await resolve(RULES, "two-faced.example.org", 443)


@pytest.fixture
def silent_name_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """They answer when the event is set, and no earlier."""
    answered = threading.Event()

    def answer(host, port, **_kwargs):
        if not host.startswith("quick"):
            answered.wait(30)
        return [(socket.AF_INET, 0, 0, "", ("140.82.121.3", port))]

    monkeypatch.setattr(addresses, "_names", answer)
    monkeypatch.setattr(addresses, "RESOLVE_TIMEOUT", 1.0)
    yield answered
    answered.set()


async def test_name_servers_that_do_not_answer_hold_up_nothing_else(
    silent_name_servers: threading.Event,
) -> None:
    asked = [asyncio.create_task(resolve(RULES, f"hole{n}.example.org", 80)) for n in range(20)]
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await asyncio.to_thread(time.sleep, 0)  # files are written so, and the hub is found so
    assert await resolve(RULES, "quick.example.org", 443) == ["140.82.121.3"]
    assert time.monotonic() - started < 1
    for error in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(error, Failed) and error.status == 504
        assert "No name server has answered" in str(error)
    assert not [thread for thread in threading.enumerate() if not _may_be_left(thread)]


async def test_a_proxy_may_know_what_name_servers_do_not_tell(
    silent_name_servers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    git = provider("git")
    settings = await git.settings(parse_address("https://hole.example.org/x"), None)
    assert "http.curloptResolve" not in dict(settings)
    with pytest.raises(Failed):
        monkeypatch.delenv("https_proxy")
        await git.settings(parse_address("https://hole.example.org/x"), None)


def _may_be_left(thread: threading.Thread) -> bool:
    """Whether the end of the process does not wait for it."""
    return thread.name != "name-lookup" or thread.daemon


async def test_who_asks_name_servers_that_do_not_answer_waits_for_them(
    silent_name_servers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Giving up on a lookup does not make room for another one of the same person."""
    monkeypatch.setattr(service_module, "RESOLVING_PER_PERSON", 2)
    service = BinderService(*[None] * 10, "")
    git = provider("git")
    begun = []
    plain = git.resolve

    async def resolve(source, credential=None):
        begun.append(source.url)
        return await plain(source, credential)

    monkeypatch.setattr(git, "resolve", resolve)

    def ask(host: str, person: str) -> asyncio.Task:
        source = git.parse(f"https%3A%2F%2F{host}.example.org%2Fx/HEAD")
        return asyncio.create_task(service._ask(git, source, None, person))

    holes = [ask(f"hole{n}", "ana") for n in range(3)]
    await asyncio.wait(holes[:2], timeout=10)  # they have been given up
    await asyncio.sleep(0.05)
    assert [task.done() for task in holes] == [True, True, False] and len(begun) == 2
    other = ask("hole9", "ben")
    await asyncio.sleep(0.1)
    assert len(begun) == 3
    silent_name_servers.set()
    await asyncio.sleep(0.2)
    assert len(begun) == 4
    for task in (*holes, other):
        task.cancel()
    await asyncio.gather(*holes, other, return_exceptions=True)


async def test_git_is_tied_to_the_checked_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def answer(host, port, **_kwargs):
        return [
            (socket.AF_INET6, 0, 0, "", ("2606:50c0::153", port)),
            (socket.AF_INET, 0, 0, "", ("140.82.121.3", port)),
        ]

    monkeypatch.setattr(addresses, "_names", answer)
    git = provider("git")
    settings = await git.settings(parse_address("https://example.org/x"), None)
    assert (
        "http.curloptResolve",
        "example.org:443:140.82.121.3,2606:50c0::153",
    ) in settings
    assert ("http.followRedirects", "false") in settings
    assert ("protocol.allow", "never") in settings
    settings = await git.settings(parse_address("git://example.org/x"), None)
    assert ("url.git://140.82.121.3/.insteadOf", "git://example.org/") in settings


@pytest.mark.parametrize(
    ("ref", "commit"),
    [
        ("HEAD", "1"),
        ("main", "2"),
        ("v1", "5"),
        ("both", "6"),
        ("refs/heads/main", "2"),
        ("pull/7/head", "8"),
        ("n", None),
        ("refs/tags/v1", "5"),
    ],
)
def test_pick_commit(ref: str, commit: str | None) -> None:
    answer = "".join(
        f"{number * 40}\t{name}\n"
        for number, name in [
            ("1", "HEAD"),
            ("2", "refs/heads/main"),
            ("3", "refs/heads/x/main"),
            ("4", "refs/tags/v1"),
            ("5", "refs/tags/v1^{}"),
            ("6", "refs/heads/both"),
            ("7", "refs/tags/both"),
            ("8", "refs/pull/7/head"),
        ]
    )
    assert pick_commit(answer, ref) == (commit * 40 if commit else None)
    assert pick_commit("not\ta\nlisting", ref) is None
    assert ref_names(ref)


class Listed(BinderService):
    """The service with lists of repositories; hosts answer that everything is there."""

    def __init__(self, allowed: list[str], banned: list[str], moved: str = "") -> None:
        options = {"allowed_specs": allowed, "banned_specs": banned}
        super().__init__(
            None, {prefix: provider(prefix, **options) for prefix in PROVIDERS}, *[None] * 6, "h/b/"
        )
        self.moved = moved

    async def _ask(self, provider, source, credential, person):
        slug = provider.slug(source) if hasattr(provider, "slug") else source.url
        return Resolved(source, COMMIT, "", "", slug, self.moved or source.url)


def is_in(link: str, allowed: list[str], banned: list[str], moved: str = "") -> bool:
    try:
        asyncio.run(Listed(allowed, banned, moved).resolve(*link.split("/", 1), "ana"))
    except Refused as refusal:
        if refusal.status != 403:  # it is no link at all
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("allowed", "banned", "link", "there"),
    [
        ([], [], "gh/u/r/HEAD", True),
        ([], ["u/.*"], "gh/u/r/HEAD", False),
        ([], ["u/.*"], "gh/U/R/HEAD", False),
        ([], ["u/r"], "gh/u/r/HEAD", True),  # the whole spec must match
        (["u/.*"], [], "gh/v/r/HEAD", False),
        (["u/.*"], [], "gh/u/r/HEAD", True),
        (["u/.*"], ["u/r/.*"], "gh/u/r/HEAD", False),
        ([r"\A(?:u/.*)\Z"], [], "gh/u/r/HEAD", True),
        (["g/p/.*"], [], "gl/g%2Fp/HEAD", True),
        (["g%2Fp/.*"], [], "gl/g%2Fp.git/HEAD", True),  # as BinderHub's own patterns are
        (["g/p/.*"], [], "gl/g%2Fq/HEAD", False),
        (["u/8f7c"], [], "gist/u/8f7c", True),
        (["https://git.uni.example/.*"], [], "git/https%3A%2F%2Fgit.uni.example%2Fx/v1", True),
        (["https%3A%2F%2Fgit.uni.example%2F.*"], [], "git/https%3A%2F%2Fgit.uni.example%2Fx/v1",
         True),
        (["https://git.uni.example/.*"], [], "git/http%3A%2F%2Fgit.uni.example%2Fx/v1", False),
        (["https://git.uni.example/.*"], [], "git/https%3A%2F%2Fevil.example%2Fx/v1", False),
        (["https://git.uni.example/good/.*"], [],
         "git/https%3A%2F%2Fgit.uni.example%2Fgood%2F%2Fx.git/v1", True),
        (["10.5281/.*"], [], "zenodo/10.5281/zenodo.1", True),
        (["10.5281/.*"], ["10.5281/zenodo.1"], "zenodo/10.5281//zenodo.1", False),
        (["https://demo.ckan.org/.*"], [], "ckan/https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fx", True),
        ([], ["https://demo.ckan.org/.*"],
         "ckan/https%3A%2F%2FDEMO.ckan.org.%3A443%2Fdataset%2Fx", False),
        ([], [f"u/r/{COMMIT}"], "gh/u/r/HEAD", False),  # that version, by whichever name
    ],
)  # fmt: skip
def test_allowed_and_banned(allowed: list[str], banned: list[str], link: str, there: bool) -> None:
    assert is_in(link, allowed, banned) is there


@pytest.mark.parametrize(
    ("pattern", "link"),
    [
        ("evil/repo/.*", "gh/evil/repo.git/HEAD"),
        ("evil/repo/.*", "gh/evil/%72epo/HEAD"),
        ("evil/repo/.*", "git/https%3A%2F%2Fgithub.com%2Fevil%2Frepo/HEAD"),
        ("evil/repo/.*", "git/git%40github.com%3Aevil%2Frepo/HEAD"),
        ("https://github.com/evil/.*", "gh/evil/repo/HEAD"),
        ("evil/repo/.*", "gl/evil%2Frepo.git/HEAD"),
        *(
            ("https://evil.example/repo/.*", f"git/{quote(url, safe='')}/HEAD")
            for url in (
                "https://evil.example/repo",
                "https://evil.example/repo.git",
                "https://evil.example//repo/",
                "https://EVIL.example:443/repo",
                "https://evil.example./repo",
                "https://evil.example/%72epo",
                "https://evil.example/%2572epo",
                "http://evil.example/repo",
                "https://evil.example:8443/repo",
                "git@evil.example:repo.git",
                "ssh://someone@evil.example/repo",
            )
        ),
    ],
)
def test_no_spelling_passes_a_ban(pattern: str, link: str) -> None:
    assert is_in(link, [], ["other/.*"]) and not is_in(link, [], [pattern])


def test_a_redirect_passes_no_list() -> None:
    link = "git/https%3A%2F%2Fgit.uni.example%2Fx/HEAD"
    moved = "https://evil.example/x"
    assert is_in(link, [], [], moved)
    assert not is_in(link, [], ["https://evil.example/.*"], moved)
    assert not is_in(link, ["https://git.uni.example/.*"], [], moved)
    assert not is_in("gh/u/r/HEAD", [], ["evil/.*"], "https://github.com/evil/r")


def test_no_path_climbs_out_of_what_is_allowed() -> None:
    for path in ("good/%2e%2e/evil", "good/%252e%252e/evil", "good%2F..%2Fevil"):
        link = f"git/{quote('https://git.uni.example/' + path, safe='')}/HEAD"
        with pytest.raises(Refused, match="path that no repository|as a part of its path"):
            is_in(link, ["https://git.uni.example/good/.*"], [])


def test_quota_of_a_repository() -> None:
    found = provider(
        "gh",
        high_quota_specs=["big/.*"],
        spec_config=[{"pattern": "one/c/.*", "config": {"quota": 1}}],
    )
    specs = ("a/c/d", "big/c/d", "one/c/d", "one/c.git/d")
    assert [found.quota(found.names(found.parse(s)), 5, 50) for s in specs] == [5, 50, 1, 1]


def test_same_repository_same_image() -> None:
    def image(prefix: str, spec: str) -> str:
        found = provider(prefix)
        source = found.parse(spec)
        resolved = Resolved(source, COMMIT, "", "", found.slug(source), source.url)
        return BinderService.image_name(_Prefix(), resolved)

    class _Prefix:
        image_prefix = "127.0.0.1:5000/binder/"
        image_version = "1"

    one = image("gh", "User/Repo_x/HEAD")
    assert one.startswith("127.0.0.1:5000/binder/user-repo-x-") and one.endswith(":" + COMMIT)
    assert image("gh", "User/Repo_x/main") == one
    assert image("gh", "User/Repo-x/main") != one
    assert len(image("git", "https%3A%2F%2Fexample.org%2F" + "x" * 900 + "/HEAD")) < 200


def test_helpers_say_what_is_wrong() -> None:
    assert check_spec("a/b") == "a/b" and check_ref("feature/x") == "feature/x"
    with pytest.raises(Refused, match="100 characters|too long"):
        check_spec(quote("x" * 3000))


def test_every_sentence_is_in_czech() -> None:
    """Each sentence that a person may see has a translation with the same parameters."""
    import ast
    import re

    root = Path(__file__).parents[2] / "binder"
    found: set[str] = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Text" and node.args:
                if isinstance(node.args[0], ast.Constant):
                    found.add(node.args[0].value)
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "PAGE_STRINGS":
                found |= set(ast.literal_eval(node.value))
    for page in (root / "templates").glob("*.html"):
        pairs = re.findall(r"""_\((?:"([^"]*)"|'([^']*)')\)""", page.read_text())
        found |= {one or other for one, other in pairs}
    with (root / "locale/cs.csv").open(newline="") as stream:
        czech = dict(csv.reader(stream))
    ours = {"{message}", "{url} redirects."}  # passed on as they came; never shown
    missing = {text for text in found - ours if text not in czech}
    assert not missing
    for text, translation in czech.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", translation)), text
