from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.integrate import quad
from scipy.stats import norm, wasserstein_distance

from twintrack_core.errors import RequestError
from twintrack_core.metrics import CaseVolumes, Noted, Undefined, VolumeMetric
from twintrack_curvas.contact import THRESHOLDS, contact_angles, vessel_boxes
from twintrack_curvas.normals import _density, exact_distance, official_distance
from twintrack_curvas.vi import VESSELS, VI_EXACT, VI_OFFICIAL

CROSS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
SCORES = np.array([0.0, 0.1, 0.25, 0.39, 0.53, 0.7, 0.8, 0.85, 1.0], dtype=np.float16)
Mask = npt.NDArray[np.bool_]


def slow_angle(vessel: Mask, lesion: Mask, *, official: bool) -> float:
    """Angle in one slice, pixel by pixel."""
    rows, columns = vessel.shape

    def at(mask: Mask, row: int, column: int) -> bool:
        return 0 <= row < rows and 0 <= column < columns and bool(mask[row, column])

    pixels = [(row, column) for row in range(rows) for column in range(columns)]
    edge = {(r, c) for r, c in pixels if vessel[r, c] and not all(at(vessel, r + a, c + b) for a, b in CROSS)}
    dilated = {(r, c) for r, c in pixels if any(at(lesion, r + a, c + b) for a, b in CROSS)}
    off = dilated - edge
    contact = 0
    for r, c in edge:
        if (r, c) in dilated:
            contact += 1
        elif official:
            right, below = (r, c + 1) in off, (r + 1, c) in off
            contact += right + below + ((r + 1, c + 1) in off) + (right or below)
        else:
            contact += any((r + a, c + b) in off for a in (-1, 0, 1) for b in (-1, 0, 1))
    return contact / len(edge) * 360


def slow_angles(vessel: Mask, lesion: Mask, *, official: bool) -> list[float]:
    """Angle in each plane: the largest over the slices that hold both."""
    found = []
    for axis in range(3):
        slices = zip(np.moveaxis(vessel, axis, 0), np.moveaxis(lesion, axis, 0), strict=True)
        angles = [slow_angle(v, m, official=official) for v, m in slices if v.any() and m.any()]
        found.append(max(angles, default=0.0))
    return found


def lesions_of(volumes: CaseVolumes) -> list[Mask]:
    return [volumes.marked_by(rater) for rater in volumes.raters] + [volumes.above(t) for t in THRESHOLDS.tolist()]


def scipy_angles(vessel: Mask, lesion: Mask, axis: int) -> list[float]:
    """Both angles in a plane, slice by slice with SciPy: how the definition reads."""
    cross = ndimage.generate_binary_structure(2, 1)
    best = [0.0, 0.0]
    for v, m in zip(np.moveaxis(vessel, axis, 0), np.moveaxis(lesion, axis, 0), strict=True):
        if not v.any() or not m.any():
            continue
        edge = v & ~ndimage.binary_erosion(v, cross)
        dilated = ndimage.binary_dilation(m, cross)
        off = np.pad(dilated & ~edge, ((0, 1), (0, 1)))
        rest = edge & ~dilated
        right, below, diagonal = off[:-1, 1:], off[1:, :-1], off[1:, 1:]
        extra = sum((rest & term).sum() for term in (right, below, diagonal, right | below))
        around = ndimage.binary_dilation(dilated & ~edge, np.ones((3, 3)))
        under = (edge & dilated).sum()
        best[0] = max(best[0], (under + extra) / edge.sum() * 360)
        best[1] = max(best[1], (under + (rest & around).sum()) / edge.sum() * 360)
    return best


def slow_vi(volumes: CaseVolumes, *, official: bool) -> list[float]:
    """VI of each vessel there is, from a case whose arrays are the whole volume."""
    assert volumes.vessels is not None
    distance = official_distance if official else exact_distance
    found = []
    for label in VESSELS:
        vessel = volumes.vessels == label
        if vessel.any():
            angles = np.array([slow_angles(vessel, lesion, official=official) for lesion in lesions_of(volumes)]).T
            n = len(volumes.raters)
            found.append(float(np.mean([distance(plane[:n], plane[n:]) for plane in angles])))
    return found


@st.composite
def whole_volumes(draw: st.DrawFn) -> CaseVolumes:
    """A small whole volume, of noise or of blocks."""
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    n_raters = draw(st.integers(1, 3))
    kinds = st.sampled_from(["noise", "blocks"])

    def blocks(values: int) -> npt.NDArray[np.uint8]:
        array = np.zeros(shape, dtype=np.uint8)
        for _ in range(draw(st.integers(0, 3))):
            ends = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
            array[tuple(slice(a, b) for a, b in ends)] = draw(st.integers(0, values - 1))
        return array

    def some(values: int) -> npt.NDArray[np.uint8]:
        if draw(kinds) == "blocks":
            return blocks(values)
        return draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, values - 1)))

    return CaseVolumes(
        codes=SCORES.view(np.uint16)[some(len(SCORES))],
        raters=tuple(f"r{rater}" for rater in range(n_raters)),
        votes=some(1 << n_raters),
        vessels=some(3),
        shape=shape,
    )


@settings(max_examples=150)
@given(volumes=whole_volumes())
def test_angles_pixel_by_pixel(volumes: CaseVolumes) -> None:
    assert volumes.vessels is not None
    boxes = vessel_boxes(volumes.vessels)
    assert set(boxes) == set(np.unique(volumes.vessels).tolist()) - {0}
    for label, box in boxes.items():
        vessel = volumes.vessels == label
        found = contact_angles(volumes, label, box)
        for official, angles in ((True, found.official), (False, found.exact)):
            expected = [slow_angles(vessel, lesion, official=official) for lesion in lesions_of(volumes)]
            np.testing.assert_allclose(angles, np.array(expected).T, rtol=1e-12)
        by_scipy = [[scipy_angles(vessel, lesion, axis) for axis in range(3)] for lesion in lesions_of(volumes)]
        both = np.stack([found.official, found.exact], axis=-1)
        np.testing.assert_allclose(both, np.swapaxes(by_scipy, 0, 1), rtol=1e-12)


@settings(max_examples=60)
@given(volumes=whole_volumes())
def test_vi_is_the_mean_over_planes_and_vessels(volumes: CaseVolumes) -> None:
    for metric, official in ((VI_OFFICIAL, True), (VI_EXACT, False)):
        expected = slow_vi(volumes, official=official)
        result = metric(volumes)
        if expected:
            assert isinstance(result, Noted)
            assert result.value == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-9)
        else:
            assert isinstance(result, Undefined)


@settings(max_examples=100)
@given(volumes=whole_volumes(), data=st.data(), background=st.sampled_from([0.0, 0.3, 0.9]))
def test_cropping_changes_nothing(volumes: CaseVolumes, data: st.DataObject, background: float) -> None:
    """The written box of a larger volume, with one voxel around it where there is one, gives what the whole gives."""
    votes, vessels = volumes.votes, volumes.vessels
    assert votes is not None
    assert vessels is not None
    ends = [data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4))) for _ in range(3)]
    code = int(np.float16(background).view(np.uint16))
    z, y, x = shape = tuple(sum(pair) + size for pair, size in zip(ends, volumes.codes.shape, strict=True))
    whole = replace(
        volumes,
        shape=(z, y, x),
        codes=np.pad(volumes.codes, ends, constant_values=code),
        votes=np.pad(votes, ends),
        vessels=np.pad(vessels, ends),
        background_code=code,
    )
    sz, sy, sx = start = tuple(max(0, before - 1) for before, _ in ends)
    part = tuple(
        slice(first, min(size, before + n + 1))
        for first, size, (before, _), n in zip(start, shape, ends, volumes.codes.shape, strict=True)
    )
    assert whole.votes is not None
    assert whole.vessels is not None
    cropped = replace(
        whole, codes=whole.codes[part], votes=whole.votes[part], vessels=whole.vessels[part], start=(sz, sy, sx)
    )
    for metric, official in ((VI_OFFICIAL, True), (VI_EXACT, False)):
        assert metric(cropped) == metric(whole)
        expected = slow_vi(whole, official=official)
        if expected:
            result = metric(cropped)
            assert isinstance(result, Noted)
            assert result.value == pytest.approx(np.mean(expected), rel=1e-9, abs=1e-9)


def test_a_map_changes_scores_beyond_the_box_too() -> None:
    # A vessel in a corner of the box; the map makes a lesion of the background.
    vessels = np.zeros((3, 3, 3), dtype=np.uint8)
    vessels[1, 1, 1] = 1
    votes = np.zeros_like(vessels)
    box = CaseVolumes(
        codes=np.zeros((3, 3, 3), np.uint16),
        raters=("a",),
        votes=votes,
        vessels=vessels,
        values=np.full(15361, 0.5),
        start=(4, 4, 4),
        shape=(20, 20, 20),
    )
    whole = replace(
        box,
        codes=np.zeros((20, 20, 20), np.uint16),
        votes=np.pad(votes, [(4, 13)] * 3),
        vessels=np.pad(vessels, [(4, 13)] * 3),
        start=(0, 0, 0),
    )
    assert VI_EXACT(box) == VI_EXACT(whole)
    found = contact_angles(box, 1, vessel_boxes(vessels)[1])
    np.testing.assert_array_equal(found.exact, [[0, 360, 360, 360, 0, 0, 0]] * 3)


def test_made_up_case_against_scipy(case_maker: Callable[..., CaseVolumes]) -> None:
    volumes = case_maker((24, 48, 52), 9, 4)
    assert volumes.vessels is not None
    for label, box in vessel_boxes(volumes.vessels).items():
        vessel = volumes.vessels == label
        expected = np.array([[scipy_angles(vessel, m, axis) for axis in range(3)] for m in lesions_of(volumes)])
        found = contact_angles(volumes, label, box)
        for place, both in enumerate((found.official, found.exact)):
            assert both.max() > 30
            np.testing.assert_allclose(both, expected[:, :, place].T, rtol=1e-12)


def plane(vessel: Any, lesion: Any, *, official: bool) -> float:
    """Angle in a volume of one slice, seen along z."""
    vessels = np.array(vessel, np.uint8)[np.newaxis]
    volumes = CaseVolumes(
        codes=np.zeros(vessels.shape, np.uint16),
        raters=("a",),
        votes=np.array(lesion, np.uint8)[np.newaxis],
        vessels=vessels,
    )
    found = contact_angles(volumes, 1, vessel_boxes(vessels)[1])
    return float((found.official if official else found.exact)[0, 0])


def test_an_angle_above_360() -> None:
    vessel, lesion = np.zeros((2, 6, 6), dtype=np.uint8)
    vessel[1, 1] = 1
    lesion[1, 3] = lesion[3, 1] = 1  # dilated, they lie to the right, below, and below right
    assert plane(vessel, lesion, official=False) == 360
    lesion[2, 3] = 1
    assert plane(vessel, lesion, official=True) == 4 * 360


def test_official_does_not_look_to_the_left_or_above() -> None:
    vessel, lesion = np.zeros((2, 6, 6), dtype=np.uint8)
    vessel[3, 3] = 1
    lesion[3, 1] = lesion[1, 3] = lesion[1, 4] = 1
    assert plane(vessel, lesion, official=True) == 0
    assert plane(vessel, lesion, official=False) == 360


def test_the_border_of_the_volume_is_an_edge() -> None:
    vessel = np.ones((3, 3), dtype=np.uint8)
    lesion = np.zeros_like(vessel)
    lesion[1, 1] = 1
    # Eight pixels of edge, four of them under the dilated lesion; the dilated lesion off the edge is the middle.
    assert plane(vessel, lesion, official=True) == pytest.approx((4 + 1) / 8 * 360)
    assert plane(vessel, lesion, official=False) == 360


def angles(*values: float) -> npt.NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


@given(
    a=st.lists(st.floats(0, 700), min_size=1, max_size=6),
    b=st.lists(st.floats(0, 360), min_size=1, max_size=6),
)
def test_official_distance_against_scipy(a: list[float], b: list[float]) -> None:
    grid = np.linspace(0, 360, 1000)
    densities = [norm.pdf(grid, np.mean(x), np.std(x) + 1e-6) for x in (a, b)]
    if all(density.sum() > 0 for density in densities):
        expected = wasserstein_distance(grid, grid, *(density / density.sum() for density in densities))
        assert official_distance(np.array(a), np.array(b)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(mean=st.floats(-10, 800), spread=st.floats(1e-6, 200))
def test_densities_vanish_where_scipy_s_do(mean: float, spread: float) -> None:
    grid = np.linspace(0, 360, 1000)
    with np.errstate(under="ignore"):
        expected = norm.pdf(grid, mean, spread)
    found = _density(mean, spread)
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)


def test_both_densities_vanish() -> None:
    # Two narrow ones between grid points: 100 and 210 are none.
    assert official_distance(angles(100, 100), angles(210, 210)) == 0
    assert exact_distance(angles(100, 100), angles(210, 210)) == pytest.approx(110)


def test_only_the_prediction_s_density_vanishes() -> None:
    assert official_distance(angles(50, 150), angles(210, 210)) == 360
    # No contact at all, as all raters see it, is a spike on the grid point 0; 360 is one too.
    assert official_distance(angles(0, 0), angles(210, 210)) == 0
    assert official_distance(angles(360, 360), angles(210, 210)) == pytest.approx(360)
    assert official_distance(angles(120, 120), angles(210, 210)) == pytest.approx(120)  # 333 steps of 360 / 999


def test_only_the_raters_density_vanishes() -> None:
    assert official_distance(angles(210, 210), angles(50, 150)) == 360
    assert official_distance(angles(210, 210), angles(0, 0)) == 360  # a spike is not treated alike
    assert exact_distance(angles(210, 210), angles(0, 0)) == pytest.approx(210)


@given(
    a=st.lists(st.floats(0, 360), min_size=1, max_size=6),
    b=st.lists(st.floats(0, 360), min_size=1, max_size=6),
)
def test_exact_distance_is_the_integral(a: list[float], b: list[float]) -> None:
    (m1, s1), (m2, s2) = ((float(np.mean(x)), float(np.std(x)) + 1e-6) for x in (a, b))
    found = exact_distance(np.array(a), np.array(b))
    if min(s1, s2) < 0.01:  # the integral of so steep a function is not
        if s1 == s2:
            assert found == pytest.approx(abs(m1 - m2))
        return
    wide = 12 * max(s1, s2)
    low, high = min(m1, m2) - wide, max(m1, m2) + wide
    crossing = [(m1 * s2 - m2 * s1) / (s2 - s1)] if s1 != s2 else []
    spots = (m + k * s for m, s in ((m1, s1), (m2, s2)) for k in (-6, -2, 0, 2, 6))
    breaks = sorted({low, high, *(min(max(x, low), high) for x in (*crossing, *spots))})
    pieces = [
        quad(lambda x: abs(norm.cdf(x, m1, s1) - norm.cdf(x, m2, s2)), p, q)[0] for p, q in itertools.pairwise(breaks)
    ]
    assert found == pytest.approx(math.fsum(pieces), rel=1e-7, abs=1e-7)


@pytest.fixture
def volumes(case_maker: Callable[..., CaseVolumes]) -> CaseVolumes:
    return case_maker((16, 40, 40), 7, 3)


@pytest.mark.parametrize("metric", [VI_OFFICIAL, VI_EXACT])
def test_one_vessel_by_label_or_name(metric: VolumeMetric, volumes: CaseVolumes) -> None:
    assert metric.with_argument is not None
    found = []
    for label, name in VESSELS.items():
        one = metric.with_argument(name)
        assert one.name == metric.with_argument(str(label)).name == f"{metric.name}:{name}"
        assert one.needs == ("votes", "vessels")
        found.append(one(volumes))
    assert metric(volumes) == pytest.approx(np.mean(np.array(found, dtype=np.float64)), rel=1e-12)
    for wrong in ("6", "0", "", "liver", "01"):
        with pytest.raises(RequestError, match="there is no vessel"):
            metric.with_argument(wrong)


def test_absent_vessels_are_noted(volumes: CaseVolumes) -> None:
    assert volumes.vessels is not None
    assert VI_EXACT.with_argument is not None
    fewer = replace(volumes, vessels=np.where(volumes.vessels == 4, 0, volumes.vessels).astype(np.uint8))
    result = VI_EXACT(fewer)
    assert isinstance(result, Noted)
    assert result.note == "without 4 celiac_trunk, which the vessel map does not hold"
    gone = VI_EXACT.with_argument("4")(fewer)
    assert isinstance(gone, Undefined)
    assert gone.why == "the vessel map does not hold 4 celiac_trunk"
    none = VI_EXACT(replace(volumes, vessels=np.zeros_like(volumes.vessels)))
    assert isinstance(none, Undefined)
    assert "1 portal_vein, 2 smv, 3 aorta, 4 celiac_trunk, 5 sma" in none.why


def test_other_labels_are_refused(volumes: CaseVolumes) -> None:
    assert volumes.vessels is not None
    vessels = volumes.vessels.copy()
    vessels[0, 0, 0] = 7
    for metric in (VI_OFFICIAL, VI_EXACT):
        with pytest.raises(RequestError, match="holds the label 7"):
            metric(replace(volumes, vessels=vessels))


def test_without_raters_or_vessels(volumes: CaseVolumes) -> None:
    for lacking in (replace(volumes, votes=None), replace(volumes, vessels=None)):
        assert isinstance(VI_OFFICIAL(lacking), Undefined)


def test_eight_raters(case_maker: Callable[..., CaseVolumes]) -> None:
    volumes = case_maker((8, 30, 30), 6, 3, 8)
    for metric, official in ((VI_OFFICIAL, True), (VI_EXACT, False)):
        assert metric(volumes) == pytest.approx(np.mean(slow_vi(volumes, official=official)), rel=1e-9)
