"""Sign-in with the site's generated passwords."""

from __future__ import annotations

from typing import Any

from jupyterhub.authenticators.shared import SharedPasswordAuthenticator


class SharedPassword(SharedPasswordAuthenticator):
    """JupyterHub's, which fails on a password with a letter outside of ASCII: here it is wrong."""

    async def authenticate(self, handler: Any, data: dict[str, str]) -> Any:
        if not data["password"].isascii():
            return None
        return await super().authenticate(handler, data)
