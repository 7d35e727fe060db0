"""Maps on Dask and Zarr arrays give what they give on NumPy arrays, as the same kind of array."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr

import twintrack_core as tt
from twintrack_core.errors import InvalidScoresError

MAP = tt.CalibrationMap(
    score=np.array([0.1, 0.4, 0.9]), value=np.array([0.0, 0.3, 0.8]), calibrator="isotonic", target="mhr"
)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
@pytest.mark.parametrize("members", [False, True])
def test_dask_and_zarr_arrays(dtype: str, members: bool) -> None:
    scores = np.random.default_rng(0).random((3, 10, 11, 12))
    stored = (scores * 255).astype(np.uint8) if dtype == "uint8" else scores.astype(dtype)
    expected = MAP(stored, members=members)
    lazy = MAP(da.from_array(stored, chunks=(2, 4, 5, 6)), members=members)
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == expected.dtype
    np.testing.assert_array_equal(lazy.compute(), expected)
    array = zarr.create_array(store={}, shape=stored.shape, chunks=(1, 4, 5, 6), dtype=stored.dtype)
    array[...] = stored
    result = MAP(array, members=members)
    assert isinstance(result, zarr.Array)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result[...], expected)


def test_errors_come_through() -> None:
    scores = np.array([0.5, 1.5])
    with pytest.raises(InvalidScoresError):
        MAP(da.from_array(scores)).compute()
    array = zarr.create_array(store={}, shape=(2,), chunks=(2,), dtype="float64")
    array[...] = scores
    with pytest.raises(InvalidScoresError):
        MAP(array)
    np.testing.assert_array_equal(MAP(array, on_invalid="clip")[...], MAP([0.5, 1.0]))
