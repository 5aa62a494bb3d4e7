"""How a start that cannot be is told to the person who asked for it."""

from __future__ import annotations

from jupyterhub.spawner import SpawnException

from studovna.text import Text


class StartRefused(SpawnException):
    """A start that ends with a sentence for the person instead of a server.

    ``reason`` is the short label of JupyterHub's metrics (``options``, ``quota``, ``image``,
    ``engine``, ``ended``, ``timeout``); ``detail`` is what the operator's log says beside the
    sentence. JupyterHub shows ``jupyterhub_message`` on its pages and in its REST API.
    """

    def __init__(
        self, sentence: Text, *, reason: str, detail: str = "", status_code: int = 400
    ) -> None:
        log_message = f"{sentence} [{detail}]" if detail else str(sentence)
        super().__init__(sentence, reason=reason, log_message=log_message, status_code=status_code)
        self.jupyterhub_message = sentence

    def __str__(self) -> str:
        return self.log_message
