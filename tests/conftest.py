"""Fixtures that tests of several kinds share: made when the first test asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.site import RunningSite, running_site, why_not


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """One real site for all tests that leave it as they found it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running
