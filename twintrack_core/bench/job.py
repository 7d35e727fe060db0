"""The whole job on one case: a fit, a calibrated volume, metrics before and after, STAPLE and the Dice with it.

`our_job` does it from the joint histogram. `peer_job` does it on voxels with NumPy, scikit-learn, torchmetrics and
SimpleITK, as a careful user would write it. Both begin with what a reader gives: float16 scores and the raters' marks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.bench import peers, voxels
from twintrack_core.bench.data import RATERS, Scores, Volume, Votes
from twintrack_core.calibrators import fit
from twintrack_core.codes import CODE_VALUES
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import evaluate
from twintrack_core.staple import staple


@dataclass(frozen=True, eq=False)
class OurOutcome:
    """What `our_job` gives: STAPLE's probability is that of each rater pattern, (32,)."""

    calibration: CalibrationMap
    calibrated: Scores
    metrics: dict[str, float]
    staple: npt.NDArray[np.float64]

    def answer(self, votes: Votes) -> dict[str, Any]:
        """The same in the form that both outcomes are compared in."""
        mask = (self.staple >= 0.5)[votes]
        return _answer(self.calibration.table, self.calibrated, self.metrics, mask)


@dataclass(frozen=True, eq=False)
class PeerOutcome:
    """What `peer_job` gives: STAPLE is a mask (z, y, x)."""

    model: Any
    calibrated: Scores
    metrics: dict[str, float]
    staple: npt.NDArray[np.bool_]

    def answer(self) -> dict[str, Any]:
        """The same in the form that both outcomes are compared in."""
        return _answer(peers.predict_codes(self.model), self.calibrated, self.metrics, self.staple)


def _answer(
    table: npt.NDArray[np.float64], calibrated: Scores, metrics: dict[str, float], mask: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    # In float32, where float16 is exact and differences neither round nor overflow.
    return {"map": table, "calibrated": calibrated.astype(np.float32), "STAPLE": mask, **metrics}


def our_job(scores: Scores, votes: Votes, *, kernel: str = "auto", threads: int | None = None) -> OurOutcome:
    """Do the job from the joint histogram."""
    histogram = JointHistogram.from_votes(scores, votes, RATERS, kernel=kernel, threads=threads)
    calibration = fit(histogram)
    statistics = CohortStatistics({"case": CaseStatistics(histogram)})
    evaluation = evaluate(statistics, calibration, voxels.VOXEL_METRICS)
    figures = {
        f"{row.variant} {row.metric}": row.value
        for row in evaluation.rows
        if row.region == "whole" and row.value is not None
    }
    consensus = staple(histogram.pattern_counts, len(RATERS)).probability
    figures["dice"] = _dice_with(consensus >= 0.5, histogram.relabel(calibration.codes))
    calibrated = kernels.relabel(scores, calibration.table_as(np.float16), kernel=kernel, threads=threads)
    return OurOutcome(calibration, calibrated, figures, consensus)


def _dice_with(marked: npt.NDArray[np.bool_], histogram: JointHistogram) -> float:
    predicted, truth = CODE_VALUES[histogram.code] > 0.5, marked[histogram.pattern]
    both, either = (int(histogram.count[where].sum()) for where in (predicted & truth, predicted | truth))
    return 2 * both / (both + either + 1e-6)


def peer_job(scores: Scores, masks: npt.NDArray[np.uint8], *, torch: bool, threads: int) -> PeerOutcome:
    """Do the job on voxels.

    Parameters
    ----------
    scores
        (z, y, x) float16.
    masks
        (R, z, y, x) uint8, 0 and 1.
    torch
        Compute the expected calibration error with torchmetrics; without, with NumPy.
    threads
        Threads for SimpleITK and torch; the others have one.
    """
    from sklearn.isotonic import IsotonicRegression

    values = scores.reshape(-1).astype(np.float64)
    mhr = masks.reshape(len(masks), -1).mean(axis=0)
    model = IsotonicRegression(out_of_bounds="clip").fit(values, mhr)
    calibrated = model.predict(values).astype(np.float16)
    mask = _simpleitk_staple(masks, threads)
    figures: dict[str, float] = {}
    for variant, some in (("raw", values), ("calibrated", calibrated.astype(np.float64))):
        found = voxels.voxel_metrics(some, mhr)
        if torch:
            found["ece_mhr"] = _torchmetrics_ece(some, masks, threads)
        figures.update({f"{variant} {name}": value for name, value in found.items()})
    predicted = calibrated.reshape(scores.shape) > np.float16(0.5)
    both = np.count_nonzero(predicted & mask)
    figures["dice"] = 2 * both / (np.count_nonzero(predicted) + np.count_nonzero(mask) + 1e-6)
    return PeerOutcome(model, calibrated.reshape(scores.shape), figures, mask)


def _simpleitk_staple(masks: npt.NDArray[np.uint8], threads: int) -> npt.NDArray[np.bool_]:
    import SimpleITK as sitk  # noqa: N813 - its own name for itself

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    probability = sitk.STAPLE([sitk.GetImageFromArray(mask) for mask in masks], 1.0)
    return np.asarray(sitk.GetArrayViewFromImage(probability) >= 0.5)


def _torchmetrics_ece(values: npt.NDArray[np.float64], masks: npt.NDArray[np.uint8], threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    return peers.binary_calibration_error(
        torch.from_numpy(values), [torch.from_numpy(mask.reshape(-1)) for mask in masks]
    )


def numpy_peer(volume: Volume, threads: int) -> Callable[[], PeerOutcome]:
    """The job by NumPy, scikit-learn and SimpleITK."""
    return lambda: peer_job(volume.scores, volume.masks, torch=False, threads=threads)


def torch_peer(volume: Volume, threads: int) -> Callable[[], PeerOutcome]:
    """The job by NumPy, scikit-learn, torchmetrics and SimpleITK."""
    return lambda: peer_job(volume.scores, volume.masks, torch=True, threads=threads)
