"""What ``pytest -m gpu`` needs so that it gets by with NumPy, CuPy and pytest; see the marker in pyproject.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_FILES = "test_gpu*.py"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Take the option of pytest-benchmark that pyproject.toml gives, where it is not there."""
    if not pluginmanager.hasplugin("benchmark"):
        parser.addoption("--benchmark-disable", action="store_true", help="nothing, without pytest-benchmark")


def _none_ran(config: pytest.Config) -> bool:
    """Whether tests were wanted on a GPU and every one of them was skipped."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    wanted = config.option.markexpr == "gpu" and not config.option.collectonly
    return wanted and not any(reporter.stats.get(outcome) for outcome in ("passed", "failed", "error"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail with -m gpu where there is no device: who asks for these tests does not want to hear that all is well."""
    if session.exitstatus == pytest.ExitCode.OK and _none_ran(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say so."""
    if _none_ran(config):
        terminalreporter.write_line("No test ran on a GPU: all were skipped, for the reasons given below.", red=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out other tests with -m gpu: to deselect them pytest would import them, and what they need."""
    if config.option.markexpr != "gpu":
        return None
    wanted = any(collection_path.rglob(_FILES)) if collection_path.is_dir() else collection_path.match(_FILES)
    return None if wanted else True
