from __future__ import annotations

import numpy as np
import pytest
from cohorts import case, cohort

from twintrack_core.calibrators import fit
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.metrics import evaluate
from twintrack_core.validation.cross_fit import Fitter
from twintrack_core.validation.scoring import PROPER, scorer


@pytest.mark.parametrize("metric", [*PROPER, "ece_mhr", "tdsc"])
def test_scores_are_the_metrics(metric: str) -> None:
    statistics = cohort(4)
    mixed = CaseStatistics(case(77).drop_raters(["bob"]))
    empty = CaseStatistics(JointHistogram.from_cells([0], [5], [1], [9], ["ann"]))  # nothing inside
    statistics = statistics.merge(CohortStatistics({"mixed": mixed, "none": empty}, statistics.roi))
    maps = [fit(statistics, name) for name in ("isotonic", "platt", "histogram_binning")]
    found = scorer(Fitter(statistics), metric)([None, *maps], np.arange(len(statistics)))
    few = scorer(Fitter(statistics), metric)(maps, np.array([3, 0]))
    np.testing.assert_allclose(few, found[1:, [3, 0]], rtol=0, atol=1e-15)
    for row, calibration in zip(found, [None, *maps], strict=True):
        rows = evaluate(statistics, calibration, [metric]).rows
        wanted = "raw" if calibration is None else "calibrated"
        expected = {r.case: r.value for r in rows if r.region == "roi" and r.variant == wanted}
        assert expected.pop("none") is None
        np.testing.assert_allclose(row[:-1], np.array(list(expected.values()), float), rtol=0, atol=1e-12)
        assert np.isnan(row[-1])


@pytest.mark.parametrize("name", ["nothing", "surface_dice", "tdsc,ece_mhr"])
def test_what_cannot_score(name: str) -> None:
    with pytest.raises(RequestError):
        scorer(Fitter(cohort(2)), name)
