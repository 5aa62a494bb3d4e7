"""Hands a repository's files over from a build pod's volume to a builder on this machine.

The builder reads files by name, as the site's own user, so nothing may lead out of the folder: it
gets plain files, folders, and links that stay within it. Without root the volume belongs to
subordinate ids, and `podman unshare python -I staging.py` gets there. So this file needs nothing
but the standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DEPTH = 200

OUTSIDE, SPECIAL, TOO_LARGE, TOO_MANY, TOO_DEEP = "outside", "special", "large", "many", "deep"


class NotStaged(Exception):
    """The files cannot be handed over: `kind` is one of the words above, `name` the file."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind}: {name}")
        self.kind, self.name = kind, name


def stage(source: str, target: str, size: int, files: int) -> None:
    """Copy the folder `source` to `target`, which must not exist yet.

    At most `size` bytes and `files` files. Owners are not kept, nor are set-id bits. Raises
    NotStaged and OSError; what is in `target` is then of no use.
    """
    os.mkdir(target, 0o700)
    copy = _Copy(size, files)
    folder = os.open(source, _FOLDER)
    copy.folder(folder, target, "", 0)
    root = os.path.realpath(target)
    for name in copy.links:
        # Asked when all is there: a link may lead through other links.
        found = os.path.realpath(os.path.join(root, name))
        if found != root and not found.startswith(root + os.sep):
            raise NotStaged(OUTSIDE, name)


class _Copy:
    def __init__(self, size: int, files: int) -> None:
        self._size, self._files = size, files
        self.links: list[str] = []

    def folder(self, source: int, target: str, name: str, depth: int) -> None:
        """Copy what is in an open folder, which is closed."""
        if depth > _DEPTH:
            os.close(source)
            raise NotStaged(TOO_DEEP, name)
        try:
            for entry in sorted(os.listdir(source)):
                inner = f"{name}/{entry}" if name else entry
                self._files -= 1
                if self._files < 0:
                    raise NotStaged(TOO_MANY, inner)
                self._one(source, entry, os.path.join(target, entry), inner, depth)
        finally:
            os.close(source)

    def _one(self, source: int, entry: str, target: str, name: str, depth: int) -> None:
        found = os.stat(entry, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(entry, dir_fd=source), target)
            self.links.append(name)
        elif stat.S_ISDIR(found.st_mode):
            os.mkdir(target, 0o700)
            self.folder(os.open(entry, _FOLDER, dir_fd=source), target, name, depth + 1)
            os.chmod(target, found.st_mode & 0o777 | 0o700)
        elif stat.S_ISREG(found.st_mode):
            self._file(os.open(entry, _FILE, dir_fd=source), target, name)
        else:
            raise NotStaged(SPECIAL, name)

    def _file(self, source: int, target: str, name: str) -> None:
        with os.fdopen(source, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise NotStaged(SPECIAL, name)
            self._size -= found.st_size
            if self._size < 0:
                raise NotStaged(TOO_LARGE, name)
            with open(target, "xb") as out:
                shutil.copyfileobj(file, out, 2**20)
            os.chmod(target, found.st_mode & 0o777 | 0o600)


def request(arguments: dict[str, Any]) -> dict[str, str]:
    """`stage` with its arguments by name, and what went wrong as data: {} when nothing did."""
    try:
        stage(**arguments)
    except NotStaged as error:
        return {"kind": error.kind, "name": error.name}
    except OSError as error:
        return {"kind": "", "name": str(error)}
    return {}


SCRIPT = Path(__file__).resolve()

if __name__ == "__main__":
    print(json.dumps(request(json.load(sys.stdin))))
