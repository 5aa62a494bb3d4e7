"""Sign-in with the site's generated passwords, or with others that the operator wrote there."""

from __future__ import annotations

from typing import Any

from jupyterhub.authenticators.shared import SharedPasswordAuthenticator


def in_ascii(password: str) -> str:
    """Another spelling for each password, in letters that JupyterHub can compare."""
    return password.encode("unicode_escape").decode("ascii")


class SharedPassword(SharedPasswordAuthenticator):
    """JupyterHub's, for passwords spelt by ``in_ascii``: it fails on letters outside of ASCII."""

    async def authenticate(self, handler: Any, data: dict[str, str]) -> Any:
        spelt = {**data, "password": in_ascii(data["password"])}
        return await super().authenticate(handler, spelt)
