from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import Metric, ScoredCells, Undefined, get
from twintrack_core.targets import staple
from twintrack_curvas.dice import DSC

SHAPE = (3, 4, 5)
SCORES = st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.5005, 0.75, 1.0])


def of_threshold(text: str) -> Metric:
    assert DSC.with_argument is not None
    return DSC.with_argument(text)


@given(p=hnp.arrays(np.float16, SHAPE, elements=SCORES), raters=hnp.arrays(bool, (3, *SHAPE)))
def test_dsc_voxel_by_voxel(cells_of: Callable[..., ScoredCells], p: Any, raters: Any) -> None:
    pattern = raters[0] + 2 * raters[1] + 4 * raters[2]
    cells = cells_of(p, raters)
    if not raters.any():
        result = DSC(cells)
        assert isinstance(result, Undefined)
        assert "no rater marked" in result.why
        return
    consensus = staple(np.bincount(pattern.reshape(-1), minlength=8), 3).probability[pattern] >= 0.5
    for metric, threshold in ((DSC, 0.5), (of_threshold("0.4"), 0.4)):
        predicted = [float(value) > threshold for value in p.reshape(-1)]
        both = sum(a and b for a, b in zip(predicted, consensus.reshape(-1).tolist(), strict=True))
        total = sum(predicted) + int(consensus.sum())
        result = metric(cells)
        if total:
            assert result == pytest.approx(2 * both / (total + 1e-6), rel=1e-12)
        else:
            assert isinstance(result, Undefined)


def test_dsc_against_simpleitk(cells_of: Callable[..., ScoredCells], case_maker: Callable[..., Any]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    case = case_maker((12, 40, 44), 6, 3)
    rng = np.random.default_rng(0)
    raters = np.stack([case.marked_by(name) ^ (rng.random(case.votes.shape) < 0.01) for name in case.raters])
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in raters]
    consensus = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)) >= 0.5
    predicted = case.scores() > 0.5
    expected = 2 * (predicted & consensus).sum() / (predicted.sum() + consensus.sum() + 1e-6)
    assert DSC(cells_of(case.scores(), raters)) == pytest.approx(expected, rel=1e-12)


def test_both_sets_empty_is_undefined(cells_of: Callable[..., ScoredCells]) -> None:
    raters = np.zeros((3, *SHAPE), dtype=bool)
    raters[0, 0, 0, 0] = raters[1, 1, 1, 1] = raters[2, 2, 2, 2] = True  # none is borne out by another
    result = DSC(cells_of(np.full(SHAPE, 0.25, np.float16), raters))
    assert isinstance(result, Undefined)
    assert result.why == "no score is above 0.5 and the raters' consensus is empty"


@pytest.mark.parametrize("large", [2**24 + 1, 2**32 + 1, 2**40 + 1])
def test_large_counts_are_exact(large: int) -> None:
    # Three voxels too many, of 2^40, would not be seen in float32.
    cells = JointHistogram.from_cells([1] * 3, [0, 15360, 15360], [3, 3, 0], [3, large, large], ["a", "b"])
    total = 2 * large + (large + 3)
    assert DSC(ScoredCells.of([CaseStatistics(cells)])) == 2 * large / (total + 1e-6)


def test_a_case_at_a_time_and_the_whole_volume() -> None:
    assert DSC.regions == ("whole",)
    assert not DSC.pooled


@pytest.mark.parametrize("text", ["", "x", "nan", "-0.1", "1", "inf", "0.5mm"])
def test_thresholds_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="is no threshold"):
        of_threshold(text)


def test_tdsc_four_of_five_raters_are_not_above_the_last_threshold(cells_of: Callable[..., ScoredCells]) -> None:
    raters = np.zeros((5, *SHAPE), dtype=bool)
    raters[:4, 0] = True
    metric = get("tdsc")
    assert isinstance(metric, Metric)
    # All of the prediction is above 0.8, which no mean response is: one of the six Dice is 0.
    perfect = 2 * 20 / (40 + 1e-6)
    assert metric(cells_of(raters.mean(axis=0).astype(np.float16) * np.float16(1.25), raters)) == pytest.approx(
        perfect * 5 / 6
    )
