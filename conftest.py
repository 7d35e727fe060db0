"""What ``pytest -m gpu`` needs so that it gets by with NumPy, CuPy and pytest; see the marker in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

_FILES = "test_gpu*.py"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Take the option of pytest-benchmark that pyproject.toml gives, where it is not there."""
    if not pluginmanager.hasplugin("benchmark"):
        parser.addoption("--benchmark-disable", action="store_true", help="nothing, without pytest-benchmark")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out other tests with -m gpu: to deselect them pytest would import them, and what they need."""
    if config.option.markexpr != "gpu":
        return None
    wanted = any(collection_path.rglob(_FILES)) if collection_path.is_dir() else collection_path.match(_FILES)
    return None if wanted else True
