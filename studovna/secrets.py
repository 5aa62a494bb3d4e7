"""The site's generated secrets: made once, kept in the state folder, readable by its owner only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

# Without 0/O, 1/l/I: people type the password that is printed once.
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"


def _password(groups: int) -> str:
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(groups))


def _token() -> str:
    return secrets.token_hex(32)


# JupyterHub's shared-password login wants 8 characters for people and 32 for admins.
KINDS: dict[str, Callable[[], str]] = {
    "password-people": lambda: _password(4),
    "password-admin": lambda: _password(7),
    "cookie-secret": _token,
    "crypt-key": _token,
    "proxy-token": _token,
    # JupyterHub refuses service tokens of exactly 64 characters: those look like its own hashes.
    "service-token-operator": lambda: secrets.token_urlsafe(36),
    "service-token-binder": lambda: secrets.token_urlsafe(36),
    "build-token-secret": _token,
    "service-token-metrics": lambda: secrets.token_urlsafe(36),
    "registry-password": _token,
    "registry-pull-password": _token,
}


def read_secret(state_dir: Path, name: str) -> tuple[str, bool]:
    """The secret of this name, and whether it was made just now.

    Two processes that ask for a missing one at the same moment get the same value: the file is
    linked into place, and the one that comes second reads what the first has written.
    """
    folder = state_dir / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / name
    try:
        return file.read_text().strip(), False
    except FileNotFoundError:
        pass
    draft = folder / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(KINDS[name]() + "\n")
    try:
        os.link(draft, file)
        made = True
    except FileExistsError:
        made = False
    finally:
        draft.unlink()
    return file.read_text().strip(), made
