"""A real OpenID Connect provider for tests: npm's certified oidc-provider on this machine."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from studovna.paths import ROOT

CLIENT_ID = "studovna"
SECRET = "a secret+with/odd=letters%25"


def need_provider() -> None:
    """Skip where it is not installed."""
    if not (ROOT / "node_modules" / "oidc-provider").is_dir():
        pytest.skip("oidc-provider is not installed: make test installs it")


@dataclass
class Provider:
    """The provider's process; ``accounts`` are those that it knows, with their claims.

    With an issuer that begins with https it needs the files of a certificate and its key.
    """

    issuer: str
    redirect: str
    accounts: Mapping[str, Mapping[str, Any]]
    certificate: Path | None = None
    key: Path | None = None
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        given = {
            "issuer": self.issuer,
            "clientId": CLIENT_ID,
            "clientSecret": SECRET,
            "redirect": self.redirect,
            "accounts": self.accounts,
        }
        if self.certificate and self.key:
            given |= {"certificate": str(self.certificate), "key": str(self.key)}
        self.process = subprocess.Popen(
            ["node", str(Path(__file__).with_suffix(".mjs")), json.dumps(given)],
            cwd=ROOT, env={"PATH": os.environ["PATH"]}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "listening\n"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def sign_in(browser: httpx.Client, account: str) -> httpx.Response:
    """Begin at the site's sign-in page and answer the provider's two; where that led to."""
    page = browser.get("/hub/oauth_login", follow_redirects=True)
    for answer in ({"prompt": "login", "login": account, "password": "any"}, {"prompt": "consent"}):
        assert page.is_success, page.text
        action = re.search(r'<form[^>]* action="([^"]+)"', page.text)
        assert action is not None, page.text
        target = urljoin(str(page.url), html.unescape(action[1]))
        page = browser.post(target, data=answer, follow_redirects=True)
    return page
