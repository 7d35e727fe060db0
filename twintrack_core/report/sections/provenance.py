"""Where everything comes from, and how to make it again."""

from __future__ import annotations

import json
from importlib import metadata

from twintrack_core.report.document import Block, Facts, Folded, Section, Text
from twintrack_core.report.numbers import whole
from twintrack_core.report.subject import Subject
from twintrack_core.validation import Comparison


def provenance_section(subject: Subject, comparison: Comparison | None, command: str) -> Section:
    """Name what went in by digest, and what was drawn by seed."""
    calibration, bootstrap = subject.calibration, subject.bootstrap
    facts = [
        ("Map", f"{calibration.digest()} (SHA-256)"),
        ("Map’s calibrator", calibration.calibrator or "not named"),
        ("Map’s target", calibration.target or "not named"),
        ("Map’s parameters", _parameters(subject)),
        ("Map’s region", calibration.roi or "none"),
        ("Map’s voxels", whole(calibration.voxels)),
        ("Map’s version", f"twintrack-core {calibration.package_version or 'unknown'}"),
        (
            "Fitted statistics",
            f"{calibration.statistics or 'not named'}{'' if subject.fitted is None else ' (here, checked)'}",
        ),
        ("Statistics", subject.statistics.digest()),
        ("Statistics’ region", subject.statistics.roi),
        ("This page", f"twintrack-core {metadata.version('twintrack-core')}"),
        ("Draws", f"{bootstrap.draws:,} of the {subject.drawn}, seed {bootstrap.seed}"),
    ]
    if subject.splits:
        seed = bootstrap.seed if comparison is None else comparison.bootstrap.seed
        facts.append(("Folds", f"{len(subject.splits)}, seed {seed}"))
    if comparison is not None:
        facts.append(("Comparison’s statistics", comparison.statistics))
        facts.append(
            (
                "Comparison’s draws",
                (
                    f"{comparison.bootstrap.draws:,} of test cases, {comparison.refit_draws:,} refitted, seed "
                    f"{comparison.bootstrap.seed}"
                ),
            )
        )
    blocks: list[Block] = [Facts(tuple(facts), literal=True)]
    for title, names in (
        ("Cases fitted to", calibration.cases),
        ("Raters fitted to", calibration.raters),
        ("Cases looked at", subject.statistics.names),
        ("Raters looked at", subject.statistics.raters),
    ):
        if names:
            blocks.append(Folded(f"{title} ({len(names)})", ", ".join(names)))
    blocks.append(
        Text(
            "Nothing on this page depends on the time, the machine or the folder: the same map and statistics give the "
            "same page."
        )
    )
    if command:
        blocks.append(Facts((("To repeat", command),), literal=True))
    return Section("provenance", "Provenance", tuple(blocks))


def _parameters(subject: Subject) -> str:
    text = json.dumps(dict(subject.calibration.parameters), sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 400 else f"{text[:400]}…"
