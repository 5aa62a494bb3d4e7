"""The page around the desktop: a template of ours in place of jupyter-remote-desktop-proxy's own.

Its handlers and its script stay as they are; the page adds the application's name, Czech, what the
keyboard and the clipboard need to be told, and what happens when the connection ends.
"""

import os
from pathlib import Path

from . import application

TEMPLATES = Path(__file__).parent / "templates"


def title() -> str:
    """The name of what is on the desktop."""
    try:
        chosen = application.read(os.environ)
    except (ValueError, TypeError, AttributeError):
        chosen = None
    return chosen.title if chosen else "Desktop"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "studovna_desktop.page"}]


def _load_jupyter_server_extension(server: object) -> None:
    from jinja2 import ChoiceLoader, FileSystemLoader
    from jupyter_remote_desktop_proxy.handlers import jinja_env

    jinja_env.autoescape = True
    jinja_env.globals["studovna_title"] = title()
    jinja_env.loader = ChoiceLoader([FileSystemLoader(TEMPLATES), jinja_env.loader])
