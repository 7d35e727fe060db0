"""Tables and volumes to try a metric on: what cohorts hold, and the ends of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twintrack_core.codes import CODE_ONE, CODE_VALUES, N_CODES
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import CaseVolumes

RATERS = ("ann", "bob", "cy", "dee", "eli", "fay", "gus", "hal")

_HALF = int(np.float16(0.5).view(np.uint16))


class Table(NamedTuple):
    """Cases, a few words for what they are, and the rule of their region of interest."""

    words: str
    cases: tuple[CaseStatistics, ...]
    roi: str = "full"

    def with_cases_reversed(self) -> Table:
        """Return the cases in the other order."""
        return self._replace(cases=self.cases[::-1])

    def with_raters_reversed(self) -> Table:
        """Return cases whose raters are counted in the other order."""
        cases = [
            CaseStatistics(
                case.histogram.reorder_raters(case.histogram.raters[::-1]),
                case.spacing_mm,
                case.attributes,
                case.shape,
                case.marks,
            )
            for case in self.cases
        ]
        return self._replace(cases=tuple(cases))


def tables() -> Iterator[Table]:
    """Yield tables, the same every time."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, N_CODES, 400)
    marks_of_three = _patterns(rng, 400, 3)
    for words, pattern in (("not marked", 0), ("marked", 7)):
        yield Table(f"one voxel, {words}", (_case([_HALF], pattern, 3),))
        yield Table(f"many voxels, {words}", (_case(codes, pattern, 3),))
    for n_raters in (1, 2, 3, 5, 8):
        yield Table(f"raters: {n_raters}", (_case(codes, _patterns(rng, 400, n_raters), n_raters),))
    yield Table("two raters who never agree", (_case(codes, rng.integers(1, 3, 400), 2),))
    yield Table("every score", (_case(np.arange(N_CODES), _patterns(rng, N_CODES, 3), 3),))
    yield Table("one score", (_case(np.full(400, _HALF), marks_of_three, 3),))
    yield Table("scores of 0 and 1", (_case(np.arange(400) % 2 * CODE_ONE, marks_of_three, 3),))
    yield Table("marks where the score is 0", (_case(np.zeros(400, np.int64), marks_of_three, 3),))
    yield Table("much background", (_background(rng),))
    yield Table("more than 2^32 voxels in a cell", (_case(codes, marks_of_three, 3, count=(1 << 40) + codes),))
    yield Table("nothing inside the region", (_case(codes, marks_of_three, 3, region=0),))
    yield Table("some inside the region", (_case(codes, marks_of_three, 3, region=codes % 2),))
    yield Table("no voxels", (_case([], 0, 3),))
    yield Table("no raters", (_case(codes, 0, 0),))
    marks = ((2, 5), (0, 9), (3, 3))
    boxed = CaseStatistics(_background(rng).histogram, (3.0, 0.7, 0.8), {"site": "A"}, (200, 400, 500), marks)
    yield Table("a region around the marks", (boxed,), "raters+2")
    same = [_case(codes, _patterns(rng, 400, 3), 3) for _ in range(3)]
    turned = CaseStatistics(same[0].histogram.reorder_raters(("cy", "ann", "bob")), (5.0, 1.0, 1.0))
    yield Table("cases of the same raters", (*same, turned, _background(rng)))
    ones = np.ones(400, np.int64)
    others = JointHistogram.from_cells(ones, codes, _patterns(rng, 400, 2), ones, ("zoe", "bob"))
    alone = _case(codes, rng.integers(0, 2, 400), 1)
    yield Table(
        "cases of different raters", (same[0], CaseStatistics(others, (2.0, 2.0, 2.0)), alone, _background(rng))
    )


def _patterns(rng: np.random.Generator, size: int, n_raters: int) -> npt.NDArray[np.int64]:
    """Patterns of raters who mostly agree: of those who do not, it takes many thousand iterations to make a STAPLE."""
    truth = rng.random(size) < 0.3
    marks = truth[:, np.newaxis] ^ (rng.random((size, n_raters)) < 0.1)
    return np.asarray(marks @ (1 << np.arange(n_raters)), dtype=np.int64)


def _case(code: Any, pattern: Any, n_raters: int, count: Any = 1, region: Any = 1) -> CaseStatistics:
    columns = (np.broadcast_to(column, np.shape(code)).astype(np.int64) for column in (region, code, pattern, count))
    regions, codes, patterns, counts = columns
    histogram = JointHistogram.from_cells(regions, codes, patterns, counts, RATERS[:n_raters])
    return CaseStatistics(histogram, (3.0, 0.7, 0.8))


def _background(rng: np.random.Generator) -> CaseStatistics:
    scores = np.concatenate([[0.0], rng.random(300)]).astype(np.float16)
    patterns = np.concatenate([[0], _patterns(rng, 300, 5)])
    counts = np.concatenate([[10_000_000], rng.integers(1, 50, 300)])
    return _case(scores.view(np.uint16), patterns, 5, counts, np.append(0, rng.integers(0, 2, 300)))


class Volumes(NamedTuple):
    """Arrays of a case and a few words for what they are."""

    words: str
    arguments: dict[str, Any]

    def make(self, *, reverse: bool = False) -> CaseVolumes:
        """Return the volumes in arrays of their own, with the raters in this order or the other."""
        arguments: dict[str, Any] = {
            key: value.copy() if isinstance(value, np.ndarray) else value for key, value in self.arguments.items()
        }
        if reverse:
            arguments["raters"] = self.arguments["raters"][::-1]
            if arguments.get("votes") is not None:
                arguments["votes"] = _reversed_bits(arguments["votes"], len(arguments["raters"]))
        return CaseVolumes(values=CODE_VALUES.copy(), **arguments)


def volumes() -> Iterator[Volumes]:
    """Yield volumes, the same every time."""
    shape = (5, 9, 8)
    score, distance = _lesion(shape)
    marks = [distance < radius for radius in (0.5, 0.7, 0.9)]
    vessels = np.zeros(shape, np.uint8)
    for label in range(1, 6):
        vessels[:, label + 1, 2:6] = label
    lesion = _volumes(score, marks, vessels)
    empty, full = np.zeros(shape), np.ones(shape)
    yield Volumes("a lesion", lesion)
    yield Volumes("a lesion in a larger volume", {**lesion, "start": (1, 2, 3), "shape": (9, 20, 30)})
    yield Volumes("a background of 0.5", {**lesion, "shape": (9, 20, 30), "background_code": _HALF})
    yield Volumes("no vessels in the volume", {**lesion, "vessels": np.zeros(shape, np.uint8)})
    yield Volumes("no vessels given", {**lesion, "vessels": None})
    yield Volumes("no votes given", {**lesion, "votes": None, "raters": ()})
    yield Volumes("neither votes nor vessels", {**lesion, "votes": None, "raters": (), "vessels": None})
    yield Volumes("nothing anywhere", _volumes(empty, [empty] * 3, vessels))
    yield Volumes("everything everywhere", _volumes(full, [full] * 3, vessels))
    yield Volumes("marks where the score is 0", _volumes(empty, marks, vessels))
    yield Volumes("scores nobody marked", _volumes(score, [empty] * 3, vessels))
    yield Volumes("a rater who marked nothing", _volumes(score, [*marks[:2], empty], vessels))
    yield Volumes("raters who never meet", _volumes(score, [distance < 0.5, distance > 1.2], vessels))
    yield Volumes("one rater", _volumes(score, marks[:1], vessels))
    yield Volumes("eight raters", _volumes(score, [distance < radius for radius in np.linspace(0.4, 1, 8)], vessels))
    for words, part in (("one voxel", (slice(2, 3), slice(4, 5), slice(4, 5))), ("one plane", (slice(2, 3),))):
        arguments = {key: value[part] if isinstance(value, np.ndarray) else value for key, value in lesion.items()}
        yield Volumes(words, arguments)
    corner = np.zeros(shape)
    corner[0, 0, 0] = 1
    yield Volumes("one voxel in the corner", _volumes(corner, [corner] * 3, vessels))


def _lesion(shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scores that fall off from the middle, and the distance to it in half lengths of the volume."""
    axes = [(np.arange(size) + 0.5) * 2 / size - 1 for size in shape]
    distance = np.sqrt(sum(axis**2 for axis in np.ix_(*axes)))
    return np.clip(1.2 - distance, 0, 1), distance


def _volumes(
    score: npt.NDArray[Any], marks: Sequence[npt.NDArray[Any]], vessels: npt.NDArray[np.uint8]
) -> dict[str, Any]:
    votes = sum((np.asarray(mask).astype(np.uint8) << np.uint8(bit)) for bit, mask in enumerate(marks))
    return {
        "codes": score.astype(np.float16).view(np.uint16),
        "raters": RATERS[: len(marks)],
        "votes": np.asarray(votes, np.uint8),
        "vessels": vessels,
        "spacing_mm": (3.0, 0.7, 0.8),
    }


def _reversed_bits(votes: npt.NDArray[np.uint8], n_raters: int) -> npt.NDArray[np.uint8]:
    turned = np.zeros_like(votes)
    for bit in range(n_raters):
        turned |= (votes >> np.uint8(bit) & np.uint8(1)) << np.uint8(n_raters - 1 - bit)
    return turned
