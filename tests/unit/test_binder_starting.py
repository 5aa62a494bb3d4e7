"""Until Binder answers, its address says so, and nothing else is there yet."""

from __future__ import annotations

import socket

import httpx
import pytest
from tornado.netutil import bind_sockets

from binder.starting import Starting, host_to_listen_on
from tests.bench.hubs import free_port


def test_the_address_answers_and_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", url)
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/services/binder/")
    starting = Starting()
    try:
        page = httpx.get(f"{url}/services/binder/", trust_env=False)
        assert page.status_code == 200
        assert "starting" in page.text
        health = httpx.get(f"{url}/services/binder/health", trust_env=False)
        assert health.status_code == 503
        assert health.headers["Retry-After"] == "2"
    finally:
        starting.end()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_in_a_pod_both_families_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster whose first family is IPv6 nobody asks at an IPv4 address."""
    port = free_port()
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", f"http://0.0.0.0:{port}")
    starting = Starting()
    try:
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/health", trust_env=False).status_code == 503
    finally:
        starting.end()
    sockets = bind_sockets(port, host_to_listen_on("0.0.0.0"))  # noqa: S104
    families = {one.family for one in sockets}
    for one in sockets:
        one.close()
    assert families == {socket.AF_INET, socket.AF_INET6}


def test_without_a_hub_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_URL", raising=False)
    Starting().end()
