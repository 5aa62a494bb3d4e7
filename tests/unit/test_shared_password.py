"""Sign-in with the generated passwords."""

from __future__ import annotations

import pytest

from spawner.shared_password import SharedPassword


@pytest.mark.parametrize(
    ("password", "name"),
    [
        pytest.param("long enough", "ana", id="right"),
        pytest.param("wrong", None, id="wrong"),
        pytest.param("žluťoučký", None, id="no ASCII"),
        pytest.param("", None, id="empty"),
    ],
)
async def test_who_comes_in(password: str, name: str | None) -> None:
    people = SharedPassword(user_password="long enough", allow_all=True)
    found = await people.authenticate(None, {"username": "Ana", "password": password})
    assert (found and found["name"]) == name
