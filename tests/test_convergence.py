"""The whole method against known truth: the fitted map converges to E[MHR | score] as cases are added."""

from __future__ import annotations

import numpy as np
import pytest

import twintrack_core as tt
from twintrack_core.codes import CODE_VALUES
from twintrack_core.histogram import CaseStatistics
from twintrack_core.simulate import Simulation


def statistics_of(simulation: Simulation) -> tt.CohortStatistics:
    cases = {}
    for name in simulation.case_names():
        case = simulation.read(name)
        histogram = tt.JointHistogram.from_votes(case.probability, case.votes, case.raters, members=True)
        cases[name] = CaseStatistics(histogram, case.geometry.spacing_mm)
    return tt.CohortStatistics(cases)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return Simulation(cases=128, shape=(16, 40, 40), raters=5, members=3, seed=11)


@pytest.fixture(scope="module")
def statistics(simulation: Simulation) -> tt.CohortStatistics:
    return statistics_of(simulation)


def error(simulation: Simulation, statistics: tt.CohortStatistics, calibrator: str, cases: int) -> float:
    """Mean distance of the map from the truth, over the scores between 0 and 1 that the whole cohort has."""
    fitted = tt.fit(statistics.select(statistics.names[:cases]), calibrator)
    voxels = statistics.pooled().counts.sum(axis=(0, 2))[1:-1]
    distance = np.abs(fitted.table - simulation.truth(CODE_VALUES))[1:-1]
    return float((voxels * distance).sum() / voxels.sum())


def test_the_map_converges_to_the_truth(simulation: Simulation, statistics: tt.CohortStatistics) -> None:
    errors = [error(simulation, statistics, "isotonic", cases) for cases in (8, 32, 128)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < errors[0] / 2
    assert errors[2] < 0.02
    assert error(simulation, statistics, "identity", 128) > 5 * errors[2]  # the ensemble is over-confident


def test_held_out_cases_are_better_calibrated(statistics: tt.CohortStatistics) -> None:
    fitted = tt.fit(statistics.select(statistics.names[:64]))
    evaluation = tt.evaluate(statistics.select(statistics.names[64:]), fitted)
    pooled = {(row.metric, row.variant): row.pooled for row in evaluation.summary if row.region == "whole"}
    for metric in ("ece_mhr", "ace_mhr", "brier_mhr", "cross_entropy_mhr"):
        before, after = pooled[metric, "raw"], pooled[metric, "calibrated"]
        assert before is not None
        assert after is not None
        assert after < before
