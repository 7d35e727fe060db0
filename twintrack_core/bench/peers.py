"""What users would call instead, as careful users would write it.

Each function takes a volume and a number of threads, makes what its library wants of the volume, which is not timed,
and returns the work to time. Libraries are imported here, where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from twintrack_core.bench import voxels
from twintrack_core.bench.data import MAP, RATERS, Volume
from twintrack_core.codes import CODE_VALUES, N_CODES
from twintrack_core.metrics.reliability import N_BINS

Work: TypeAlias = Callable[[], Any]

_PATTERNS = 1 << len(RATERS)
_BINS = (N_CODES, _PATTERNS)
_RANGE = ((-0.5, N_CODES - 0.5), (-0.5, _PATTERNS - 0.5))
_DASK_CHUNK = 1 << 20


# --- accumulate: codes and patterns, already integers, to counts


def histogram2d(volume: Volume, _: int) -> Work:
    """numpy.histogram2d with equal bins."""
    x, y = volume.codes.astype(np.float64), volume.patterns.astype(np.float64)
    return lambda: np.histogram2d(x, y, _BINS, _RANGE)[0]


def bincount(volume: Volume, _: int) -> Work:
    """numpy.bincount of one index."""

    def work() -> npt.NDArray[np.intp]:
        index = volume.codes * _PATTERNS
        index += volume.patterns
        return np.bincount(index, minlength=N_CODES * _PATTERNS)

    return work


def fast_histogram2d(volume: Volume, _: int) -> Work:
    """fast_histogram.histogram2d."""
    from fast_histogram import histogram2d as count

    x, y = volume.codes.astype(np.float64), volume.patterns.astype(np.float64)
    return lambda: count(x, y, _BINS, _RANGE)


def boost_histogram(volume: Volume, threads: int) -> Work:
    """boost-histogram with integer axes without overflow, and integer counts."""
    import boost_histogram as bh

    x, y = volume.codes.astype(np.int32), volume.patterns.astype(np.int32)
    axes = [bh.axis.Integer(0, n, underflow=False, overflow=False) for n in _BINS]
    return lambda: bh.Histogram(*axes, storage=bh.storage.Int64()).fill(x, y, threads=threads).view()


def dask_histogramdd(volume: Volume, threads: int) -> Work:
    """dask.array.histogramdd on Dask's threads."""
    import dask.array as da

    columns = [da.from_array(c.astype(np.float64), chunks=_DASK_CHUNK) for c in (volume.codes, volume.patterns)]

    def work() -> Any:
        counts, _edges = da.histogramdd(columns, bins=_BINS, range=_RANGE)
        return counts.compute(scheduler="threads", num_workers=threads)

    return work


# --- apply: scores, or their codes, through a map


def take(volume: Volume, _: int) -> Work:
    """numpy.take of codes, already indices, into memory that is there."""
    lut = MAP.table_as(np.float16)
    out = np.empty(volume.voxels, dtype=lut.dtype)
    return lambda: np.take(lut, volume.codes, out=out, mode="clip")


def interp(volume: Volume, _: int) -> Work:
    """numpy.interp between the map's knots."""
    return lambda: np.interp(volume.values, MAP.score, MAP.value)


def isotonic_predict(volume: Volume, _: int) -> Work:
    """Predictions of a scikit-learn IsotonicRegression fitted to the map's knots."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip").fit(MAP.score, MAP.value)
    return lambda: model.predict(volume.values)


# --- fit: scores and mean human responses to a map


def isotonic_fit(volume: Volume, _: int) -> Work:
    """scikit-learn's IsotonicRegression on the voxels."""
    from sklearn.isotonic import IsotonicRegression

    return lambda: IsotonicRegression(out_of_bounds="clip").fit(volume.values, volume.mhr)


def isotonic_fit_of_bins(volume: Volume, _: int) -> Work:
    """scikit-learn's IsotonicRegression on the scores that occur, weighted: what someone who knows float16 would do."""
    from sklearn.isotonic import IsotonicRegression

    def work() -> Any:
        weight = np.bincount(volume.codes, minlength=N_CODES)
        total = np.bincount(volume.codes, weights=volume.mhr, minlength=N_CODES)
        seen = weight > 0
        model = IsotonicRegression(out_of_bounds="clip")
        return model.fit(CODE_VALUES[seen], total[seen] / weight[seen], sample_weight=weight[seen])

    return work


def predict_codes(model: Any) -> npt.NDArray[np.float64]:
    """What a fitted model says of every code."""
    return np.asarray(model.predict(CODE_VALUES), dtype=np.float64)


# --- metrics: scores against mean human responses


def numpy_metrics(volume: Volume, _: int) -> Work:
    """Six metrics with NumPy on voxels."""
    return lambda: voxels.voxel_metrics(volume.values, volume.mhr)


def every_metric(volume: Volume, _: int) -> Work:
    """All metrics that need no voxels here, with NumPy, SciPy and scikit-learn on voxels."""
    masks = np.stack([mask.reshape(-1) for mask in volume.masks])
    return lambda: voxels.every_metric(volume.values, masks)


def torchmetrics_ece(volume: Volume, threads: int) -> Work:
    """BinaryCalibrationError of torchmetrics over all pairs of voxel and rater, which is the error to their mean.

    In float64: it counts voxels in the scores' dtype, and float32 stops at 2^24.
    """
    import torch

    scores = torch.from_numpy(volume.values)
    masks = [torch.from_numpy(mask.reshape(-1)) for mask in volume.masks]

    def work() -> dict[str, float]:
        torch.set_num_threads(threads)
        return {"ece_mhr": binary_calibration_error(scores, masks)}

    return work


def binary_calibration_error(scores: Any, masks: list[Any]) -> float:
    """ECE to the mean of masks, by torchmetrics."""
    import torch
    from torchmetrics.classification import BinaryCalibrationError

    metric = BinaryCalibrationError(n_bins=N_BINS, norm="l1", validate_args=False)
    metric.set_dtype(torch.float64)
    # It gives a score of 1 a bin of its own.
    below_one = torch.clamp(scores, max=float(np.nextafter(1.0, 0.0)))
    for mask in masks:
        metric.update(below_one, mask)
    return float(metric.compute())


def netcal_ece(volume: Volume, _: int) -> Work:
    """ECE and ACE of netcal, whose detection mode takes the mean human response as it is."""
    from netcal.metrics import ACE, ECE

    scores = volume.values.reshape(-1, 1)
    return lambda: {
        "ece_mhr": float(ECE(N_BINS, detection=True).measure(scores, volume.mhr)),
        "ace_mhr": float(ACE(N_BINS, detection=True).measure(scores, volume.mhr)),
    }


def monai_ece(volume: Volume, threads: int) -> Work:
    """MONAI's calibration_binning, from which its expected and average calibration errors follow."""
    import torch
    from monai.metrics.calibration import calibration_binning

    scores = torch.from_numpy(volume.values.astype(np.float32)).reshape(1, 1, -1)
    mhr = torch.from_numpy(volume.mhr.astype(np.float32)).reshape(1, 1, -1)

    def work() -> dict[str, float]:
        torch.set_num_threads(threads)
        mean_score, mean_mhr, count = (tensor[0, 0].double() for tensor in calibration_binning(scores, mhr, N_BINS))
        gaps = (mean_score - mean_mhr).abs()
        return {
            "ece_mhr": float(torch.nansum(gaps * count) / count.sum()),
            "ace_mhr": float(torch.nanmean(gaps)),
        }

    return work
