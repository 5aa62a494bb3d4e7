"""The first line of each container: `python3 -I /opt/builder fetch|install|export`.

`prepare` is fetch and install in one: where fetching needs no credential, there is none to keep
from the repository's code, and a container less is half a second less.
"""

from __future__ import annotations

import importlib
import sys

from .report import Refusal, say, say_text

ROLES = {
    "fetch": ("fetch",),
    "install": ("install",),
    "prepare": ("fetch", "install"),
    "export": ("export",),
    "lab": ("lab",),
}


def main() -> None:
    role = sys.argv[1] if len(sys.argv) == 2 else ""
    if role not in ROLES:
        sys.exit(f"one of: {', '.join(ROLES)}")
    try:
        for step in ROLES[role]:
            say("step", name=step)
            importlib.import_module(f"buildpack.{step}").main()
    except Refusal as refusal:
        say_text("failed", refusal.text)
        sys.exit(1)
    say("end")
