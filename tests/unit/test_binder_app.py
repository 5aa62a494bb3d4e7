"""The service with BinderHub's options, in this process; builds, registry and hub are doubles."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jupyterhub.services.auth import HubOAuth
from tornado.httpserver import HTTPServer
from traitlets.config import Config, PyFileConfigLoader

from binder.app import BinderHub
from binder.builds import BuildExecutor
from binder.launcher import Launcher
from binder.providers import PROVIDERS, RepoProvider
from binder.ratelimit import RateLimiter
from binder.registry import DockerRegistry
from studovna.paths import ROOT
from tests.bench.hubs import free_port

# BinderHub's, as operators know them; `facts` of the contract, and its own documentation.
CONTRACT = {
    "BinderHub": """base_url port hub_url hub_url_local hub_api_token auth_enabled
        enable_api_only_mode use_registry image_prefix build_class registry_class
        concurrent_build_limit build_cleanup_interval build_token_secret
        build_token_expires_seconds per_repo_quota ban_networks cors_allow_origin repo_providers
        banner_message about_message template_path badge_base_url""",
    "BuildExecutor": """appendix push_secret registry_credentials repo2docker_extra_args
        memory_limit git_credentials""",
    "KubernetesBuildExecutor": """namespace build_image docker_host resources node_selector
        log_tail_lines sticky_builds""",
    "Launcher": """retries retry_delay launch_timeout pre_launch_hook allow_named_servers
        named_server_limit_per_user""",
    "RepoProvider": "allowed_specs banned_specs high_quota_specs spec_config git_credentials",
    "GitHubRepoProvider": "access_token hostname",
    "GitRepoProvider": "",
    "DockerRegistry": "url auth_config_url token_url username password",
    "RateLimiter": "limit period_seconds",
}
OURS = {"GitRepoProvider.ssh_key_file", "GitRepoProvider.ssh_known_hosts_file"}

SITES: list[dict[str, Any]] = [
    {},
    {
        "public_url": "https://hub.example.org",
        "registry": {
            "url": "https://registry.example.org",
            "prefix": "binder",
            "username": "u",
            "password_file": "password",
        },
        "binder": {
            "allow_repositories": ["u/.*"],
            "ban_repositories": ["v/.*"],
            "servers_per_repository": 3,
            "ssh_key_file": "key",
            "ssh_known_hosts_file": "known",
        },
    },
]


def load(folder: Path, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Config:
    """binderhub_config.py as traitlets loads it, in BinderHub as here."""
    (folder / "var").mkdir(exist_ok=True)
    (folder / "site.yaml").write_text(json.dumps(site))
    (folder / "password").write_text("x\n")
    if not (folder / "key").exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")]
        subprocess.run(argv, check=True)
        kind, key, *_ = (folder / "key.pub").read_text().split()
        (folder / "known").write_text(f"git.example.org {kind} {key}\n")
    monkeypatch.setenv("STUDOVNA_SITE", str(folder / "site.yaml"))
    monkeypatch.setenv("STUDOVNA_HOME", str(folder / "var"))
    return PyFileConfigLoader("binderhub_config.py", path=str(ROOT)).load_config()


@pytest.mark.parametrize("site", SITES, ids=["plain", "everything"])
def test_the_configuration_is_in_binderhubs_own_names(
    site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(tmp_path, site, monkeypatch)
    assert len(config) > 4
    for section, options in config.items():
        known = CONTRACT[section].split()
        for name in options:
            assert name in known or f"{section}.{name}" in OURS


def test_every_option_of_the_contract_is_known() -> None:
    from binder.builds import KubernetesBuildExecutor

    classes: list[Any] = [BinderHub, BuildExecutor, KubernetesBuildExecutor, Launcher, RepoProvider]
    classes += [DockerRegistry, RateLimiter, *PROVIDERS.values()]
    found = {one.__name__: set(one.class_trait_names(config=True)) for one in classes}
    for section, names in CONTRACT.items():
        assert set(names.split()) <= found[section]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., BinderHub]]:
    """Make the service with further lines of configuration; there is no hub."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/services/binder/")
    monkeypatch.setenv("JUPYTERHUB_API_URL", f"http://127.0.0.1:{free_port()}/hub/api")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "t")
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-binder")
    HubOAuth.clear_instance()

    def make(lines: str = "") -> BinderHub:
        load(tmp_path, {}, monkeypatch)
        (tmp_path / "double").mkdir()
        (tmp_path / "config.py").write_text(
            f"load_subconfig({str(ROOT / 'binderhub_config.py')!r})\n"
            "from tests.binder import doubles\n"
            "c.BinderHub.build_class = doubles.DoubleExecutor\n"
            "c.BinderHub.registry_class = doubles.DoubleRegistry\n"
            f"c.DoubleExecutor.folder = {str(tmp_path / 'double')!r}\n{lines}"
        )
        app = BinderHub()
        app.initialize(["-f", str(tmp_path / "config.py")])
        return app

    yield make
    HubOAuth.clear_instance()


async def ask(app: BinderHub, method: str, path: str, **headers: str) -> httpx.Response:
    port = free_port()
    server = HTTPServer(app.web, xheaders=True, trusted_downstream=["127.0.0.1"])
    server.listen(port, "127.0.0.1")
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            url = f"http://127.0.0.1:{port}/services/binder/{path}"
            return await client.request(method, url, headers=headers)
    finally:
        server.stop()
        await server.close_all_connections()


async def test_options_that_change_nothing_are_told(start: Callable[..., BinderHub]) -> None:
    app = start(
        "c.KubernetesBuildExecutor.node_selector = {'disk': 'ssd'}\n"
        "c.DoubleExecutor.push_secret = 'secret'\n"
        "c.GistRepoProvider.allow_secret_gist = False\n"
        "c.Launcher.allow_named_servers = True\n"  # which is what it is anyway
        "c.BinderHub.per_repo_quota = 7\n"
    )
    said = app.ignored_options()
    assert [one.partition(" ")[0] for one in said] == [
        "c.DoubleExecutor.push_secret",
        "c.GistRepoProvider.allow_secret_gist",
        "c.KubernetesBuildExecutor.node_selector",
    ]
    assert said[2].endswith("changes nothing here: builds run where the cluster puts them.")


async def test_health_without_a_hub(start: Callable[..., BinderHub]) -> None:
    from binder.handlers.api import HealthHandler
    from binder.service import Shared

    HealthHandler._recent = Shared(15.0)
    answer = await ask(start(), "GET", "health")
    assert answer.status_code == 503 and answer.json()["ok"] is False
    checks = {one["service"]: one["ok"] for one in answer.json()["checks"]}
    assert checks["JupyterHub API"] is False and checks["Docker registry"] is True
    HealthHandler._recent = Shared(15.0)


@pytest.mark.parametrize("api_only", [False, True])
async def test_a_service_without_pages(start: Callable[..., BinderHub], api_only: bool) -> None:
    app = start(f"c.BinderHub.enable_api_only_mode = {api_only}\n")
    for path in ("", "v2/gh/u/r/HEAD", "tokens", "badge.svg"):
        assert ((await ask(app, "GET", path)).status_code == 404) is api_only, path
    assert (await ask(app, "GET", "versions")).status_code == 200


async def test_another_origin(start: Callable[..., BinderHub]) -> None:
    app = start("c.BinderHub.cors_allow_origin = 'https://paper.example.org'\n")
    for method in ("GET", "OPTIONS"):
        answer = await ask(app, method, "api/repoproviders", Origin="https://paper.example.org")
        assert answer.is_success
        assert answer.headers["Access-Control-Allow-Origin"] == "https://paper.example.org"
    answer = await ask(app, "OPTIONS", "build/gh/u/r/HEAD", Origin="https://paper.example.org")
    assert answer.status_code == 204
    assert "authorization" in answer.headers["Access-Control-Allow-Headers"]


async def test_without_it_there_is_none(start: Callable[..., BinderHub]) -> None:
    answer = await ask(start(), "GET", "api/repoproviders", Origin="https://paper.example.org")
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_banned_networks(start: Callable[..., BinderHub]) -> None:
    app = start("c.BinderHub.ban_networks = {'203.0.113.0/24': 'the lab', '2001:db8::/32': 'v6'}\n")
    stream = {"Accept": "text/event-stream"}
    for address, label in (("203.0.113.7", "the lab"), ("2001:db8::1", "v6")):
        there = {"X-Forwarded-For": address}
        answer = await ask(app, "GET", "api/repoproviders", **there)
        assert answer.status_code == 403
        assert answer.json()["message"] == f"Requests from {label} are not allowed"
        answer = await ask(app, "GET", "build/gh/u/r/HEAD", **there, **stream)
        (data,) = [line for line in answer.text.splitlines() if line.startswith("data:")]
        assert json.loads(data[5:])["phase"] == "failed" and label in data
        assert (await ask(app, "GET", "versions", **there)).status_code == 200
    # What whoever asks has written before our proxy's own entry is not believed.
    answer = await ask(
        app, "GET", "api/repoproviders", **{"X-Forwarded-For": "203.0.113.7, 198.51.100.1"}
    )
    assert answer.status_code == 200
