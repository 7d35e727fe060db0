from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d

from twintrack_core.array_types import array_types, register_array_type
from twintrack_core.codes import CODE_VALUES, N_CODES, encode
from twintrack_core.errors import InvalidScoresError, MapError, RequestError, WorkError
from twintrack_core.maps import CalibrationMap, load_map, output_dtype


def curve(score: Any, value: Any, **provenance: Any) -> CalibrationMap:
    return CalibrationMap(np.array(score, dtype=np.float64), np.array(value, dtype=np.float64), **provenance)


FULL = curve(
    [0.1, 0.30000000000000004, 0.9],
    [0.0, 1 / 3, 0.75],
    calibrator="isotonic",
    parameters={"b": [1, 2.5, None], "a": {"x": "ü"}},
    target="mhr",
    roi="raters+20",
    raters=("ann", "bob"),
    cases=("case 1", "Fälle"),
    voxels=2**53 + 1,
    statistics="ab" * 32,
    package_version="0.1.0",
)

BAND = curve(
    [0.1, 0.5, 0.9], [0.25, 0.25, 0.75], lower=[0.0, 0.125, 0.75], upper=[0.25, 0.5, 1.0], calibrator="venn_abers"
)

units = st.floats(0, 1)


@st.composite
def random_maps(draw: st.DrawFn) -> CalibrationMap:
    score = draw(st.lists(units, min_size=1, max_size=8, unique=True))
    value = draw(st.lists(units, min_size=len(score), max_size=len(score)))
    if draw(st.booleans()):
        return curve(sorted(score), sorted(value))
    columns = [sorted(draw(st.lists(units, min_size=len(score), max_size=len(score)))) for _ in range(3)]
    lower, middle, upper = np.sort(columns, axis=0)
    return curve(sorted(score), middle, lower=lower, upper=upper)


@given(random_maps())
def test_the_table_interpolates_between_knots_and_is_constant_beyond(calibration: CalibrationMap) -> None:
    score, value = calibration.score, calibration.value
    table = calibration.table
    assert table.shape == (N_CODES,)
    assert not table.flags.writeable
    assert table.min() >= value[0]
    assert table.max() <= value[-1]
    if len(score) == 1:
        assert (table == value[0]).all()
    elif np.diff(score).min() > 1e-6:  # closer knots make SciPy's slope, not ours, inexact
        inside = np.clip(CODE_VALUES, score[0], score[-1])
        np.testing.assert_allclose(table, interp1d(score, value)(inside), rtol=0, atol=1e-9)


@given(random_maps())
def test_the_table_rounds_once_to_every_dtype(calibration: CalibrationMap) -> None:
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(calibration.table_as(dtype), calibration.table.astype(dtype))
    np.testing.assert_array_equal(calibration.table_as("uint8"), np.round(255 * calibration.table))
    np.testing.assert_array_equal(calibration.codes, calibration.table_as(np.float16).view(np.uint16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_it_returns_the_dtype_that_came_in(dtype: Any) -> None:
    scores = np.random.default_rng(0).random((3, 4, 5)).astype(dtype)
    found = FULL(scores)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, FULL.table[encode(scores)].astype(dtype))
    swapped = scores.astype(np.dtype(dtype).newbyteorder(">"))
    np.testing.assert_array_equal(FULL(swapped), found)
    assert FULL(scores, dtype=np.uint8).dtype == np.uint8
    np.testing.assert_array_equal(FULL(scores[:, ::2].T), found[:, ::2].T)


def test_uint8_scores_become_float32_unless_asked() -> None:
    scores = np.arange(256, dtype=np.uint8)
    found = FULL(scores)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, FULL.table[encode(scores)].astype(np.float32))
    assert FULL(scores, dtype="float64").dtype == np.float64


def test_numbers_and_lists_work_as_in_numpy() -> None:
    identity = curve([0, 1], [0, 1])
    found = identity(0.5)
    assert found == 0.5
    assert isinstance(found, np.float64)
    assert isinstance(identity(np.float32(0.5)), np.float32)
    assert identity([0, 1]).tolist() == [0.0, 1.0]
    assert identity([[0.25], [1]]).shape == (2, 1)
    assert identity(1) == 1
    assert identity([]).shape == (0,)


def test_members_are_averaged_first() -> None:
    members = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    mean = members[0].copy()
    for member in members[1:]:
        mean += member
    np.testing.assert_array_equal(FULL(members, members=True), FULL(mean / np.float32(3)))


def test_invalid_scores_are_refused_unless_a_policy_says_what_they_are() -> None:
    scores = np.array([0.5, -0.5, np.nan, 2.0])
    with pytest.raises(InvalidScoresError, match="3 of 4"):
        FULL(scores)
    with pytest.raises(InvalidScoresError, match="1 of 4"):
        FULL(scores, on_invalid="clip")
    np.testing.assert_array_equal(FULL(scores[[0, 1, 3]], on_invalid="clip"), FULL(np.array([0.5, 0.0, 1.0])))
    np.testing.assert_array_equal(FULL(scores, on_invalid="exclude"), [FULL(0.5), np.nan, np.nan, np.nan])
    with pytest.raises(RequestError):
        FULL(scores, on_invalid="exclude", dtype=np.uint8)


@pytest.mark.parametrize("scores", [np.array([1, 2]), np.array([True]), "0.5", None, {0.5}, np.array(["a"]), 1j])
def test_what_is_no_score_is_refused(scores: Any) -> None:
    with pytest.raises(RequestError, match="Allowed"):
        FULL(scores)


def test_other_dtypes_cannot_be_produced() -> None:
    for dtype in (np.int16, bool, "complex64"):
        with pytest.raises(RequestError, match="Allowed: float16"):
            FULL(0.5, dtype=dtype)
        with pytest.raises(RequestError, match="Allowed: float16"):
            output_dtype(dtype)
    assert output_dtype(">f2") == np.float16
    assert output_dtype("uint8") == np.float32
    assert output_dtype("uint8", "float64") == np.float64


class Foreign:
    """An array of a library the package does not know."""

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values


Foreign.__module__ = "far_away.arrays"


@pytest.fixture
def _no_types() -> Iterator[None]:
    registered = dict(array_types)
    array_types.clear()
    yield
    array_types.clear()
    array_types.update(registered)


@pytest.mark.usefixtures("_no_types")
def test_libraries_register_their_arrays() -> None:
    scores = np.array([0.25, 0.5])
    with pytest.raises(RequestError, match=r"type far_away.arrays.Foreign\.\nAllowed: NumPy arrays, lists, numbers\."):
        FULL(Foreign(scores))

    def apply(calibration: CalibrationMap, array: Any, /, **options: Any) -> Foreign:
        assert options == {"members": False, "dtype": "float32", "on_invalid": "clip"}
        return Foreign(calibration(array.values, **options))

    register_array_type("far_away", apply)
    found = FULL(Foreign(scores), dtype="float32", on_invalid="clip")
    assert isinstance(found, Foreign)
    np.testing.assert_array_equal(found.values, FULL(scores).astype(np.float32))
    with pytest.raises(RequestError, match=r"MaskedArray.*\nAllowed: .*far_away arrays"):
        FULL(np.ma.masked_array(scores))


@given(random_maps())
def test_json_gives_back_the_map(calibration: CalibrationMap) -> None:
    text = calibration.to_json()
    again = CalibrationMap.from_json(text)
    assert again == calibration
    assert hash(again) == hash(calibration)
    assert again.to_json() == text
    assert again.digest() == calibration.digest()
    np.testing.assert_array_equal(again.table, calibration.table)
    for one, two in ((again.lower, calibration.lower), (again.upper, calibration.upper)):
        np.testing.assert_array_equal(one, two)


def test_the_text_is_readable_and_holds_everything() -> None:
    text = FULL.to_json()
    document = json.loads(text)
    assert list(document) == sorted(document)
    assert document["knots"] == [[0.1, 0.0], [0.30000000000000004, 1 / 3], [0.9, 0.75]]
    assert (document["format"], document["version"]) == ("calibration-map", 1)
    assert document["voxels"] == 2**53 + 1
    assert "\n    [0.1, 0.0],\n    [0.30000000000000004, 0.3333333333333333],\n    [0.9, 0.75]\n  ],\n" in text
    assert CalibrationMap.from_json(text).cases == ("case 1", "Fälle")
    assert repr(FULL) == f"<CalibrationMap: isotonic to mhr, 3 knots, from {2**53 + 1} voxels of 2 cases>"


def test_a_band_is_two_more_numbers_at_every_knot() -> None:
    text = BAND.to_json()
    assert json.loads(text)["knots"] == [[0.1, 0.25, 0.0, 0.25], [0.5, 0.25, 0.125, 0.5], [0.9, 0.75, 0.75, 1.0]]
    assert json.loads(text)["version"] == 1
    assert "\n    [0.5, 0.25, 0.125, 0.5],\n" in text
    assert repr(BAND) == "<CalibrationMap: venn_abers to nothing, 3 knots with a band, from 0 voxels of 0 cases>"


def test_a_map_without_a_band_keeps_its_bytes() -> None:
    assert curve([0.25], [1]).to_json() == (
        '{\n  "calibrator": "",\n  "cases": [],\n  "format": "calibration-map",\n  "knots": [\n    [0.25, 1.0]\n  ],\n'
        '  "package_version": "",\n  "parameters": {},\n  "raters": [],\n  "roi": null,\n  "statistics": "",\n'
        '  "target": "",\n  "version": 1,\n  "voxels": 0\n}\n'
    )


def test_equality_sees_the_band() -> None:
    document = json.loads(BAND.to_json())
    others = [[[s, v] for s, v, _, _ in document["knots"]]]
    for column, number in ((2, 0.0625), (3, 0.3)):
        others.append(json.loads(json.dumps(document["knots"])))
        others[-1][1][column] = number
    found = [CalibrationMap.from_json(json.dumps(document | {"knots": knots})) for knots in others]
    assert all(other != BAND for other in found)
    assert len({BAND, *found}) == len({BAND.digest(), *(other.digest() for other in found)}) == 4


def test_a_bound_is_a_map_of_its_own() -> None:
    fitted = curve(
        [0.2, 0.4], [0.5, 0.75], lower=[0.25, 0.5], upper=[0.5, 1.0], parameters={"bins": 3}, raters=("ann",), voxels=9
    )
    lower, upper = fitted.bound("lower"), fitted.bound("upper")
    assert lower == curve([0.2, 0.4], [0.25, 0.5], parameters={"bins": 3, "bound": "lower"}, raters=("ann",), voxels=9)
    assert upper == curve([0.2, 0.4], [0.5, 1.0], parameters={"bins": 3, "bound": "upper"}, raters=("ann",), voxels=9)
    assert lower.lower is lower.upper is None
    assert lower(0.0) == 0.25
    assert fitted(0.0) == 0.5
    assert dict(fitted.parameters) == {"bins": 3}


def test_there_are_no_bounds_without_a_band() -> None:
    with pytest.raises(RequestError, match=r"'isotonic' has no band.* lower bound\.\nAllowed: a map with a band"):
        FULL.bound("lower")
    with pytest.raises(RequestError, match="no band"):
        BAND.bound("upper").bound("upper")
    with pytest.raises(RequestError, match=r"no bound 'middle'\.\nAllowed: lower, upper"):
        BAND.bound("middle")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.0, 0.0, 0.0], None, "have lower bounds, but no upper ones"),
        (None, [1.0, 1.0, 1.0], "have upper bounds, but no lower ones"),
        ([0.0, 0.0], [1.0, 1.0, 1.0], "3 scores and 2 lower bounds"),
        ([0.0, 0.0, 0.0], [1.0] * 4, "3 scores and 4 upper bounds"),
        ([[0.0, 0.0, 0.0]], [1.0, 1.0, 1.0], r"lower bounds have shape \(1, 3\)"),
        ([0.2, 0.1, 0.3], [1.0, 1.0, 1.0], "Knot 1 has lower bound 0.1 after 0.2.*\nAllowed: non-decreasing lower"),
        ([0.0, 0.0, 0.0], [0.9, 1.0, 0.95], "Knot 2 has upper bound 0.95 after 1.0.*\nAllowed: non-decreasing upper"),
        ([0.0, 0.5, 0.5], [1.0, 1.0, 1.0], r"Knot 1 has lower bound 0.5 above its value 0.25.\nAllowed: lower"),
        ([0.0, 0.0, 0.0], [0.3, 0.4, 0.5], r"Knot 2 has upper bound 0.5 below its value 0.75.\nAllowed: .* <= upper"),
        ([-0.5, 0.0, 0.0], [1.0, 1.0, 1.0], r"Knot 0 has lower bound -0.5.\nAllowed: 0 to 1"),
        ([0.0, 0.0, 0.0], [1.0, 1.0, np.nan], "Knot 2 has upper bound nan"),
    ],
)
def test_bands_must_lie_around_the_value(lower: Any, upper: Any, message: str) -> None:
    with pytest.raises(MapError, match=message):
        curve([0.1, 0.5, 0.9], [0.25, 0.25, 0.75], lower=lower, upper=upper)


def test_equality_sees_everything() -> None:
    document = json.loads(FULL.to_json())
    others = [{"knots": [[0.1, 0.0]]}, {"calibrator": "x"}, {"parameters": {}}, {"target": "staple"}, {"roi": None}]
    others += [{"raters": []}, {"cases": []}, {"voxels": 3}, {"statistics": ""}, {"package_version": "2"}]
    found = [CalibrationMap.from_json(json.dumps(document | other)) for other in others]
    assert all(other != FULL for other in found)
    assert len({FULL.digest(), *(other.digest() for other in found)}) == 11
    assert FULL.__eq__("x") is NotImplemented


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FULL.voxels = 3  # type: ignore[misc]
    assert BAND.lower is not None
    assert BAND.upper is not None
    for array in (FULL.value, BAND.lower, BAND.upper):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    score = np.array([0.0, 1.0])
    calibration = curve(score, score)
    score[1] = 0.5
    assert calibration.score[1] == 1


def test_saving_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.json"
    FULL.save(path)
    assert load_map(str(path)) == FULL
    assert path.read_bytes() == FULL.to_json().encode()
    other = curve([0, 1], [0, 1])
    with pytest.raises(RequestError, match="exists already"):
        other.save(path)
    other.save(str(path), overwrite=True)
    assert load_map(path) == other
    with pytest.raises(RequestError, match="does not exist"):
        other.save(tmp_path / "nowhere" / "map.json")
    with pytest.raises(RequestError, match="exists already"):
        other.save(tmp_path, overwrite=True)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match="No space left"):
        FULL.save(path, overwrite=True)
    assert load_map(path) == other
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.json"]


def edited(**changes: Any) -> str:
    document = json.loads(FULL.to_json())
    return json.dumps({name: value for name, value in (document | changes).items() if value is not ...})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited(knots=[[0.1, 0.5], [0.2, 0.4]]), "Knot 1 has value 0.4 after 0.5"),
        (edited(knots=[[0.2, 0.1], [0.1, 0.4]]), "Knot 1 has score 0.1 after 0.2"),
        (edited(knots=[[0.2, 0.1], [0.2, 0.4]]), "Knot 1 has score 0.2 after 0.2"),
        (edited(knots=[[0.1, 0.5], [0.2, 1.2]]), "Knot 1 has value 1.2"),
        (edited(knots=[[-0.1, 0.5], [0.2, 0.7]]), "Knot 0 has score -0.1"),
        (edited(knots=[]), "0 scores"),
        (edited(knots={}), "knots is {}"),
        (edited(knots=[[0.1, 0.5, 0.6]]), "Knot 0 is"),
        (edited(knots=[[0.1, 0.5, 0.4, 0.6, 0.7]]), "Knot 0 is"),
        (edited(knots=[[0.1, 0.5], [0.2, 0.6, 0.5, 0.7]]), r"Knot 1 is .*\nAllowed: .*\[score, value, lower, upper\]"),
        (edited(knots=[[0.1, 0.5, 0.4, 0.6], [0.2, 0.6]]), "Knot 1 is"),
        (edited(knots=[[0.1, 0.5, None, None]]), "Knot 0 is"),
        (edited(knots=[[0.1, 0.5, 0.4, "0.6"]]), "Knot 0 is"),
        (edited(knots=[[0.1, 0.5, 0.6, 0.7]]), "Knot 0 has lower bound 0.6 above its value 0.5"),
        (edited(knots=[[0.1, 0.5, 0.4, 10**400]]), "too large"),
        (edited(knots=[[0.1, "0.5"]]), "Knot 0 is"),
        (edited(knots=[[0.1, True]]), "Knot 0 is"),
        (edited(knots=[[0.1, None]]), "Knot 0 is"),
        (edited(knots=[0.1, 0.2]), "Knot 0 is"),
        (edited(knots=[[0, 10**400]]), "too large"),
        (edited().replace("0.75", "1e999"), "the number 1e999 is too large"),
        (edited().replace("0.75", "NaN"), "holds NaN"),
        (edited().replace("0.75", "-Infinity"), "holds -Infinity"),
        (edited(parameters={"a": 1}).replace('"a": 1', '"a": 1e999'), "the number 1e999 is too large"),
        (edited(parameters=[1]), "parameters"),
        (edited(parameters=None), "parameters"),
        (edited(version=2), "version is 2"),
        (edited(version=True), "version is True"),
        (edited(version=...), "version is None"),
        (edited(format="cohort"), "no calibration map"),
        (edited(format=...), "no calibration map"),
        (edited(target=...), "'target' is missing"),
        (edited(target=3), "target is 3"),
        (edited(color="red"), "'color' is unknown"),
        (edited(roi=3), "roi is 3"),
        (edited(voxels=-1), "voxels is -1"),
        (edited(voxels=1.5), "voxels is 1.5"),
        (edited(voxels=True), "voxels is True"),
        (edited(raters="ann"), "raters is 'ann'"),
        (edited(raters=["a", "a"]), "twice"),
        (edited(cases=[1]), "cases is"),
        (edited().replace('"voxels"', '"roi": "full", "voxels"'), "occurs twice"),
        ("[]", "JSON list"),
        ("3", "JSON int"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("9" * 5000, "a number of 5000 digits is too large"),
        ("[" * 10**5, "nested deeper than 64"),
        (edited(parameters={"a": 1}).replace('"a": 1', '"a": ' + "[" * 63 + "]" * 63), "nested deeper than 64"),
        (edited(knots=...).replace("{", '{"knots": ' + "[" * 900 + "]" * 900 + ", ", 1), "nested deeper than 64"),
        (edited(calibrator="a").replace('"a"', '"\\ud800"'), "is not Unicode"),
        (edited(parameters={"a": 1}).replace('"a": 1', '"\\ud800": 1'), "is not Unicode"),
        (" " * (2**23 + 1), "larger than 8388608 bytes"),
    ],
)
def test_edited_maps_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MapError, match=message):
        CalibrationMap.from_json(text)
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(MapError, match=r"map\.json: .*\nAllowed: "):
        load_map(path)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MapError, match="UTF-8"):
        load_map(path)
    for name in ("nowhere.json", "."):
        with pytest.raises(RequestError, match="does not exist or is no file"):
            load_map(tmp_path / name)


@pytest.mark.parametrize(
    ("score", "value"), [([[0, 1]], [[0, 1]]), ([0, 1], [0]), ([np.nan], [0]), ([0], [np.inf]), ([], [])]
)
def test_knots_must_be_a_function(score: Any, value: Any) -> None:
    with pytest.raises(MapError):
        curve(score, value)
