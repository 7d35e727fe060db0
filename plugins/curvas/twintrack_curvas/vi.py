"""VI, vascular involvement: how well the prediction tells at what angle the lesion touches each vessel."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from twintrack_core.errors import RequestError
from twintrack_core.metrics import CaseVolumes, Noted, Result, Undefined, VolumeMetric
from twintrack_curvas.contact import Box, contact_angles, vessel_boxes
from twintrack_curvas.normals import exact_distance, official_distance

VESSELS = {1: "portal_vein", 2: "smv", 3: "aorta", 4: "celiac_trunk", 5: "sma"}
"""Names of the vessels by label."""

_MAX_DEGREES = 361.0  # angles may be larger, but not distances on the grid, or a mean within a step of its end


def vi(volumes: CaseVolumes, labels: tuple[int, ...] = tuple(VESSELS), *, official: bool) -> Result:
    """Vascular involvement in degrees: mean over the vessels there are.

    In each of the three planes, the lesion that a rater marked touches the vessel at an angle; so does the prediction
    taken above each of the six thresholds of TDSC (see `twintrack_curvas.contact`). Both sets of angles are taken as
    normal distributions of their mean and population standard deviation + 1e-6. The plane's value is the 1-Wasserstein
    distance of the two (see `twintrack_curvas.normals`); the vessel's is the mean over the planes.

    Parameters
    ----------
    volumes
        Arrays of a case with raters and vessels.
    labels
        Vessels to take.
    official
        Whether to take the angles and distances of the challenge's evaluation, or those that are meant.

    Raises
    ------
    RequestError
        For a vessel map with labels above 5.

    Source: CURVAS-PDACVI challenge, MICCAI 2025.
    """
    if volumes.vessels is None:
        return Undefined("there are no vessels")
    boxes = volumes.once((__name__, "boxes"), partial(vessel_boxes, volumes.vessels))
    unknown = [label for label in boxes if label not in VESSELS]
    if unknown:
        raise RequestError(
            f"The vessel map holds the label {unknown[0]}.", f"Allowed: 0 for none, {_named(tuple(VESSELS))}."
        )
    present = [label for label in labels if label in boxes]
    absent = tuple(label for label in labels if label not in boxes)
    if not present:
        return Undefined(f"the vessel map does not hold {_named(labels)}")
    value = sum(_vessel(volumes, label, boxes[label], official=official) for label in present) / len(present)
    return Noted(value, f"without {_named(absent)}, which the vessel map does not hold") if absent else value


def _vessel(volumes: CaseVolumes, label: int, box: Box, *, official: bool) -> float:
    both = volumes.once((__name__, label), partial(contact_angles, volumes, label, box))
    angles, distance = (both.official, official_distance) if official else (both.exact, exact_distance)
    n_raters = len(volumes.raters)
    return sum(distance(plane[:n_raters], plane[n_raters:]) for plane in angles) / len(angles)


def _named(labels: tuple[int, ...]) -> str:
    return ", ".join(f"{label} {VESSELS[label]}" for label in labels)


def _of_vessel(text: str, *, official: bool) -> VolumeMetric:
    """Return the metric of one vessel, by its label or name."""
    found = [label for label, name in VESSELS.items() if text in (str(label), name)]
    metric = VI_OFFICIAL if official else VI_EXACT
    if not found:
        raise RequestError(
            f"{metric.name}: there is no vessel {text!r:.80}.", f"Allowed: {_named(tuple(VESSELS))}, by label or name."
        )
    return replace(
        metric,
        name=f"{metric.name}:{VESSELS[found[0]]}",
        function=partial(vi, labels=tuple(found), official=official),
        description=f"{metric.description}: {VESSELS[found[0]]} alone",
        argument=None,
        with_argument=None,
    )


VI_OFFICIAL = VolumeMetric(
    name="vi_official",
    function=partial(vi, official=True),
    unit="degree",
    better="lower",
    range=(0.0, _MAX_DEGREES),
    description="Vascular involvement: distance of contact angles, as the challenge's evaluation gives it",
    source="CURVAS-PDACVI challenge, MICCAI 2025",
    needs=("votes", "vessels"),
    argument="VESSEL",
    with_argument=partial(_of_vessel, official=True),
)

VI_EXACT = VolumeMetric(
    name="vi_exact",
    function=partial(vi, official=False),
    unit="degree",
    better="lower",
    range=(0.0, 360.0),
    description="Vascular involvement: distance of contact angles, each pixel counted once and in closed form",
    source="CURVAS-PDACVI challenge, MICCAI 2025",
    needs=("votes", "vessels"),
    argument="VESSEL",
    with_argument=partial(_of_vessel, official=False),
)
