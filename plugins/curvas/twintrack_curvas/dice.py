"""DSC: Dice of the binary prediction and the raters' consensus."""

from __future__ import annotations

from dataclasses import replace

from twintrack_core.errors import RequestError
from twintrack_core.metrics import Metric, Result, ScoredCells, Undefined

_SMOOTHING = 1e-6


def dsc(cells: ScoredCells, threshold: float = 0.5) -> Result:
    """Dice of {p > threshold} and {STAPLE >= 0.5}: 2 |both| / (|one| + |other| + 1e-6), a pure number.

    STAPLE is estimated over the case's whole volume. Undefined where both sets are empty, which the challenge's
    evaluation scores 0, and where no rater marked a voxel, so that there is no STAPLE.

    Source: CURVAS-PDACVI challenge, MICCAI 2025; Warfield et al., IEEE Transactions on Medical Imaging 2004.
    """
    voxels = cells.labelled("staple")
    predicted = voxels.score > threshold
    total = int(voxels.marked.sum()) + int(voxels.marked[predicted].sum()) + int(voxels.unmarked[predicted].sum())
    if total == 0:
        return Undefined(f"no score is above {threshold:g} and the raters' consensus is empty")
    return 2 * int(voxels.marked[predicted].sum()) / (total + _SMOOTHING)


def _above(text: str) -> Metric:
    """Return the metric of another threshold."""
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold < 1:  # NaN included
        raise RequestError(f"dsc: {text!r:.80} is no threshold.", "Allowed: 0 to below 1, as in dsc:0.4.")
    return replace(
        DSC,
        name=f"dsc:{text}",
        function=lambda cells: dsc(cells, threshold),
        description=f"Dice of the scores above {text} and STAPLE of the raters, 0.5 or more",
        argument=None,
        with_argument=None,
    )


DSC = Metric(
    name="dsc",
    function=dsc,
    unit="1",
    better="higher",
    range=(0.0, 1.0),
    description="Dice of the scores above 0.5 and STAPLE of the raters, 0.5 or more",
    source="CURVAS-PDACVI challenge, MICCAI 2025",
    regions=("whole",),
    pooled=False,  # STAPLE is of one case
    argument="THRESHOLD",
    with_argument=_above,
)
