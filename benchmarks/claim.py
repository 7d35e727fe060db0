"""The paper's claim on held-out cases: isotonic regression to all raters against what is usually done.

    python -m benchmarks.claim DATA [--write]

DATA is a folder with the cells (docs/cells.md): calibration/ and test/, each with member0 to member2 and rater1 to
rater5. With --write, the tables go into docs/validation.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import twintrack_core as tt
from benchmarks.sections import replaced, table
from benchmarks.tables import default_folder
from twintrack_core.cohort.nnunet import NnunetReader
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.report.ranking import interval
from twintrack_core.simulate import Simulation
from twintrack_core.validation import Comparison, compare
from twintrack_core.validation.candidates import RAW
from twintrack_core.validation.splits import Folds

PAGE = Path(__file__).parent.parent / "docs" / "validation.md"
METRICS = ("brier_mhr", "smece_mhr", "kl_mhr", "tdsc")
SIMULATION = Simulation(cases=25, shape=(32, 96, 96))
REGIONS = ("full", "raters+20")

_OURS = "isotonic to mhr"
_CALIBRATORS = ("temperature", "platt", "isotonic")
_SHARED = ("majority", "staple", "mhr")

# What the paper compares with, and Platt's function of all raters, which parts the calibrator from the target.
_SHOWN = (RAW, *(f"isotonic to {target}" for target in _SHARED), "platt to mhr")


def cells(data: Path, folder: Path) -> Mapping[str, tuple[CohortStatistics, CohortStatistics]]:
    """Return the statistics of the 10 cases to fit to and of the 13 to test on, in each region of interest."""
    cohorts = []
    for split in ("calibration", "test"):
        members, raters = (
            tuple(data / split / f"{what}{number}" for number in numbers)
            for what, numbers in (("member", range(3)), ("rater", range(1, 6)))
        )
        cohorts.append(tt.import_cases(NnunetReader(members=members, classes=(1,), raters=raters), folder / split))
    return {roi: (tt.accumulate(cohorts[0], roi=roi), tt.accumulate(cohorts[1], roi=roi)) for roi in REGIONS}


def simulated(simulation: Simulation) -> CohortStatistics:
    """Return the statistics of a simulated cohort inside its coarse masks."""
    return CohortStatistics(
        {
            case.name: CaseStatistics(
                JointHistogram.from_votes(case.probability, case.votes, case.raters, roi=case.roi, members=True)
            )
            for case in simulation
        },
        "mask",
    )


def of_cells(data: Path) -> str:
    """Compare on the cells: ten cases to fit to and thirteen to test, then all in five folds."""
    with tempfile.TemporaryDirectory(dir=default_folder()) as name:
        found = cells(data, Path(name))
    parts = []
    for roi, (fitted, held_out) in found.items():
        both = fitted + held_out
        ways: dict[str, Folds] = {
            "fitted to the 10 calibration cases, scored on the 13 test cases": {"test": held_out.names},
            "5-fold cross-validation over all 23 cases": 5,
        }
        for way, folds in ways.items():
            comparison = compared(both, ("rater1", "rater2", "rater5"), folds)
            # The networks learnt from rater1; rater2 marks least, rater5 most.
            one = [f"{name} to rater:rater1" for name in _CALIBRATORS]
            one += ["isotonic to rater:rater2", "isotonic to rater:rater5"]
            parts.append(_table(f"**Cells, region {roi}**, {way}", comparison, one))
    return "\n\n".join(parts)


def of_simulation() -> str:
    """Compare on simulated cases, the one rater being the least and the most generous."""
    least, *_, most = np.array(SIMULATION.rater_names)[np.argsort(SIMULATION.rater_biases)].tolist()
    shape = " x ".join(map(str, SIMULATION.shape))
    title = (
        f"**Simulation**, {SIMULATION.cases} cases of {shape} voxels, seed {SIMULATION.seed}, region mask, 5-fold "
        f"cross-validation; {least} marks least, {most} most"
    )
    comparison = compared(simulated(SIMULATION), (least, most), 5)
    return _table(title, comparison, [f"{name} to rater:{rater}" for name in _CALIBRATORS for rater in (least, most)])


def compared(statistics: CohortStatistics, raters: tuple[str, ...], folds: Folds) -> Comparison:
    """Compare three calibrators to all targets."""
    targets = [*(f"rater:{rater}" for rater in raters), *_SHARED]
    return compare(statistics, _CALIBRATORS, targets=targets, folds=folds, metrics=METRICS)


def _table(title: str, comparison: Comparison, one_rater: Sequence[str]) -> str:
    ours = np.array(comparison.values[_OURS])
    rows = []
    for candidate in comparison.candidates:
        label = candidate.label
        if label not in _SHOWN and label not in one_rater:
            continue
        difference = np.array(comparison.values[label]) - ours
        to_ours = comparison.bootstrap.estimates(difference[:, np.newaxis])[0]
        name = f"**{label}**" if label == _OURS else label
        rows.append(
            (
                name,
                *(interval(candidate[metric].value) for metric in METRICS),
                "" if label == _OURS else interval(to_ours, signed=True),
            )
        )
    return table(f"{title}:", ("held-out mean", *METRICS, f"brier_mhr less that of {_OURS}"), rows)


def main() -> None:
    """Measure and print; write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with the cells")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/validation.md")
    arguments = parser.parse_args()
    start = time.process_time()
    texts = {"claim-cells": of_cells(arguments.data), "claim-simulation": of_simulation()}
    print("\n\n".join(texts.values()))
    print(f"{time.process_time() - start:.0f} s of processor time", file=sys.stderr)
    if arguments.write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), texts), encoding="utf-8")


if __name__ == "__main__":
    main()
