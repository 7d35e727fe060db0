"""The metrics of a table from voxels, with NumPy, SciPy and scikit-learn, as a careful user would take them.

Left out are those that no library takes of so many voxels, or that depend on the order of equal scores: smooth ECE,
ECE of equal mass, and the areas under risk and coverage.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.metrics.reliability import N_BINS

Floats = npt.NDArray[np.float64]

VOXEL_METRICS = ("ece_mhr", "ace_mhr", "brier_mhr", "cross_entropy_mhr", "tdsc", "volume_error")
"""What `voxel_metrics` computes."""


def every_metric(scores: Floats, masks: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Compute the metrics of scores, (n,), and raters' marks, (R, n)."""
    mhr = masks.mean(axis=0)
    return {
        **voxel_metrics(scores, mhr),
        **_bins(scores, mhr),
        **_proper(scores, mhr),
        **_raters(scores, masks),
        **_ranking(scores, mhr > 0.5),
        **_uncertainty(scores, mhr),
        **_agreement(masks),
    }


def voxel_metrics(scores: Floats, mhr: Floats) -> dict[str, float]:
    """Compute `VOXEL_METRICS` from voxels instead of a histogram."""
    return {**_ece(scores, mhr), **_means(scores, mhr), **_overlap(scores, mhr)}


def _ece(scores: Floats, mhr: Floats) -> dict[str, float]:
    bins = np.minimum((scores * N_BINS).astype(np.intp), N_BINS - 1)
    count = np.bincount(bins, minlength=N_BINS)
    gaps = np.bincount(bins, weights=scores, minlength=N_BINS) - np.bincount(bins, weights=mhr, minlength=N_BINS)
    filled = count > 0
    return {
        "ece_mhr": float(np.abs(gaps).sum() / len(scores)),
        "ace_mhr": float(np.mean(np.abs(gaps[filled]) / count[filled])),
    }


def _means(scores: Floats, mhr: Floats) -> dict[str, float]:
    p = np.clip(scores, 2.0**-25, 1 - 2.0**-12)
    return {
        "brier_mhr": float(np.mean((scores - mhr) ** 2)),
        "cross_entropy_mhr": float(-np.mean(mhr * np.log(p) + (1 - mhr) * np.log1p(-p))),
    }


def _overlap(scores: Floats, mhr: Floats) -> dict[str, float]:
    """Thresholded Dice and volume error of voxels."""
    marked = float(mhr.sum())
    dice = [_smoothed_dice(scores > t, mhr > t) for t in np.linspace(0.1, 0.8, 6)]
    volume = {"volume_error": float(scores.sum()) / marked - 1} if marked else {}
    return {"tdsc": float(np.mean(dice)), **volume}


def _smoothed_dice(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / (total + 1e-6) if total else 1.0


def _gaps(scores: Floats, truth: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Voxels and |mean score - mean truth| of the bins that are not empty."""
    bins = np.minimum((scores * N_BINS).astype(np.intp), N_BINS - 1)
    count = np.bincount(bins, minlength=N_BINS)
    sums = [np.bincount(bins, weights=values, minlength=N_BINS) for values in (scores, truth)]
    filled = count > 0
    return count[filled].astype(np.float64), np.abs(sums[0] - sums[1])[filled] / count[filled]


def _bins(scores: Floats, mhr: Floats) -> dict[str, float]:
    count, gap = _gaps(scores, mhr)
    return {"mce_mhr": float(gap.max()), "rmsce_mhr": float(np.sqrt(np.average(gap**2, weights=count)))}


def _proper(scores: Floats, mhr: Floats) -> dict[str, float]:
    from scipy.spatial.distance import jensenshannon
    from scipy.special import entr

    p = np.clip(scores, 2.0**-25, 1 - 2.0**-12)
    cross = -np.mean(mhr * np.log(p) + (1 - mhr) * np.log1p(-p))
    distance = jensenshannon([mhr, 1 - mhr], [scores, 1 - scores])
    return {
        "kl_mhr": float(cross - np.mean(entr(mhr) + entr(1 - mhr))),
        "js_mhr": float(np.mean(np.nan_to_num(distance) ** 2)),
        "brier_rater": float(np.mean((scores - mhr) ** 2 + mhr * (1 - mhr))),
    }


def _raters(scores: Floats, masks: npt.NDArray[np.uint8]) -> dict[str, float]:
    from sklearn.metrics import log_loss

    p = np.clip(scores, 2.0**-25, 1 - 2.0**-12)
    losses = [log_loss(mask, p, labels=[0, 1]) for mask in masks]
    errors = [np.average(gap, weights=count) for count, gap in (_gaps(scores, mask) for mask in masks)]
    return {"log_loss_rater": float(np.mean(losses)), "ece_rater": float(np.mean(errors))}


def _ranking(scores: Floats, majority: npt.NDArray[np.bool_]) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    if not majority.any() or majority.all():
        return {}
    return {
        "auroc": float(roc_auc_score(majority, scores)),
        "average_precision": float(average_precision_score(majority, scores)),
    }


def _uncertainty(scores: Floats, mhr: Floats) -> dict[str, float]:
    from scipy.special import entr

    uncertainty, disagreement = entr(scores) + entr(1 - scores), mhr * (1 - mhr)
    found = {"sharpness": float(np.var(scores))}
    if uncertainty.std() > 0 and disagreement.std() > 0:
        found["ncc"] = float(np.corrcoef(uncertainty, disagreement)[0, 1])
    return found


def _agreement(masks: npt.NDArray[np.uint8]) -> dict[str, float]:
    n_raters, n_voxels = masks.shape
    marks = masks.sum(axis=0, dtype=np.int64)
    share = marks.sum() / masks.size
    if not 0 < share < 1:
        return {}
    agreeing = np.mean((marks * (marks - 1) + (n_raters - marks) * (n_raters - marks - 1)) / (n_raters**2 - n_raters))
    chance = share**2 + (1 - share) ** 2
    differing = float(np.sum(marks * (n_raters - marks))) / (n_raters - 1)
    n = n_raters * n_voxels
    return {
        "fleiss_kappa": float((agreeing - chance) / (1 - chance)),
        "krippendorff_alpha": 1 - (n - 1) * differing / (float(marks.sum()) * float(n - marks.sum())),
        "pairwise_dice": float(np.mean(list(_dice(masks)))),
    }


def _dice(masks: npt.NDArray[np.uint8]) -> Iterator[float]:
    for one, other in combinations(masks.astype(bool), 2):
        total = np.count_nonzero(one) + np.count_nonzero(other)
        if total:
            yield 2 * np.count_nonzero(one & other) / total
