"""Each culler stops its own servers only, when they were idle for long enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spawner.culling import idle_seconds, kind_of, may_cull, oldest_seconds
from studovna.site import load_site

BINDER = {"user_options": {"profile": "binder"}}
CPU = {"user_options": {"profile": "cpu"}}
HOUR = 3600.0


@pytest.mark.parametrize(
    ("server", "kind"),
    [(BINDER, "binder"), (CPU, "others"), ({}, "others"), ({"user_options": None}, "others")],
)
def test_whose_a_server_is(server: dict, kind: str) -> None:
    assert kind_of(server) == kind


@pytest.mark.parametrize(
    ("kind", "server", "idle", "culled"),
    [
        pytest.param("others", CPU, timedelta(hours=2), True, id="idle"),
        pytest.param("others", CPU, timedelta(minutes=59), False, id="used"),
        pytest.param("others", BINDER, timedelta(days=30), False, id="binder's is not ours"),
        pytest.param("binder", CPU, timedelta(days=30), False, id="not binder's"),
        pytest.param("binder", BINDER, timedelta(hours=1), True, id="exactly the limit"),
        pytest.param("others", CPU, None, False, id="just started"),
    ],
)
def test_what_is_culled(kind, server: dict, idle: timedelta | None, culled: bool) -> None:
    assert may_cull(kind, HOUR, None, server, idle) is culled


@pytest.mark.parametrize(
    ("options", "hours", "culled"),
    [
        pytest.param(CPU, 3, True, id="old and used"),
        pytest.param(CPU, 1, False, id="young"),
        pytest.param(BINDER, 3, False, id="binder's is not ours"),
    ],
)
def test_what_is_culled_for_its_age(options: dict, hours: int, culled: bool) -> None:
    started = datetime.now(UTC) - timedelta(hours=hours)
    for text in (started.isoformat(), started.isoformat().replace("+00:00", "Z")):
        server = {**options, "started": text}
        assert may_cull("others", None, 2 * HOUR, server, timedelta(0)) is culled


def test_the_limits_come_from_the_site(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("servers: {idle_hours: null, max_age_hours: 3}\nbinder: {idle_days: 2}\n")
    site = load_site(file)
    assert idle_seconds(site, "others") is None
    assert idle_seconds(site, "binder") == 2 * 86400
    assert oldest_seconds(site, "others") == 3 * HOUR
    assert oldest_seconds(site, "binder") is None
