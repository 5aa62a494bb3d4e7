"""Until Binder answers, its address says so, and nothing else is there yet."""

from __future__ import annotations

import httpx
import pytest

from binder.starting import Starting
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


def test_without_a_hub_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_URL", raising=False)
    Starting().end()
