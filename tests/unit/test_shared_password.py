"""Sign-in with the generated passwords."""

from __future__ import annotations

import pytest

from spawner.shared_password import SharedPassword, in_ascii


@pytest.mark.parametrize(
    ("right", "password", "name"),
    [
        pytest.param("long enough", "long enough", "ana", id="right"),
        pytest.param("long enough", "wrong", None, id="wrong"),
        pytest.param("long enough", "žluťoučký", None, id="letters outside of ASCII"),
        pytest.param("long enough", "", None, id="empty"),
        pytest.param("žluťoučký kůň", "žluťoučký kůň", "ana", id="an operator's own"),
        pytest.param(
            "žluťoučký kůň", r"\u017elu\u0165ou\u010dk\xfd k\u016f\u0148", None, id="spelt"
        ),
    ],
)
async def test_who_comes_in(right: str, password: str, name: str | None) -> None:
    people = SharedPassword(user_password=in_ascii(right), allow_all=True)
    found = await people.authenticate(None, {"username": "Ana", "password": password})
    assert (found and found["name"]) == name
