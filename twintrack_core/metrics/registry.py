"""Metrics by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

from twintrack_core.errors import RequestError
from twintrack_core.metrics.calibration import ace_mhr, brier_mhr, cross_entropy_mhr, ece_mhr
from twintrack_core.metrics.metric import Metric
from twintrack_core.metrics.overlap import tdsc, volume_error
from twintrack_core.metrics.reliability import N_BINS

_METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "ece_mhr", ece_mhr, "1", "lower", (0.0, 1.0),
            f"Expected calibration error to the MHR, {N_BINS} bins of equal width (Naeini et al. 2015)",
        ),
        Metric(
            "ace_mhr", ace_mhr, "1", "lower", (0.0, 1.0),
            f"Average calibration error to the MHR: the same {N_BINS} bins, weighted alike if not empty (as MONAI)",
        ),
        Metric(
            "brier_mhr", brier_mhr, "1", "lower", (0.0, 1.0),
            "Brier score to the MHR: mean squared difference of score and MHR (Brier 1950)",
        ),
        Metric(
            "cross_entropy_mhr", cross_entropy_mhr, "nat", "lower", (0.0, math.inf),
            "Cross-entropy of the score to the MHR, natural logarithm",
        ),
        Metric(
            "tdsc", tdsc, "1", "higher", (0.0, 1.0),
            "Thresholded Dice, mean over six thresholds from 0.1 to 0.8 (CURVAS-PDACVI 2025)",
        ),
        Metric(
            "volume_error", volume_error, "1", "zero", (-1.0, math.inf),
            "Signed relative error of the probabilistic volume against the raters' mean volume",
        ),
    )
}  # fmt: skip


def names() -> tuple[str, ...]:
    """Names of the metrics there are."""
    return tuple(_METRICS)


def get(name: str) -> Metric:
    """Return a metric by name.

    Raises
    ------
    RequestError
        If there is none of that name.
    """
    if name not in _METRICS:
        raise RequestError(f"There is no metric {name!r}.", f"Allowed: {', '.join(_METRICS)}.")
    return _METRICS[name]


def resolve(wanted: Iterable[str] | None) -> tuple[Metric, ...]:
    """Return metrics by name, all there are for None, each once."""
    return tuple(get(name) for name in dict.fromkeys(names() if wanted is None else wanted))
