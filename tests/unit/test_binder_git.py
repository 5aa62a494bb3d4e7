"""What git's hosts are asked, and what they are sent, with real git and real hosts on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import psutil
import pytest

from binder.errors import Failed
from binder.providers import PROVIDERS, AddressRules, Credential, RepoProvider, git
from binder.providers.git import parse_address
from tests.binder.githost import TOKEN, GitHost, make_repository

OWN = Credential("reader", TOKEN)
SITE = f"username=reader\npassword={TOKEN}"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GitHost, GitHost]]:
    first, second = (GitHost(tmp_path_factory.mktemp(name)) for name in ("first", "second"))
    for host in (first, second):
        make_repository(host.root / "notes", {"a.py": ""})
        make_repository(host.root / "private" / "thesis", {"a.py": ""})
    first.trap = second.url
    yield first, second
    first.close()
    second.close()


@pytest.fixture(autouse=True)
def forget(hosts: tuple[GitHost, GitHost]) -> None:
    for host in hosts:
        host.authorizations.clear()


def provider(hosts: tuple[GitHost, GitHost], **options: str) -> RepoProvider:
    rules = AddressRules.of(f"127.0.0.1:{host.port}" for host in hosts)
    return PROVIDERS["git"]("git", rules, **options)


def spec(host: GitHost, name: str) -> str:
    return f"{quote(f'{host.url}/{name}', safe='')}/HEAD"


@pytest.mark.parametrize("whose", ["own", "site"])
async def test_a_token_does_not_follow_a_redirect(
    hosts: tuple[GitHost, GitHost], whose: str
) -> None:
    first, second = hosts
    given = {"git_credentials": f"host=127.0.0.1:{first.port}\n{SITE}"} if whose == "site" else {}
    found = provider(hosts, **given)
    source = found.parse(spec(first, "trap/notes"))
    resolved = await found.resolve(source, OWN if whose == "own" else None)
    assert resolved.fetch_url == f"{second.url}/notes"
    assert resolved.credential is None  # the fetch sends it no more than this did
    assert any(first.authorizations)
    assert second.authorizations and not any(second.authorizations)


async def test_a_token_stays_on_its_own_host(hosts: tuple[GitHost, GitHost]) -> None:
    first, _ = hosts
    found = provider(hosts)
    resolved = await found.resolve(found.parse(spec(first, "moved/private/thesis")), OWN)
    assert resolved.credential == OWN and resolved.fetch_url.endswith("/private/thesis")


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        ("host=127.0.0.1:{port}\n", True),
        ("protocol=http\nhost=127.0.0.1:{port}\n", True),
        ("protocol=https\nhost=127.0.0.1:{port}\n", False),
        ("host=127.0.0.1\n", False),
        ("host=elsewhere.example.org\n", False),
        ("", False),  # it would go to whatever host a link names
    ],
)
async def test_the_sites_token_goes_to_the_host_that_it_is_for(
    hosts: tuple[GitHost, GitHost], lines: str, sent: bool
) -> None:
    first, _ = hosts
    found = provider(hosts, git_credentials=lines.format(port=first.port) + SITE)
    await found.resolve(found.parse(spec(first, "notes")))
    assert any(first.authorizations) is sent


@pytest.mark.parametrize("prefix", ["gh", "gl", "gist"])
def test_a_forges_token_is_for_the_forge(prefix: str) -> None:
    found = PROVIDERS[prefix](prefix, AddressRules.of([]), git_credentials=SITE)
    assert found.credential_for(parse_address(f"https://{found.hostname}/u/r")) == OWN
    assert found.credential_for(parse_address("https://elsewhere.example.org/u/r")) is None


async def test_a_host_that_never_answers_is_given_up(
    hosts: tuple[GitHost, GitHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "GIT_TIMEOUT", 1.0)
    found = provider(hosts)
    with pytest.raises(Failed, match="did not answer within 1 seconds") as failed:
        await found.resolve(found.parse(spec(hosts[0], "slow/notes")))
    assert failed.value.status == 504
    left = [one.cmdline() for one in psutil.Process().children(recursive=True)]
    assert not [argv for argv in left if any("/slow/notes" in word for word in argv)]
