"""repo2docker inside a build pod: its buildpacks and content providers, without its application.

Which buildpacks there are, and in which order they are asked, is repo2docker's own: the application
is loaded once, when the builder image is made, and what it says is kept (`record`). A build then
imports the classes alone, and of the libraries that they name only those that detection uses.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .paths import FRAMEWORK, LIBRARY

# For the rendering of Dockerfiles and the asking of servers: imported when first used.
_LATE = ("requests", "jinja2", "semver", "charset_normalizer")
# Packages whose own first module is left out; the modules in them are imported as ever.
_HOLLOW = ("docker", "docker.utils")
_lock = threading.Lock()


def record() -> dict[str, Any]:
    """What repo2docker's application has: its version and buildpacks, as `module:class`."""
    find_library()
    from repo2docker import __version__
    from repo2docker.app import Repo2Docker

    app = Repo2Docker()
    return {
        "version": __version__,
        "buildpacks": [f"{one.__module__}:{one.__name__}" for one in app.buildpacks],
        "default": f"{app.default_buildpack.__module__}:{app.default_buildpack.__name__}",
    }


def recorded(path: Path = FRAMEWORK) -> dict[str, Any]:
    """What `record` found when this image was made."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def buildpacks(record: dict[str, Any]) -> tuple[list[Any], Any]:
    """repo2docker's classes in the order of their asking, and the one for repositories without."""
    load()
    return [_named(one) for one in record["buildpacks"]], _named(record["default"])


def load_provider() -> None:
    """Import repo2docker's content provider for git, and no more than it needs."""
    with _lock, _later():
        hollow = "repo2docker.contentproviders"
        if hollow not in sys.modules:
            _hollow(hollow)
            importlib.import_module(f"{hollow}.git")
            # The others are imported where one of them is wanted.
            del sys.modules[hollow]


def load() -> None:
    """Import repo2docker's buildpacks; the second time costs nothing."""
    with _lock, _later():
        importlib.import_module("repo2docker.buildpacks")


@contextlib.contextmanager
def _later() -> Iterator[None]:
    """Put off what repo2docker's modules name and a build does not use."""
    find_library()
    if "repo2docker" not in sys.modules:
        _hollow("repo2docker").__version__ = recorded()["version"]  # type: ignore[attr-defined]
    made: list[str] = []
    for name in (*_LATE, *_HOLLOW):
        if name not in sys.modules:
            made.append(name)
            if name in _LATE:
                sys.modules[name] = _late(name)
            else:
                _hollow(name)
    try:
        yield
    finally:
        # Whoever imports one of these afterwards gets the real one.
        for name in made:
            sys.modules.pop(name, None)


def find_library() -> None:
    """Let Python see repo2docker, which is in a folder of its own."""
    if str(LIBRARY) not in sys.path:
        sys.path.append(str(LIBRARY))


def _named(name: str) -> Any:
    module, _, inner = name.partition(":")
    return getattr(importlib.import_module(module), inner)


def _hollow(name: str) -> types.ModuleType:
    """A package of which only the folder is known."""
    parent, _, last = name.rpartition(".")
    folders = sys.modules[parent].__path__ if parent else sys.path
    folder = next(one for one in (Path(path) / last for path in folders) if one.is_dir())
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [str(folder)]
    return module


def _late(name: str) -> types.ModuleType:
    """Stands for a module until something of it is used."""
    module = types.ModuleType(name)

    def get(attribute: str) -> Any:
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    module.__getattr__ = get  # type: ignore[method-assign]
    return module
