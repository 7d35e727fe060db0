"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # pytest -m gpu does without
    pass
else:
    # The first example of a test may compile a kernel, so no deadline; the seed is fixed, so a run can be repeated.
    settings.register_profile(
        "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    settings.load_profile("default")


@pytest.fixture(scope="session")
def cells() -> Path:
    """The real five-rater cells data, where there are any."""
    folder = os.environ.get("TWINTRACK_TEST_DATA")
    if not folder:
        pytest.skip("TWINTRACK_TEST_DATA does not name a folder with the cells data")
    path = Path(folder) / "cells"
    if not path.is_dir():
        pytest.skip(f"{path} does not exist")
    return path


@pytest.fixture(scope="session", autouse=True)
def _no_waiting() -> Iterator[None]:
    """Read what is damaged again at once."""
    from twintrack_core.storage import retry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "WAITS", (0.0, 0.0))
        yield
