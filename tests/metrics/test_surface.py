"""Borders and their distances against brute force, closed forms and other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

from twintrack_core import metrics
from twintrack_core.codes import CODE_VALUES, encode
from twintrack_core.errors import PluginError, RequestError
from twintrack_core.metrics import CaseVolumes, Result, Undefined, VolumeMetric
from twintrack_core.metrics.surface import border_distances
from twintrack_core.metrics.volumes import extent

Mask = npt.NDArray[np.bool_]
Spacing = tuple[float, float, float]

SPACINGS: list[Spacing] = [(1.0, 1.0, 1.0), (3.0, 1.0, 0.7), (0.5, 2.0, 1.3)]


def volumes_of(predicted: Mask, marked: Mask, spacing: Spacing = (1.0, 1.0, 1.0), **more: Any) -> CaseVolumes:
    """Scores of 0.75 and one rater's marks."""
    codes = encode(np.where(predicted, 0.75, 0.0))
    return CaseVolumes(codes, ("ann",), marked.astype(np.uint8), spacing_mm=spacing, **more)


def value(name: str, volumes: CaseVolumes) -> Result:
    metric = metrics.get(name)
    assert isinstance(metric, VolumeMetric)
    return metric(volumes)


def box(shape: tuple[int, int, int], *sides: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def border(mask: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1)))


def brute_force(predicted: Mask, marked: Mask, spacing: Spacing) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    points = [np.argwhere(border(mask)) * np.asarray(spacing) for mask in (predicted, marked)]
    distances = cdist(*points)
    return distances.min(axis=1), distances.min(axis=0)


masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape))
)


@settings(max_examples=150)
@given(pair=masks, spacing=st.sampled_from(SPACINGS), tolerance=st.sampled_from(["0", "1", "2.1", "3"]))
def test_any_two_masks_against_all_distances(pair: tuple[Mask, Mask], spacing: Spacing, tolerance: str) -> None:
    predicted, marked = pair
    volumes = volumes_of(predicted, marked, spacing)
    dice, hausdorff = value(f"surface_dice:0.5:{tolerance}", volumes), value("hausdorff95", volumes)
    if not predicted.any() or not marked.any():
        assert isinstance(hausdorff, Undefined)
        assert isinstance(dice, Undefined) if not predicted.any() and not marked.any() else dice == 0.0
        return
    expected = brute_force(predicted, marked, spacing)
    for found, wanted in zip(border_distances(predicted, marked, spacing), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    near = sum(int((side <= float(tolerance) + 1e-9).sum()) for side in expected)
    assert dice == near / sum(map(len, expected))
    assert hausdorff == pytest.approx(max(np.percentile(side, 95) for side in expected), rel=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 3)])
def test_two_boxes_shifted_along_an_axis(spacing: Spacing, shift: tuple[int, int, int]) -> None:
    # Wide boxes: more than 5 % of the border, that of the leading face, is as far away as the boxes were shifted.
    first = box((14, 24, 24), (2, 8), (2, 16), (2, 16))
    second = np.roll(first, shift, (0, 1, 2))
    length = max(n * mm for n, mm in zip(shift, spacing, strict=True))
    volumes = volumes_of(first, second, spacing)
    assert value("hausdorff95", volumes) == pytest.approx(length, rel=1e-12, abs=0)
    assert value(f"surface_dice:0.5:{length:.3f}", volumes) == 1.0  # exactly that far is within it
    both = int((border(first) & border(second)).sum())
    assert value("surface_dice:0.5:0", volumes) == both / int(border(first).sum())


def test_a_plate_apart_from_a_plate() -> None:
    shape = (9, 6, 5)
    volumes = volumes_of(box(shape, (1, 2), (0, 6), (0, 5)), box(shape, (7, 8), (0, 6), (0, 5)), (2.5, 1.0, 1.0))
    assert value("hausdorff95", volumes) == 15.0
    assert value("surface_dice:0.5:15", volumes) == 1.0
    assert value("surface_dice:0.5:14.999", volumes) == 0.0


def test_a_filled_volume_has_the_border_of_the_volume() -> None:
    full, hollow = np.ones((5, 6, 7), dtype=bool), np.ones((5, 6, 7), dtype=bool)
    hollow[2, 3, 3] = False
    border_voxels = 5 * 6 * 7 - 3 * 4 * 5
    assert value("surface_dice:0.5:0", volumes_of(full, full)) == 1.0
    found = border_distances(full, hollow, (1.0, 1.0, 1.0))
    assert len(found.predicted) == border_voxels
    assert len(found.marked) == border_voxels + 6  # the hole's neighbours, none of which lies at the outside


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_distance_is_that_of_simpleitk(seed: int) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK measures Hausdorff distances")
    rng = np.random.default_rng(seed)
    spacing = SPACINGS[seed % len(SPACINGS)]
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 16, 24, 28)), (0, 2, 2, 2))
    predicted, marked = noise[0] > 0.02, noise[0] + 0.4 * noise[1] > 0.03
    images = [sitk.GetImageFromArray(border(mask).astype(np.uint8)) for mask in (predicted, marked)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    oracle = sitk.HausdorffDistanceImageFilter()
    oracle.Execute(*images)
    found = border_distances(predicted, marked, spacing)
    assert max(side.max() for side in found) == pytest.approx(oracle.GetHausdorffDistance(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:monai:FutureWarning")  # it passes itself arguments that it deprecates
@pytest.mark.parametrize("seed", range(4))
def test_both_metrics_are_those_of_monai(seed: int) -> None:
    monai = pytest.importorskip("monai.metrics", reason="MONAI has both metrics")
    import torch

    rng = np.random.default_rng(seed)
    spacing = SPACINGS[seed % len(SPACINGS)]
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 16, 24, 28)), (0, 2, 2, 2))
    predicted, marked = noise[0] > 0.02, noise[0] + 0.4 * noise[1] > 0.03
    tensors = [torch.from_numpy(mask[np.newaxis, np.newaxis].astype(np.float32)) for mask in (predicted, marked)]
    volumes = volumes_of(predicted, marked, spacing)
    theirs = monai.compute_hausdorff_distance(
        *tensors, include_background=True, percentile=95, spacing=spacing, directed=False
    )
    assert value("hausdorff95", volumes) == pytest.approx(float(theirs), rel=1e-5)
    # Between the distances there are, which MONAI has in float32.
    theirs = monai.compute_surface_dice(*tensors, [1.1], include_background=True, spacing=spacing)
    assert value("surface_dice:0.5:1.1", volumes) == pytest.approx(float(theirs), rel=1e-6)


def test_the_threshold_is_that_of_both_and_strict() -> None:
    scores = np.zeros((3, 4, 5))
    scores[1, 1, 1:4] = 0.25, 0.5, 0.75
    votes = np.zeros((3, 4, 5), dtype=np.uint8)
    votes[1, 1, 1:4] = 0b0001, 0b0011, 0b0111
    volumes = CaseVolumes(encode(scores), ("a", "b", "c", "d"), votes)
    for threshold, above in ((0.0, [1, 1, 1]), (0.25, [0, 1, 1]), (0.3, [0, 1, 1]), (0.5, [0, 0, 1]), (0.75, [0] * 3)):
        assert volumes.above(threshold)[1, 1].tolist() == [False, *map(bool, above), False]
        np.testing.assert_array_equal(volumes.mhr_above(threshold), volumes.above(threshold))
        expected = (
            1.0 if any(above) else Undefined(f"neither score nor mean human response is above {threshold:g} anywhere")
        )
        assert value(f"surface_dice:{threshold}:0", volumes) == expected
    assert value("surface_dice", volumes) == 1.0


def test_a_set_that_is_empty() -> None:
    some, none = box((4, 5, 6), (1, 2), (1, 3), (1, 3)), np.zeros((4, 5, 6), dtype=bool)
    for predicted, marked in ((some, none), (none, some)):
        volumes = volumes_of(predicted, marked)
        assert value("surface_dice", volumes) == 0.0
        found = value("hausdorff95", volumes)
        assert isinstance(found, Undefined)
        assert "only one" in found.why
    for name in ("surface_dice", "hausdorff95"):
        found = value(name, volumes_of(none, none))
        assert isinstance(found, Undefined)
        assert "neither" in found.why
        assert value(name, CaseVolumes(encode(np.zeros((2, 2, 2))))) == Undefined("there are no raters")


def test_a_background_above_the_threshold_has_no_border_in_the_box() -> None:
    some = box((4, 5, 6), (1, 2), (1, 3), (1, 3))
    lifted = np.where(CODE_VALUES < 0.25, 0.25, CODE_VALUES)
    cropped = volumes_of(some, some, shape=(40, 50, 60), start=(3, 3, 3), values=lifted)
    for name in ("surface_dice", "hausdorff95"):
        assert value(name, cropped) == (1.0 if name == "surface_dice" else 0.0)
        found = value(f"{name}:0.2", cropped)
        assert isinstance(found, Undefined)
        assert "0.25, above 0.2" in found.why
    whole = volumes_of(some, some, values=lifted)  # here there is no beyond
    assert isinstance(value("hausdorff95:0.2", whole), float)


def test_where_a_case_was_cropped_does_not_show() -> None:
    rng = np.random.default_rng(0)
    spacing = (0.7, 0.3, 1.1)
    shape = (30, 40, 50)
    inner = (slice(11, 20), slice(7, 30), slice(13, 41))
    predicted, marked = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    predicted[inner], marked[inner] = rng.random((2, 9, 23, 28)) > 0.98
    whole = volumes_of(predicted, marked, spacing)
    for margin in (0, 1, 5):
        part = tuple(slice(side.start - margin, side.stop + margin) for side in inner)
        start = (inner[0].start - margin, inner[1].start - margin, inner[2].start - margin)
        cropped = volumes_of(predicted[part], marked[part], spacing, start=start, shape=shape)
        for name in ("surface_dice", "surface_dice:0.5:0.7", "hausdorff95"):
            assert value(name, cropped) == value(name, whole)  # to the last bit


@pytest.mark.parametrize(
    "name",
    [
        "surface_dice:",
        "surface_dice:1",
        "surface_dice:-0.1",
        "surface_dice:nan",
        "surface_dice:0.5:",
        "surface_dice:0.5:-1",
        "surface_dice:0.5:inf",
        "surface_dice:0.5:1:1",
        "surface_dice:half",
        "hausdorff95:0.5:1",
        "hausdorff95:1.0",
        "hausdorff95:1e-1",
    ],
)
def test_arguments_there_cannot_be(name: str) -> None:
    with pytest.raises(RequestError, match=r"(?s)cannot be taken at.*Allowed: .*:T"):
        metrics.get(name)


def test_names_units_and_what_is_not_asked_for() -> None:
    assert [metric.name for metric in metrics.resolve(["surface_dice:0.3", "surface_dice:0.3:2", "hausdorff95:0"])] == [
        "surface_dice:0.3",
        "surface_dice:0.3:2",
        "hausdorff95:0",
    ]
    assert {"surface_dice", "hausdorff95"} <= set(metrics.names())
    assert not any(isinstance(metric, VolumeMetric) for metric in metrics.resolve(None))
    dice = metrics.get("surface_dice:0.3:2")
    assert isinstance(dice, VolumeMetric)
    assert "0.3 within 2 mm" in dice.description


def test_distances_are_taken_once_for_several_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    from twintrack_core.metrics import surface

    calls: list[int] = []
    real = surface.border_distances

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(surface, "border_distances", counted)
    some = box((4, 5, 6), (1, 2), (1, 3), (1, 3))
    volumes = volumes_of(some, some)
    for name in ("surface_dice", "surface_dice:0.5:3", "hausdorff95"):
        value(name, volumes)
    assert len(calls) == 1
    value("hausdorff95:0.3", volumes)
    assert len(calls) == 2


def test_views_of_volumes_against_plain_numpy() -> None:
    rng = np.random.default_rng(3)
    shape = (5, 6, 7)
    values = np.sort(rng.random(len(CODE_VALUES)))
    codes = rng.integers(0, len(CODE_VALUES), shape, dtype=np.uint16)
    votes = rng.integers(0, 256, shape, dtype=np.uint8)
    raters = tuple("abcdefgh")
    volumes = CaseVolumes(codes, raters, votes, values=values)
    np.testing.assert_array_equal(volumes.scores(), values[codes].astype(np.float32))
    bits = np.stack([votes >> r & 1 for r in range(8)]).astype(bool)
    for r, rater in enumerate(raters):
        np.testing.assert_array_equal(volumes.marked_by(rater), bits[r])
    for threshold in (-1.0, 0.0, 0.125, 0.3, 0.5, 0.875, 0.99, 1.0, float(values[77])):
        np.testing.assert_array_equal(volumes.above(threshold), values[codes] > threshold)
        np.testing.assert_array_equal(volumes.mhr_above(threshold), bits.mean(axis=0) > threshold)
    assert volumes.shape == shape
    assert volumes.is_whole
    assert volumes.background == values[0]


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_the_extent_of_a_mask(mask: Mask) -> None:
    found = extent(mask)
    places = np.argwhere(mask)
    if not len(places):
        assert found is None
        return
    assert found == tuple(slice(a, b + 1) for a, b in zip(places.min(axis=0), places.max(axis=0), strict=True))


def test_a_rater_there_is_not_makes_a_metric_undefined() -> None:
    def metric(function: Callable[[CaseVolumes], Result]) -> VolumeMetric:
        return VolumeMetric(
            name="x", function=function, unit="1", better="lower", range=(0, 1), description="x", source="x"
        )

    some = np.ones((2, 2, 2), dtype=bool)
    volumes = volumes_of(some, some)
    assert metric(lambda v: float(v.marked_by("bob").sum()))(volumes) == Undefined("there is no rater 'bob'")
    with pytest.raises(PluginError, match="'x' failed"):
        metric(lambda v: float("x"))(volumes)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"codes": np.zeros((2, 3), np.uint16)}, r"codes is \(2, 3\)"),
        ({"codes": np.zeros((2, 3, 4), np.int64)}, "codes is int64"),
        ({"codes": np.full((2, 3, 4), 15361, np.uint16)}, "codes is 15361"),
        ({"background_code": -1}, "background_code is -1"),
        ({"background_code": 15361}, "background_code is 15361"),
        ({"votes": np.zeros((2, 3, 5), np.uint8)}, r"votes is \(2, 3, 5\)"),
        ({"votes": np.zeros((2, 3, 4), bool)}, "votes is bool"),
        ({"vessels": np.zeros((2, 3, 4), np.int16)}, "vessels is int16"),
        ({"raters": ()}, "raters is"),
        ({"raters": tuple("abcdefghi")}, "raters is"),
        ({"values": np.zeros(3)}, r"values is \(3,\)"),
        ({"values": CODE_VALUES[::-1]}, "non-decreasing"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm is"),
        ({"start": (0, 0, 1)}, "start is"),
        ({"shape": (2, 3, 3)}, "start is"),
        ({"start": (-1, 0, 0), "shape": (9, 9, 9)}, "start is"),
    ],
)
def test_arrays_that_are_no_case(wrong: dict[str, Any], words: str) -> None:
    fine: dict[str, Any] = {
        "codes": np.zeros((2, 3, 4), np.uint16),
        "raters": ("ann",),
        "votes": np.zeros((2, 3, 4), np.uint8),
    }
    CaseVolumes(**fine)
    with pytest.raises(RequestError, match=words):
        CaseVolumes(**{**fine, **wrong})
