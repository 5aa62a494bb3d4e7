"""Starts the hub's single-user server without loading what a start does not use.

No library is changed: what is put off is loaded, by the standard library's LazyLoader, when
something in it is first used. `jupyterhub-singleuser` in /opt/venv/bin runs `main`.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
import types

# The single-user server checks scopes in a module that also serves the hub, and that imports the
# hub's database layer. The others are for listings and merges that someone may ask for later.
LATE = frozenset({"git", "jupyterhub.orm", "jupyterhub.roles", "requests"})

# What modules of both sides name of modules that only the hub runs: a handler whose requests are
# logged quietly, and an error of the hub's database. Neither occurs in a single-user server.
NAMED = {
    "jupyterhub.handlers.pages": type("HealthCheckHandler", (), {}),
    "sqlalchemy.exc": type("SQLAlchemyError", (Exception,), {}),
}


class _LateFinder:
    """Finds the modules of LATE as any other, and puts off running them."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in LATE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def _placeholder(name):
    """A module that becomes the real one of that name, attribute by attribute."""
    module = types.ModuleType(name)

    def later(attribute):
        if attribute.startswith("__") or sys.modules.get(name) is module:
            raise AttributeError(attribute)
        return getattr(importlib.import_module(name), attribute)

    module.__getattr__ = later
    return module


def _import_shared():
    """Import what hub and single-user server share, with placeholders for the hub's own modules.

    Afterwards the real modules are found and imported as ever.
    """
    names = [part for name in NAMED for part in (name.rpartition(".")[0], name)]
    for name in names:
        sys.modules[name] = _placeholder(name)
    for name, named in NAMED.items():
        setattr(sys.modules[name], named.__name__, named)
    import jupyterhub.log
    import jupyterhub.scopes  # noqa: F401

    for name in names:
        del sys.modules[name]
    vars(jupyterhub).pop("handlers", None)


def main():
    """What the console script of the jupyterhub package does."""
    sys.meta_path.insert(0, _LateFinder)
    _import_shared()
    from jupyterhub.singleuser import main as singleuser

    singleuser()
