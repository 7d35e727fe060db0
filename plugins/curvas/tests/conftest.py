"""What every test uses: cases counted from arrays, and made-up volumes of a lesion beside vessels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core.histogram import CaseStatistics, JointHistogram

# pytest -m gpu reads this file too, with neither hypothesis nor the SciPy that metrics need.
if TYPE_CHECKING:
    from twintrack_core.metrics import CaseVolumes, Result, ScoredCells
try:
    from hypothesis import settings
except ImportError:
    pass
else:
    settings.register_profile("curvas", deadline=None, derandomize=True)
    settings.load_profile("curvas")

Count: TypeAlias = Callable[..., CaseStatistics]
ValueOf: TypeAlias = "Callable[[Result], float]"


def count_case(
    probability: npt.NDArray[Any],
    raters: npt.NDArray[Any],
    names: list[str] | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> CaseStatistics:
    """Count (z, y, x) scores and (R, z, y, x) marks under the rule raters+20."""
    marked = np.argwhere(raters.any(axis=0))
    roi = np.zeros(probability.shape, dtype=bool)
    marks = None
    if len(marked):
        low, high = marked.min(axis=0), marked.max(axis=0)
        roi[tuple(slice(max(0, a - 20), b + 20) for a, b in zip(low.tolist(), high.tolist(), strict=True))] = True
        marks = tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))
    histogram = JointHistogram.from_arrays(probability, raters, rater_names=names, roi=roi)
    z, y, x = probability.shape
    return CaseStatistics(histogram, spacing_mm, {}, (z, y, x), marks)


def make_case(
    shape: tuple[int, int, int], lesion_radius: float, vessel_radius: float, n_raters: int = 5
) -> CaseVolumes:
    """Make a ball of a lesion in the middle, a soft prediction of it, and five tubes along z that it touches.

    The whole volume is written, as in a raw softmax: what is cropped is up to the metric.
    """
    from twintrack_core.metrics import CaseVolumes

    axes = [np.arange(size, dtype=np.float32) - size // 2 for size in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance = np.sqrt(z**2 + y**2 + x**2)
    votes = np.zeros(shape, dtype=np.uint8)
    for rater in range(n_raters):
        votes |= (distance < lesion_radius + rater - n_raters / 2).astype(np.uint8) << np.uint8(rater)
    softness = max(lesion_radius / 8, 1.0)
    probability = (1 / (1 + np.exp(np.clip((distance - lesion_radius) / softness, -30, 30)))).astype(np.float16)
    vessels = np.zeros(shape, dtype=np.uint8)
    away = lesion_radius + vessel_radius * 0.7
    for label, angle in enumerate(np.linspace(0, 2 * np.pi, 5, endpoint=False), start=1):
        across = (y - away * np.sin(angle)) ** 2 + (x - away * np.cos(angle)) ** 2
        tube = (across < vessel_radius**2) & (np.abs(z) < shape[0] / 2 - 2)
        vessels[tube] = label
    return CaseVolumes(
        codes=probability.view(np.uint16),
        raters=tuple(f"annotation_{number}" for number in range(1, n_raters + 1)),
        votes=votes,
        vessels=vessels,
        shape=shape,
    )


@pytest.fixture(scope="session")
def count() -> Count:
    return count_case


@pytest.fixture(scope="session")
def case_maker() -> Callable[..., CaseVolumes]:
    return make_case


@pytest.fixture(scope="session")
def cells_of() -> Callable[..., ScoredCells]:
    """Cells of one case in a region, counted from arrays under the rule raters+20."""
    from twintrack_core.metrics import ScoredCells

    def make(
        probability: npt.NDArray[Any], raters: npt.NDArray[Any], region: Any = "whole", **options: Any
    ) -> ScoredCells:
        return ScoredCells.of([count_case(probability, raters, **options)], region, "raters+20")

    return make


@pytest.fixture(scope="session")
def value_of() -> ValueOf:
    """The value of a result that must have one."""
    from twintrack_core.metrics import Noted, Undefined

    def value(result: Result) -> float:
        assert not isinstance(result, Undefined), result.why
        return result.value if isinstance(result, Noted) else result

    return value
