"""The site's own ssh key: whether a program can use it, and its public half."""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

MAX_BYTES = 64 * 1024
MAX_KNOWN_HOSTS_BYTES = 1024 * 1024

Wrong = tuple[str, str]
"""What is wrong, and what would be right."""


def wrong_with_key(file: Path) -> Wrong | None:
    """Why a file cannot be the site's private key; None when it can.

    ssh itself refuses a key of its own user that others may read (one in a cluster's Secret belongs
    to root), and there is nobody to type a passphrase.
    """
    expected = "a private key without a passphrase, as ssh-keygen makes it"
    try:
        found = file.stat()
        mode = found.st_mode
        if not stat.S_ISREG(mode):
            return f"{file} is no file", expected
        if mode & 0o077 and found.st_uid == os.geteuid():
            return (
                f"Others than its owner may read or write {file} (its mode is {mode & 0o777:04o})",
                f"mode 0600: chmod 600 {file}",
            )
        _public(file)
    except FileNotFoundError:
        return f"There is no file {file}", expected
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}", expected
    except TypeError:
        return f"The key in {file} has a passphrase, which nobody is there to type", expected
    except (ValueError, UnsupportedAlgorithm):
        return f"{file} holds no private key that ssh can use", expected
    if shutil.which("ssh") is None:
        return "There is no program ssh on this machine", "apt-get install openssh-client"
    return None


def wrong_with_known_hosts(file: Path) -> Wrong | None:
    """Why a file cannot be a known_hosts file; None when it can, and names at least one host."""
    expected = (
        "lines such as ssh-keyscan prints, compared with what the host's administrators publish"
    )
    try:
        lines = file.read_bytes()[:MAX_KNOWN_HOSTS_BYTES].decode().splitlines()
    except FileNotFoundError:
        return f"There is no file {file}", expected
    except (OSError, UnicodeDecodeError) as error:
        return f"{file} cannot be read: {error}", expected
    hosts = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not _is_host_key(line.split()):
            return f"Line {number} of {file} is no host's key", expected
        hosts += 1
    return None if hosts else (f"{file} names no host", expected)


def public_key(file: Path) -> str:
    """The public half as one line (``ssh-ed25519 AAAA…``). Raises OSError or ValueError."""
    try:
        return _public(file)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from None


def _public(file: Path) -> str:
    data = file.read_bytes()[:MAX_BYTES]
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in data else load_pem_private_key
    public = load(data, password=None).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _is_host_key(words: list[str]) -> bool:
    """``[@marker] hosts type key [comment]``, as sshd(8) describes the file."""
    if words[0] in ("@cert-authority", "@revoked"):
        words = words[1:]
    try:
        blob = base64.b64decode(words[2], validate=True)
    except (IndexError, binascii.Error):
        return False
    size = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + size].decode("ascii", "replace") == words[1]
