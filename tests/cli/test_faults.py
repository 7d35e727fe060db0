"""A short session of the faults that docs/robustness.md tells of: all must end as it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("SimpleITK")
pytest.importorskip("distributed")

ROOT = Path(__file__).parent.parent.parent
KINDS = {"kills", "interrupts", "calls", "reads", "damage", "vanishing", "mixes"}


def session(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    """What became of the trials of a session."""
    command = [sys.executable, "-m", "benchmarks.faults", "--json", "--folder", str(tmp_path), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "WRONG" not in done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks children and looks into /proc")
def test_a_short_session(tmp_path: Path) -> None:
    trials = session(
        tmp_path, "--seed", "1", "--kills", "2", "--what", "accumulate", "apply", "--schedulers", "threads"
    )
    kinds = {trial["kind"] for trial in trials}
    assert kinds in (KINDS, KINDS - {"calls", "reads"})  # without a compiler
    assert {"killed", "message"} <= {trial["ended"] for trial in trials}
    assert not [trial for trial in trials if trial["wrong"]]
    assert not list(tmp_path.iterdir())
