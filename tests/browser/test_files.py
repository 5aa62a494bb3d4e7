"""Large files go up and down through the browser, whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Visitor

pytestmark = pytest.mark.slow

SIZE = 150 * 2**20  # JupyterLab sends more than 15 MB in pieces


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_large_file_goes_up_and_comes_down_again(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        for _ in range(SIZE // 2**20):
            file.write(os.urandom(2**20))
    max_ = visit("max", accept_downloads=True)
    page = max_.page
    max_.sign_in()
    max_.go("spawn/max")
    page.get_by_role("button", name="Start", exact=True).click()
    max_.wait_for_server()
    expect(page.locator(".jp-FileBrowser-toolbar")).to_be_visible(timeout=60_000)
    with page.expect_file_chooser(timeout=60_000) as chooser:
        page.locator('.jp-FileBrowser-toolbar [data-jp-item-name="uploader"]').click()
    chooser.value.set_files(large)
    # It asks before it sends what is large.
    page.get_by_role("button", name="Upload", exact=True).click()
    listed = page.locator(".jp-DirListing-item", has_text="large.bin")
    expect(listed).to_be_visible(timeout=120_000)
    expect(
        page.locator(".jp-FileUploadStatus, .jp-Statusbar-ProgressBar-progress-bar")
    ).to_have_count(0, timeout=120_000)
    address = f"{max_.site.url}/user/max/files/large.bin?download=1"
    with page.expect_download(timeout=120_000) as download:
        page.evaluate("address => { location.href = address }", address)
    assert _sum(Path(download.value.path())) == _sum(large)
    max_.stop()
