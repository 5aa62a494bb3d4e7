"""Repositories by ssh with the site's key: a real sshd, real pods, a real registry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from binder.builds import BuildRequest
from binder.embedded_registry import embedded_port
from binder.errors import BinderError
from binder.providers import AddressRules, GitRepoProvider, Resolved
from studovna.paths import site_id
from studovna.site import check
from tests.binder.githost import make_repository
from tests.binder.sshhost import SshHost, make_key
from tests.building import Place, refused, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def host(place: Place) -> Iterator[SshHost]:
    address = place.host.url.partition("://")[2].rpartition(":")[0]
    host = SshHost(place.state / "ssh", address)
    yield host
    host.close()


@pytest.fixture
def key(tmp_path: Path, host: SshHost) -> Path:
    """The site's key, which the host lets in. Its path is one that needs care."""
    folder = tmp_path / "100% ours"
    folder.mkdir()
    key = make_key(folder / "site key")
    host.allow(key)
    (folder / "known_hosts").write_text(host.known_hosts)
    return key


def provider_of(key: Path, host: SshHost, **options: str) -> GitRepoProvider:
    rules = AddressRules.of([f"{host.address}:{host.port}"])
    known = options.pop("known", str(key.with_name("known_hosts")))
    return GitRepoProvider(
        "git", rules, ssh_key_file=str(key), ssh_known_hosts_file=known, **options
    )


def spec(host: SshHost, name: str, ref: str = "HEAD") -> str:
    return quote(f"{host.url}/{name}", safe="") + f"/{ref}"


async def resolve(provider: GitRepoProvider, text: str) -> Resolved:
    return await provider.resolve(provider.parse(text))


def request_for(resolved: Resolved, place: Place, name: str) -> BuildRequest:
    return BuildRequest(
        image=f"127.0.0.1:{embedded_port(place.state)}/binder/{name}:{resolved.ref}",
        repo_url=resolved.repo_url, ref=resolved.ref, content="git", fetch_url=resolved.fetch_url,
        resolved_spec=resolved.resolved_spec, provider="git", started_by="ana",
        git_config=resolved.git_config, credential=resolved.credential,
    )  # fmt: skip


async def test_from_the_link_to_the_image(place, executor, host, key):
    look = (
        "#!/bin/sh\nls -la /build /build/git; cat /build/git/*; env; cat .git/config\n"
        "find / -xdev -name known_hosts 2>/dev/null; echo looked\n"
    )
    ref = make_repository(
        host.root / "notes", {"postBuild": look, "a.txt": "a", ".resources": "cpul=1\n"}
    )
    resolved = await resolve(provider_of(key, host), spec(host, "notes"))
    assert resolved.ref == ref
    request = request_for(resolved, place, "ssh-notes")
    private = key.read_text()
    secrets = [line for line in private.splitlines()[1:-1] if len(line) > 20]
    assert secrets
    assert not any(one in json.dumps(request.to_dict()) for one in secrets)

    seen: list[str] = []
    async for event in executor.run(request):
        seen.append(event["message"])
        names = place.podman.run(
            "ps", "--all", "--quiet", "--filter", f"name={site_id(place.state)}-{request.name}"
        ).split()
        if names and event["phase"] == "building" and "looked" in event["message"]:
            seen.append(place.podman.run("inspect", *names))
    log = "".join(seen)
    assert "looked" in log and "ls: cannot access '/build/git'" in log
    for secret in (*secrets, "OPENSSH PRIVATE KEY", str(key)):
        assert secret not in log
    info = await executor.registry.image(request.image)
    assert info is not None and info.labels["studovna.resources"] == "cpul=1\n"
    assert not any(one in str(info) for one in secrets)
    place.podman.run("pull", "--quiet", request.image)
    found = run(place, request.image, "cat a.txt; grep -rl 'PRIVATE KEY' /srv /build /home || true")
    assert found.split() == ["a"]


async def test_by_a_branch_and_by_a_commit(host, key):
    ref = make_repository(host.root / "branches", {"a.txt": "a"})
    provider = provider_of(key, host)
    for text in ("main", ref):
        assert (await resolve(provider, spec(host, "branches", text))).ref == ref


async def test_only_hosts_that_the_site_knows(tmp_path, host, key):
    make_repository(host.root / "known", {"a": ""})
    other = make_key(tmp_path / "other")
    kind, blob, *_ = other.with_suffix(".pub").read_text().split()
    changed = tmp_path / "changed"
    changed.write_text(f"[{host.address}]:{host.port} {kind} {blob}\n")
    unknown = tmp_path / "unknown"
    unknown.write_text(f"git.example.org {kind} {blob}\n")
    for file, sentence in [
        (changed, "shows another ssh key than the one this site knows"),
        (unknown, "This site does not know the ssh key of"),
    ]:
        before = file.read_text()
        with pytest.raises(BinderError, match=sentence):
            await resolve(provider_of(key, host, known=str(file)), spec(host, "known"))
        assert file.read_text() == before


async def test_a_name_is_tied_to_its_address_and_its_key(host, key, monkeypatch):
    """As for a host on the internet: ssh gets the checked address, known_hosts the name."""
    make_repository(host.root / "named", {"a": ""})
    kind, blob, *_ = host.host_key.with_suffix(".pub").read_text().split()
    known = key.with_name("known_hosts")
    known.write_text(f"[git.example.org]:{host.port} {kind} {blob}\n")
    provider = provider_of(key, host)

    async def addresses(address):
        return [host.address]

    monkeypatch.setattr(provider, "_addresses", addresses)
    text = spec(host, "named").replace(host.address, "git.example.org")
    assert (await resolve(provider, text)).fetch_url.startswith("ssh://")


async def test_what_is_refused_is_said(host, key):
    make_repository(host.root / "closed", {"a": ""})
    provider = provider_of(key, host)
    with pytest.raises(BinderError, match="There is no git repository at"):
        await resolve(provider, spec(host, "absent"))
    host.forbid()
    with pytest.raises(BinderError) as caught:
        await resolve(provider, spec(host, "closed"))
    public = key.with_suffix(".pub").read_text().split()[1]
    assert "does not let this site read closed" in str(caught.value)
    assert public in str(caught.value)
    keyless = GitRepoProvider("git", AddressRules.of([host.address]))
    with pytest.raises(BinderError, match="has no key for repositories by ssh"):
        await resolve(keyless, spec(host, "closed"))
    strict = provider_of(key, host)
    strict.rules = AddressRules.of([f"{host.address}:1"])
    with pytest.raises(BinderError, match="inside this site's own network"):
        await resolve(strict, spec(host, "closed"))
    host.close()
    with pytest.raises(BinderError, match="Connection refused"):
        await resolve(provider, spec(host, "closed"))
    host.start()


async def test_a_key_that_is_taken_back_during_the_build(place, executor, host, key):
    make_repository(host.root / "later", {"a": ""})
    resolved = await resolve(provider_of(key, host), spec(host, "later"))
    host.forbid()
    sentence = await refused(executor, request_for(resolved, place, "ssh-later"))
    assert "does not let this site read it any more" in sentence


# --- the settings ---------------------------------------------------------------------------------


def test_the_site_is_checked(tmp_path: Path) -> None:
    key, known = make_key(tmp_path / "key"), tmp_path / "known"
    public = key.with_suffix(".pub").read_text().split()
    known.write_text(f"# ours\n\n@cert-authority *.example.org {public[0]} {public[1]} x\n")
    locked = make_key(tmp_path / "locked", "a passphrase")
    (tmp_path / "profiles").mkdir()

    def problems(**settings: str) -> list[str]:
        file = tmp_path / "site.yaml"
        file.write_text(json.dumps({"binder": settings}))
        found = check(file)
        return [f"{one.key}: {one.message}" for one in found if one.key.startswith("binder")]

    both = {"ssh_key_file": "key", "ssh_known_hosts_file": "known"}
    assert problems(**both) == []
    assert "belong together" in problems(ssh_key_file="key")[0]
    assert "belong together" in problems(ssh_known_hosts_file="known")[0]
    assert "There is no file" in problems(**both | {"ssh_key_file": "no"})[0]
    assert "is no file" in problems(**both | {"ssh_key_file": "profiles"})[0]
    assert "passphrase" in problems(**both | {"ssh_key_file": "locked"})[0]
    key.with_suffix(".pub").chmod(0o600)
    assert "holds no private key" in problems(**both | {"ssh_key_file": "key.pub"})[0]
    key.chmod(0o644)
    assert "its mode is 0644" in problems(**both)[0]
    key.chmod(0o600)
    for text, sentence in [
        ("", "names no host"),
        ("git.example.org\n", "Line 1 of"),
        ("git.example.org ssh-rsa AAAA\n", "Line 1 of"),
        (f"a {public[0]} {public[1]}\nb ssh-rsa {public[1]}\n", "Line 2 of"),
    ]:
        known.write_text(text)
        assert sentence in problems(**both)[0]
    assert locked.exists()
    pem = tmp_path / "pem"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "", "-f", str(pem)], check=True
    )
    known.write_text(f"a {public[0]} {public[1]}\n")
    assert problems(**both | {"ssh_key_file": "pem"}) == []


def test_the_key_is_in_the_secret_of_git_alone(tmp_path: Path) -> None:
    from binder.buildpod import BuildPod, make_build_pod
    from spawner.manifest import plain

    build = BuildPod("build-1", "image", {}, {}, git={"key": "PRIVATE", "config.json": "[]"})
    pod, data = make_build_pod(build)
    assert "PRIVATE" not in json.dumps(plain(pod)) and "PRIVATE" not in repr(build)
    holders = [one.metadata.name for one in data if "PRIVATE" in str(one)]
    assert holders == ["build-1-git"]
