"""The chart's tests need helm, which comes with the packages of the tests."""

from __future__ import annotations

import pytest

from tests.kubetools import why_not


@pytest.fixture(autouse=True, scope="session")
def _tools() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
