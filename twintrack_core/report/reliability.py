"""The reliability diagram: score against mean human response, before and after, and how many voxels say so."""

from __future__ import annotations

import os

import numpy as np

from twintrack_core.errors import WorkError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics.cells import ScoredCells
from twintrack_core.metrics.reliability import N_BINS, reliability_of

# Okabe and Ito's orange and blue, which differ for every kind of colour vision; shapes differ too.
_STYLES = {"raw": ("#d55e00", "s"), "calibrated": ("#0072b2", "o")}


def reliability_diagram(
    statistics: CohortStatistics, calibration: CalibrationMap, path: str | os.PathLike[str]
) -> None:
    """Draw the diagram of the voxels inside the region of interest, pooled over cases, as a PNG.

    Raises
    ------
    WorkError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise WorkError("Cannot draw without matplotlib.", None, "pip install twintrack-core[report]") from error

    variants = {"raw": statistics, "calibrated": statistics.relabel(calibration.codes)}
    figure = Figure(figsize=(5.0, 6.2), dpi=150, layout="constrained")
    diagram, weights = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    diagram.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--", label="perfectly calibrated")
    edges = np.arange(N_BINS + 1) / N_BINS
    for name, scored in variants.items():
        colour, marker = _STYLES[name]
        bins = reliability_of(ScoredCells.of([case for _, case in scored.items()], "roi"))
        diagram.plot(bins.mean_score, bins.mean_mhr, color=colour, marker=marker, markersize=5, label=name)
        weights.stairs(np.maximum(bins.voxels, 0.5), edges, color=colour, baseline=0.5)
    diagram.set(ylabel="mean human response", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    diagram.set_title(f"{len(statistics)} cases, region {statistics.roi}", fontsize="medium")
    diagram.legend(loc="upper left", frameon=False)
    weights.set(xlabel="score (mean of the bin)", ylabel="voxels", yscale="log")
    weights.set_ylim(bottom=0.5)
    figure.savefig(path, metadata={"Software": None})
