from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from twintrack_core import calibrators
from twintrack_core.calibrators import fit
from twintrack_core.codes import CODE_ONE, CODE_VALUES
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap

NAMES = ("ann", "bob", "cy")


def sklearn_table(scores: npt.NDArray[Any], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What scikit-learn's isotonic regression, fitted to voxels in float64, gives every code."""
    model = IsotonicRegression(out_of_bounds="clip")
    model.fit(scores.astype(np.float64).ravel(), target.ravel())
    return np.asarray(model.predict(CODE_VALUES))


@given(
    st.lists(
        st.tuples(st.one_of(st.integers(0, CODE_ONE), st.sampled_from([0, 1, CODE_ONE])), st.integers(0, 7)),
        min_size=1,
        max_size=60,
    )
)
@settings(deadline=None)
def test_isotonic_is_scikit_learns_at_every_code(voxels: list[tuple[int, int]]) -> None:
    code, pattern = np.array(voxels).T
    ones = np.ones_like(code)
    calibration = fit(JointHistogram.from_cells(ones, code, pattern, ones, NAMES))
    marks = np.bitwise_count(pattern.astype(np.uint8))
    np.testing.assert_allclose(calibration.table, sklearn_table(CODE_VALUES[code], marks / 3), rtol=0, atol=1e-12)
    assert (np.diff(calibration.score) > 0).all()
    middle = calibration.value[1:-1]
    assert ((middle != calibration.value[:-2]) | (middle != calibration.value[2:])).all()


@pytest.mark.skipif("TWINTRACK_TEST_DATA" not in os.environ, reason="TWINTRACK_TEST_DATA names no folder of data")
def test_isotonic_is_scikit_learns_on_real_data() -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = Path(os.environ["TWINTRACK_TEST_DATA"]) / "cells" / "calibration"
    cases, scores, targets = {}, [], []
    for path in sorted((folder / "member0").glob("*.npz")):
        name = path.name.removesuffix(".npz")
        members = np.stack([np.load(folder / f"member{m}" / path.name)["probabilities"][1] for m in range(3)])
        images = [sitk.ReadImage(str(folder / f"rater{rater}" / f"{name}.nii.gz")) for rater in range(1, 6)]
        marks = np.stack([sitk.GetArrayFromImage(image) for image in images])
        cases[name] = CaseStatistics(JointHistogram.from_arrays(members, marks, members=True))
        total = members[0].astype(np.float32) + members[1].astype(np.float32) + members[2].astype(np.float32)
        scores.append((total / np.float32(3)).astype(np.float16))
        targets.append(marks.mean(axis=0))
    assert len(cases) == 10
    calibration = fit(CohortStatistics(cases))
    expected = sklearn_table(np.stack(scores), np.stack(targets))
    np.testing.assert_allclose(calibration.table, expected, rtol=0, atol=1e-12)


def test_isotonic_keeps_counts_of_any_size() -> None:
    histogram = JointHistogram.from_cells([1] * 4, [5, 5, 9000, 9000], [0, 1, 0, 1], [3, 1, 1, 3], ["ann"])
    large = JointHistogram.from_cells(
        histogram.region, histogram.code, histogram.pattern, histogram.count << 59, ["ann"]
    )
    assert fit(histogram).value.tolist() == fit(large).value.tolist() == [0.25, 0.75]


def test_marks_everywhere_are_one() -> None:
    histogram = JointHistogram.from_cells([1] * 3, [5, 6, 9000], [7] * 3, [3, 49, 1], NAMES)
    assert (fit(histogram).table == 1).all()


def test_a_single_score_gives_a_constant() -> None:
    calibration = fit(JointHistogram.from_cells([1, 1], [5, 5], [0, 1], [1, 3], ["ann"]))
    assert (calibration.table == 0.75).all()


def histogram(seed: int, raters: tuple[str, ...] = NAMES, n: int = 500) -> JointHistogram:
    """Raters who mark where the score is high, each with errors of their own."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, CODE_ONE + 1, n)
    errors = rng.random((len(raters), n)) < 0.2
    pattern = (((code > CODE_ONE // 2) ^ errors) << np.arange(len(raters))[:, np.newaxis]).sum(axis=0)
    return JointHistogram.from_cells(rng.integers(0, 2, n), code, pattern, rng.integers(0, 99, n), raters)


def test_identity_changes_nothing() -> None:
    calibration = fit(histogram(0), "identity")
    np.testing.assert_array_equal(calibration.table, CODE_VALUES)
    assert calibration.calibrator == "identity"


def test_only_the_inside_is_fitted() -> None:
    everything = histogram(0)
    inside = everything.region == 1
    region, code, pattern, count = (column[inside] for column in everything.cells)
    only = JointHistogram.from_cells(region, code, pattern, count, NAMES)
    assert fit(everything).table.tolist() == fit(only).table.tolist()
    assert fit(everything).table.tolist() != fit(everything.fold_regions()).table.tolist()


def test_a_map_says_where_it_comes_from() -> None:
    cases = {"b": CaseStatistics(histogram(0)), "a": CaseStatistics(histogram(1, ("di", "bob")))}
    statistics = CohortStatistics(cases, roi="mask+5mm")
    calibration = fit(statistics, target="majority")
    assert (calibration.calibrator, calibration.target, calibration.roi) == ("isotonic", "majority", "mask+5mm")
    assert calibration.cases == ("a", "b")
    assert calibration.raters == ("ann", "bob", "cy", "di")
    assert calibration.voxels == sum(case.histogram.n_inside for case in cases.values())
    assert calibration.statistics == statistics.digest()
    assert calibration.package_version.count(".") == 2
    assert CalibrationMap.from_json(calibration.to_json()) == calibration
    alone = fit(cases["b"].histogram)
    assert (alone.roi, alone.cases, alone.statistics) == (None, (), cases["b"].histogram.digest())


@pytest.mark.parametrize("target", ["mhr", "staple"])
def test_equal_statistics_give_equal_bytes(target: str) -> None:
    cases = {str(seed): CaseStatistics(histogram(seed, NAMES[: 2 + seed % 2])) for seed in range(5)}
    one = fit(CohortStatistics(cases), target=target)
    two = fit(CohortStatistics(dict(reversed(cases.items()))), target=target)
    assert one.to_json() == two.to_json()


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"no calibrator 'splines'\.\nAllowed: identity, isotonic.*\nDid you mean 'spl"
    ):
        fit(histogram(0), "splines")
    with pytest.raises(RequestError, match="no target"):
        fit(histogram(0), target="mode")
    with pytest.raises(RequestError, match="Case x: There are no raters"):
        fit(CohortStatistics({"x": CaseStatistics(histogram(0, ()))}))
    outside = CaseStatistics(JointHistogram.from_cells([0], [1], [1], [9], NAMES))
    with pytest.raises(FitError, match="inside the region of interest 'mask' of 1 cases"):
        fit(CohortStatistics({"x": outside}, roi="mask"))
    with pytest.raises(FitError, match="No voxel"):
        fit(outside.histogram)
    with pytest.raises(FitError, match="No case"):
        fit(CohortStatistics({}))


def test_calibrators_are_found_by_name() -> None:
    assert calibrators.names()[:10] == (
        "identity", "isotonic", "centered_isotonic", "histogram_binning", "equal_mass_binning",
        "platt", "temperature", "beta", "scaling_binning", "spline",
    )  # fmt: skip
    assert all(callable(calibrators.get(name)) for name in calibrators.names())


@pytest.mark.parametrize("name", calibrators.names()[:10])
def test_every_calibrator_makes_a_map_that_is_kept_and_read(name: str) -> None:
    calibration = fit(histogram(0), name)
    assert calibration.calibrator == name
    assert CalibrationMap.from_json(calibration.to_json()) == calibration
    assert (np.diff(calibration.table) >= 0).all()
    assert len(calibration.to_json()) < 200_000
