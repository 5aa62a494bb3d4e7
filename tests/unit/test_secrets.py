"""Secrets are made once, are for their owner only, and are what JupyterHub accepts."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from studovna.secrets import KINDS, read_secret


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_secret_is_made_once_and_private(tmp_path: Path, name: str) -> None:
    first, made = read_secret(tmp_path, name)
    assert made
    assert read_secret(tmp_path, name) == (first, False)
    file = tmp_path / "secrets" / name
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_passwords_are_long_enough_for_jupyterhub_and_differ(tmp_path: Path) -> None:
    people, _ = read_secret(tmp_path, "password-people")
    admin, _ = read_secret(tmp_path, "password-admin")
    assert len(people) >= 8
    assert len(admin) >= 32
    assert people != admin


def test_two_that_ask_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: read_secret(tmp_path, "proxy-token"), range(64)))
    assert len({value for value, _ in answers}) == 1
    assert sum(made for _, made in answers) == 1
    assert [file.name for file in (tmp_path / "secrets").iterdir()] == ["proxy-token"]


def test_an_unknown_secret_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        read_secret(tmp_path, "no-such-kind")
