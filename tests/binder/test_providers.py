"""Providers through their real code, resolving and fetching in a pod; the hosts are doubles."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from binder.builds import BuildRequest
from binder.embedded_registry import embedded_port
from binder.errors import BinderError, Refused
from binder.providers import PROVIDERS, AddressRules, Credential, RepoProvider, Resolved
from spawner.podman_engine import PodmanEngine
from studovna.paths import site_id
from tests.binder import archive_doubles as doubles_module
from tests.binder.archive_doubles import COMMIT, RESOURCE, SITE_TOKEN, ArchiveDoubles
from tests.binder.githost import TOKEN, make_repository
from tests.building import Place, built, refused, run

pytestmark = pytest.mark.slow

CKAN = "https%3A%2F%2Fdemo.ckan.org%2Fdataset%2F"


@pytest.fixture(scope="module")
def doubles(place: Place) -> Iterator[ArchiveDoubles]:
    address = place.host.url.partition("://")[2].rpartition(":")[0]
    folder = place.state / "doubles"
    folder.mkdir()
    doubles = ArchiveDoubles(folder, address, place.host)
    files = {"a.txt": "git", ".resources": "cpul=1\nmeml=2\n"}
    make_repository(place.host.root / "ana/notes", files)
    make_repository(place.host.root / "ana/8f7c2f.git", files)
    make_repository(place.host.root / "group/sub/project.git", files)
    make_repository(place.host.root / "private/thesis", files)
    yield doubles
    doubles.close()


@pytest.fixture(autouse=True)
def environment(doubles: ArchiveDoubles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's only way out is the doubles' proxy, and it trusts their authority."""
    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, doubles.proxy)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"):
        monkeypatch.setenv(name, str(doubles.ca))
    doubles.trouble.clear()
    doubles.requests.clear()


def provider(prefix: str, **options: str) -> RepoProvider:
    return PROVIDERS[prefix](prefix, AddressRules.of([]), **options)


async def resolve(prefix: str, spec: str, **options: str) -> Resolved:
    found = provider(prefix, **options)
    return await found.resolve(found.parse(spec))


async def said(prefix: str, spec: str, **options: str) -> str:
    with pytest.raises(BinderError) as caught:
        await resolve(prefix, spec, **options)
    return str(caught.value)


RECORDS = [
    ("zenodo", "10.5281/zenodo.3242074", "3242074", "10.5281/zenodo.3242074"),
    ("zenodo", "10.5281/zenodo.3242073", "3242074", "10.5281/zenodo.3242074"),
    (
        "figshare",
        "10.6084/m9.figshare.9782777.v3",
        "9782777.v3",
        "10.6084/m9.figshare.9782777.v3",
    ),
    ("dataverse", "10.7910/DVN/TJCLKP", "77.v2.1", "10.7910/DVN/TJCLKP"),
    ("dataverse", "10.7910/DVN/TJCLKP/FILE", "77.v2.1", "10.7910/DVN/TJCLKP/FILE"),
    ("hydroshare", RESOURCE, f"{RESOURCE}.v1714564800", RESOURCE),
    ("ckan", f"{CKAN}notes", "notes.v1714564800", f"{CKAN}notes"),
]
IDS = ["zenodo", "zenodo-all-versions", "figshare", "dataverse", "dataverse-file", "hydroshare",
       "ckan"]  # fmt: skip


@pytest.mark.parametrize(("prefix", "spec", "version", "lasting"), RECORDS, ids=IDS)
async def test_records_are_resolved(prefix, spec, version, lasting):
    resolved = await resolve(prefix, spec)
    assert (resolved.ref, resolved.resolved_spec) == (version, lasting)
    assert not resolved.private and resolved.credential is None


@pytest.mark.parametrize(("prefix", "spec", "version", "lasting"), RECORDS, ids=IDS)
async def test_records_are_fetched_in_the_pod(
    place, make_executor, doubles, monkeypatch, prefix, spec, version, lasting
):  # fmt: skip
    executor = make_executor()
    # Pods of this site go out through the doubles' proxy, and trust their authority.
    executor._env = {"https_proxy": doubles.proxy, "HTTPS_PROXY": doubles.proxy}
    executor.engine = PodmanEngine(place.podman, site_id(place.state), ca_bundle=doubles.ca)
    resolved = await resolve(prefix, spec)
    doubles.requests.clear()
    name = f"{prefix}-{spec.rpartition('/')[2].lower().replace('%', '')}"
    image = f"127.0.0.1:{embedded_port(place.state)}/binder/{name}:{resolved.ref}"
    request = BuildRequest(
        image=image, repo_url=resolved.repo_url, ref=resolved.ref, content=prefix,
        fetch_url=resolved.fetch_url, resolved_spec=resolved.resolved_spec, provider=prefix,
        started_by="ana", git_config=resolved.git_config,
    )  # fmt: skip
    await built(executor, request)
    assert doubles.requests  # by the pod
    info = await executor.registry.image(image)
    assert info is not None
    assert info.labels["studovna.resources"] == "cpul=1\nmeml=2\n"
    assert info.labels["repo2docker.ref"] == version
    place.podman.run("pull", "--quiet", image)
    found = run(place, image, "cat index.ipynb; cat notes/a.txt 2>/dev/null || true").split("\n")
    assert found[0].startswith("{}")
    if prefix != "ckan":  # which has no folders
        assert f"from {prefix}" in "\n".join(found)


@pytest.mark.parametrize(
    ("prefix", "spec", "sentence"),
    [
        ("zenodo", "10.5281/zenodo.1", "is no record of Zenodo"),
        ("zenodo", "10.1000/elsewhere", "is no record of Zenodo"),
        ("figshare", "10.6084/m9.figshare.1", "is no record of Figshare"),
        ("dataverse", "10.1000/elsewhere", "is no record of Dataverse"),
        ("hydroshare", "0" * 32, "There is no public record"),
        ("ckan", f"{CKAN}absent", "There is no public record"),
        ("ckan", f"{CKAN}closed", "There is no public record"),
    ],
)
async def test_records_that_are_not_there(prefix, spec, sentence):
    assert sentence in await said(prefix, spec)


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("TOO_MANY", "takes no more questions from this site for now: too many were asked. Try "
         "again in 5 min."),
        ("TOO_MANY_UNTIL_NOBODY_KNOWS", "too many were asked. Try again later."),
        ("OUT_OF_ORDER", "is out of order (it answered 503)."),
        ("NOT_JSON", "could not be looked up"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("prefix", "spec", "host"),
    [
        ("zenodo", "10.5281/zenodo.3242074", "doi.org"),
        ("dataverse", "10.7910/DVN/TJCLKP", "iqss.github.io"),
        ("dataverse", "10.7910/DVN/TJCLKP", "dataverse.harvard.edu"),
        ("hydroshare", RESOURCE, "www.hydroshare.org"),
        ("ckan", f"{CKAN}notes", "demo.ckan.org"),
    ],
)
async def test_an_archive_in_trouble_is_said(doubles, prefix, spec, host, trouble, sentence):
    doubles.trouble[host] = getattr(doubles_module, trouble)
    found = await said(prefix, spec)
    assert sentence in found and "Traceback" not in found
    if trouble != "NOT_JSON":
        assert host in found


async def test_an_archive_that_cannot_be_reached(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    assert "doi.org cannot be reached: " in await said("zenodo", "10.5281/zenodo.3242074")
    assert "could not be asked" in await said("gh", "ana/notes/HEAD")


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("TOO_MANY", "zenodo.org takes no more questions from this site"),
        ("OUT_OF_ORDER", "zenodo.org is out of order (it answered 503)"),
    ],
)
async def test_an_archive_in_trouble_during_the_build(
    place, make_executor, doubles, trouble, sentence
):  # fmt: skip
    executor = make_executor()
    executor._env = {"https_proxy": doubles.proxy}
    executor.engine = PodmanEngine(place.podman, site_id(place.state), ca_bundle=doubles.ca)
    resolved = await resolve("zenodo", "10.5281/zenodo.3242074")
    doubles.trouble["zenodo.org"] = getattr(doubles_module, trouble)
    request = BuildRequest(
        image=f"127.0.0.1:{embedded_port(place.state)}/binder/trouble:1",
        repo_url=resolved.repo_url, ref=resolved.ref, content="zenodo",
        fetch_url=resolved.fetch_url, resolved_spec="x", provider="Zenodo", started_by="ana",
    )  # fmt: skip
    assert sentence in await refused(executor, request)


# --- forges ---------------------------------------------------------------------------------------

FORGES = [
    ("gh", "ana/notes", "https://github.com/ana/notes"),
    ("gist", "ana/8f7c2f", "https://gist.github.com/ana/8f7c2f.git"),
    ("gl", "group%2Fsub%2Fproject", "https://gitlab.com/group/sub/project.git"),
]


@pytest.mark.parametrize(("prefix", "spec", "url"), FORGES, ids=[row[0] for row in FORGES])
async def test_forges_are_resolved_and_built(
    place, make_executor, doubles, monkeypatch, prefix, spec, url
):  # fmt: skip
    resolved = await resolve(prefix, f"{spec}/HEAD")
    assert resolved.fetch_url == url
    assert (await resolve(prefix, f"{spec}/{resolved.ref}")).ref == resolved.ref
    assert resolved.resolved_spec.endswith(resolved.ref)
    executor = make_executor()
    executor._env = {"https_proxy": doubles.proxy}
    executor.engine = PodmanEngine(place.podman, site_id(place.state), ca_bundle=doubles.ca)
    image = f"127.0.0.1:{embedded_port(place.state)}/binder/{prefix}:{resolved.ref}"
    request = BuildRequest(
        image=image, repo_url=resolved.repo_url, ref=resolved.ref, content="git",
        fetch_url=resolved.fetch_url, resolved_spec="x", provider=prefix, started_by="ana",
        git_config=resolved.git_config,
    )  # fmt: skip
    await built(executor, request)
    info = await executor.registry.image(image)
    assert info is not None and info.labels["studovna.resources"] == "cpul=1\nmeml=2\n"


@pytest.mark.parametrize("repository", ["notes", "renamed"])
async def test_a_short_commit_is_asked_of_the_api(place, doubles, repository):
    if repository == "renamed" and not (place.host.root / "ana/renamed").exists():
        make_repository(place.host.root / "ana/renamed", {"a": ""})
    found = await resolve("gh", f"ana/{repository}/0123456", access_token=SITE_TOKEN)
    assert found.ref == COMMIT
    sent = [headers for host, _, headers in doubles.requests if host == "api.github.com"]
    assert sent[0]["Authorization"] == f"Bearer {SITE_TOKEN}"
    assert all("Authorization" not in headers for headers in sent[1:])  # where it redirects to


async def test_a_short_commit_that_is_not_there():
    assert "has no branch or tag" in await said("gh", "ana/notes/abcdef0")


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("PRIMARY_LIMIT", "api.github.com takes no more questions from this site"),
        ("SECONDARY_LIMIT", "too many were asked. Try again in 1 min."),
        ("TOO_MANY", "too many were asked. Try again in 5 min."),
        ("OUT_OF_ORDER", "api.github.com is out of order (it answered 503)."),
    ],
)
async def test_the_api_in_trouble(doubles, trouble, sentence):
    doubles.trouble["api.github.com"] = getattr(doubles_module, trouble)
    assert sentence in await said("gh", "ana/notes/0123456")
    assert (await resolve("gh", "ana/notes/main")).ref  # which needs no API


@pytest.mark.parametrize(("prefix", "spec", "url"), FORGES, ids=[row[0] for row in FORGES])
async def test_a_forge_in_trouble(doubles, prefix, spec, url):
    host = url.split("/")[2]
    for trouble, sentence in [
        ("TOO_MANY", f"{host} takes no more questions from this site"),
        ("OUT_OF_ORDER", f"{host} is out of order (it answered 503)"),
    ]:
        doubles.trouble[host] = getattr(doubles_module, trouble)
        assert sentence in await said(prefix, f"{spec}/HEAD")


async def test_what_is_not_there_or_private(doubles):
    assert "There is no git repository at" in await said("gh", "ana/absent/HEAD")
    assert "does not exist or is private" in await said("gh", "private/thesis/HEAD")
    # With the site's token, GitHub says of others' private repositories that there is none.
    found = await said("gh", "ana/absent/HEAD", access_token=SITE_TOKEN)
    assert "does not exist or is private" in found
    gh = provider("gh")
    with pytest.raises(Refused, match="does not accept the stored token"):
        await gh.resolve(gh.parse("private/thesis/HEAD"), Credential("reader", "old"))
    with pytest.raises(Refused, match="or your stored token for github.com may not read it"):
        await gh.resolve(gh.parse("ana/absent/HEAD"), Credential("reader", TOKEN))
    found = await gh.resolve(gh.parse("private/thesis/HEAD"), Credential("reader", TOKEN))
    assert TOKEN not in repr(found) and TOKEN not in json.dumps(found.git_config)
