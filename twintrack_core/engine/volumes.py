"""Volume metrics over a cohort: the arrays of a case in memory at a time, before and after calibration maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from twintrack_core import kernels
from twintrack_core.codes import CODE_VALUES, OnInvalid
from twintrack_core.cohort.chunks import Box, ChunkedArray
from twintrack_core.cohort.masks import VESSEL_LABELS
from twintrack_core.cohort.roi import Bounds, contains, joined, marked_bounds
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.store import Cohort, StoredCase
from twintrack_core.engine.run import Run, Scheduler, Task, compute, crew_of
from twintrack_core.engine.tiles import (
    Listing,
    Tile,
    background_score,
    read_scores,
    tile_box,
    tile_grid,
    tile_shape,
    union,
)
from twintrack_core.engine.workspace import workspace
from twintrack_core.errors import RequestError, StoreError, TwinTrackError
from twintrack_core.kernels.dispatch import Place, check_policy, lut_with_invalid, report
from twintrack_core.kernels.findings import Findings
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import CaseVolumes, Result, VolumeMetric
from twintrack_core.metrics.evaluation import Measured
from twintrack_core.metrics.volumes import extent

# A map that gives every code the float16 value that the code is: what a kernel writes with it are the codes.
_CODES = CODE_VALUES.astype(np.float16)
_CODES.flags.writeable = False


def measure(
    cohort: Cohort,
    metrics: Sequence[VolumeMetric],
    maps: Mapping[str, CalibrationMap | None],
    *,
    on_invalid: OnInvalid = "error",
    kernel: str = "auto",
    scheduler: Scheduler = "threads",
    workers: int | None = None,
    progress: bool = False,
) -> Measured:
    """Take volume metrics of every case, of its scores and of what maps would make of them.

    No calibrated volume is written, nor held: a map is a table over the codes of the scores. A worker holds one case
    at a time, in 4 bytes a voxel of the box around what is written (2 for the score, 1 for votes, 1 for vessels),
    besides the members' scores of one tile and what the metrics need.

    Parameters
    ----------
    cohort
        An open cohort, or a selection of its cases.
    metrics
        What to take. Votes and vessels are read if one of them needs them.
    maps
        Map of each variant, None for the scores as they are; see `metrics.evaluation.variants`.
    on_invalid
        "error" or "clip"; a volume cannot leave voxels out.
    kernel
        Name of the kernel.
    scheduler, workers, progress
        As in `accumulate`. Each worker holds one case.

    Returns
    -------
    Measured
        Values by case, variant and name of the metric. The same whatever the chunking, the kernel or the workers.

    Raises
    ------
    RequestError
        For an unknown kernel, or "exclude".
    InvalidScoresError, InvalidVotesError
        For scores that are not probabilities and marks of raters there are not, naming case, place and count.
    StoreError
        For damaged chunks, and for vessels of a label there is not.
    PluginError
        For a metric that fails, naming the case.
    """
    require_measurable(on_invalid)
    kernels.get(kernel)
    run = Run(workers, progress, scheduler)
    tables = {name: _table(calibration) for name, calibration in maps.items()}
    work = partial(_measure_case, cohort, tuple(metrics), tables, kernel, on_invalid)
    tasks = [Task(name, partial(work, name), (name,)) for name in cohort.names]
    with crew_of(run) as crew:
        found = {task.name: part for task, part in compute(tasks, crew, run, "measuring")}
    return {key: result for name in cohort.names for key, result in found[name].items()}


def require_measurable(on_invalid: str) -> None:
    """Refuse a policy for invalid scores that volumes cannot follow."""
    if check_policy(on_invalid) == "exclude":
        raise RequestError("A metric of volumes cannot leave voxels out.", 'Allowed: on_invalid="error" or "clip".')


def _table(calibration: CalibrationMap | None) -> npt.NDArray[np.float64]:
    return CODE_VALUES if calibration is None else CODE_VALUES[calibration.codes]


def _measure_case(
    cohort: Cohort,
    metrics: tuple[VolumeMetric, ...],
    tables: Mapping[str, npt.NDArray[np.float64]],
    kernel: str,
    on_invalid: OnInvalid,
    name: str,
) -> dict[tuple[str, str, str], Result]:
    needs = {part for metric in metrics for part in metric.needs}
    volumes = read_volumes(cohort[name], needs, kernel=kernel, on_invalid=on_invalid)
    found: dict[tuple[str, str, str], Result] = {}
    for variant, values in tables.items():
        calibrated = replace(volumes, values=values)
        for metric in metrics:
            try:
                found[name, variant, metric.name] = metric(calibrated)
            except TwinTrackError as error:
                raise type(error)(f"Case {name}: {error.what}", error.allowed, error.action) from error
    return found


def read_volumes(
    case: StoredCase, needs: Iterable[str] = ("votes", "vessels"), *, kernel: str = "auto", on_invalid: OnInvalid
) -> CaseVolumes:
    """Read the arrays of a case, cropped to what differs from the background.

    Every written chunk is looked at twice, but for those inside what is known to be in the box: first for the box,
    which may be much smaller than the chunks that were written, and then for what is in it. Without anything in it
    the box is the first voxel.

    Parameters
    ----------
    needs
        The arrays to read besides the scores, where the case has them: "votes", "vessels".

    Raises
    ------
    InvalidScoresError, InvalidVotesError, StoreError
        As `measure`.
    """
    parts = {name: case.parts[name] for name in ("votes", "vessels") if name in needs and name in case.parts}
    with workspace() as space:
        scores = _Scores(case, kernel, on_invalid, space.scratch)
        # What is marked is what is not 0, in vessels as in votes.
        found = [scores.bounds(), *map(marked_bounds, parts.values())]
        box = _surrounded([bounds for bounds in found if bounds is not None], case.shape)
        codes = scores.codes(box)
        arrays = {name: _read_part(array, box, space.scratch) for name, array in parts.items()}
    z, y, x = (side.start for side in box)
    votes, vessels = arrays.get("votes"), arrays.get("vessels")
    if votes is not None:
        _check_votes(case, votes, (z, y, x))
    if vessels is not None:
        _check_vessels(case, vessels)
    return CaseVolumes(
        codes=codes,
        raters=case.raters,
        votes=votes,
        vessels=vessels,
        spacing_mm=case.geometry.spacing_mm,
        start=(z, y, x),
        shape=case.shape,
        background_code=scores.background,
    )


class _Scores:
    """Score codes of a case, tile by tile: no more than one tile of the members' scores is held.

    Attributes
    ----------
    background
        Code of every voxel in no tile.
    """

    def __init__(self, case: StoredCase, kernel: str, on_invalid: OnInvalid, scratch: Scratch) -> None:
        self._case = case
        self._kernel = kernels.get(kernel)
        self._on_invalid = on_invalid
        self._scratch = scratch
        self._lut = lut_with_invalid(_CODES, on_invalid)
        self._shape = tile_shape(case)
        places = Listing(case, case.probability).tiles()
        self._tiles: list[Tile] = [tuple(tile) for tile in union(case, places).tolist()]
        self.background = self._background()

    def bounds(self) -> Bounds | None:
        """Where the codes differ from the background; None where they do not."""
        bounds: Bounds | None = None
        # The outermost tiles first: where everything is written they leave nothing to be looked at.
        for tile in self._tiles[:1] + self._tiles[:0:-1]:
            box = tile_box(tile, self._shape, self._case.shape)
            if bounds is not None and contains(bounds, box):
                continue
            inside = extent(self._read(tile, box) != self.background)
            if inside is not None:
                found = tuple((b.start + s.start, b.start + s.stop - 1) for b, s in zip(box, inside, strict=True))
                bounds = found if bounds is None else joined([bounds, found])
        return bounds

    def codes(self, box: Box) -> npt.NDArray[np.uint16]:
        """Codes of a box of voxels, (z, y, x)."""
        codes = np.full([side.stop - side.start for side in box], self.background, dtype=np.uint16)
        for tile in self._tiles:
            whole = tile_box(tile, self._shape, self._case.shape)
            common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(whole, box, strict=True)]
            if all(side.start < side.stop for side in common):
                codes[_within(common, box)] = self._read(tile, whole)[_within(common, whole)]
        return codes

    def _read(self, tile: Tile, box: Box) -> npt.NDArray[np.uint16]:
        """Codes of a tile; valid until the next call."""
        scores = read_scores(self._case.probability, box, self._scratch)
        shape = scores.shape[1:]
        place = Place(f"Case {self._case.name}, chunk {tile}", shape, tuple(side.start for side in box))
        codes = self._scratch.array("codes", shape, np.float16)
        flat = scores.reshape(len(scores), -1)
        report(self._relabel(flat, codes.reshape(-1)), flat, place, self._on_invalid)
        return codes.view(np.uint16)

    def _background(self) -> int:
        score = background_score(self._case.probability)
        code = np.empty(1, dtype=np.float16)
        findings = self._relabel(score, code)
        if len(self._tiles) < np.prod(tile_grid(self._case)):
            place = Place(f"Case {self._case.name}, the fill value of probability", (1,))
            report(findings, score, place, self._on_invalid)
        # Otherwise no voxel has the fill value, and it may be anything.
        return 0 if findings.invalid_scores else int(code.view(np.uint16)[0])

    def _relabel(self, scores: npt.NDArray[np.generic], out: npt.NDArray[np.float16]) -> Findings:
        return self._kernel.relabel(scores, self._lut, out, clip=self._on_invalid == "clip")


def _read_part(array: ChunkedArray, box: Box, scratch: Scratch) -> npt.NDArray[np.uint8]:
    values = np.empty([side.stop - side.start for side in box], dtype=np.uint8)
    array.expect([box], scratch)
    array.read(box, values, scratch)
    return values


def _check_votes(case: StoredCase, votes: npt.NDArray[np.uint8], start: tuple[int, int, int]) -> None:
    unknown = votes >> np.uint8(len(case.raters)) if len(case.raters) < 8 else np.zeros(1, dtype=np.uint8)
    if unknown.any():
        findings = Findings.of(np.ones(1, dtype=bool), unknown.reshape(-1) == 0)
        place = Place(f"Case {case.name}, votes", votes.shape, start)
        report(findings, votes, place, "error", votes=votes.reshape(-1), n_raters=len(case.raters))


def _check_vessels(case: StoredCase, vessels: npt.NDArray[np.uint8]) -> None:
    largest = int(vessels.max())
    if largest not in VESSEL_LABELS:
        raise StoreError(
            f"Case {case.name}: its vessels hold the label {largest} ({int((vessels == largest).sum())} voxels).",
            "Allowed: the labels 0 to 5.",
            "Make the store anew from vessel maps with these labels.",
        )


def _surrounded(found: Sequence[Bounds], shape: Sequence[int]) -> Box:
    """Return the box around bounds and one voxel about them, as far as the volume has it."""
    if not found:
        return tuple(slice(0, 1) for _ in shape)
    return tuple(
        slice(max(0, low - 1), min(size, high + 2)) for (low, high), size in zip(joined(found), shape, strict=True)
    )


def _within(box: Sequence[slice], outer: Box) -> Box:
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, outer, strict=True))
