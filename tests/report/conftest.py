"""A small cohort whose scores are too sure of themselves, and ways to look at a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html.parser import HTMLParser

import numpy as np
import pytest

from twintrack_core.calibrators import fit
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap

RATERS = ("ann", "ben", "cy")
VOID = {"br", "hr", "img", "input", "link", "meta"}


def cohort(
    names: Sequence[str], *, roi: str = "raters+20", raters: Sequence[str] = RATERS, seed: int = 0, power: float = 0.4
) -> CohortStatistics:
    """Make cases whose raters mark by the truth, of which the score is a power: below 1 it is too high."""
    rng = np.random.default_rng(seed)
    cases = {}
    for name in names:
        truth = rng.beta(0.4, 0.8, (6, 8, 8)) * rng.uniform(0.6, 1.0)
        marks = rng.random((len(raters), *truth.shape)) < truth
        inside = np.ones(truth.shape, dtype=bool) if roi == "full" else rng.random(truth.shape) < 0.6
        score = (truth**power).astype(np.float16)
        histogram = JointHistogram.from_arrays(score, marks, rater_names=list(raters), roi=inside)
        cases[name] = CaseStatistics(histogram)
    return CohortStatistics(cases, roi)


def names_of(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:02d}" for number in range(count)]


class Page(HTMLParser):
    """A page taken apart, which must be well-formed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.texts: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.elements.append((tag, {name: value or "" for name, value in attrs}, tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((data.strip(), tuple(self.open)))

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]


@pytest.fixture(scope="session")
def fitted() -> CohortStatistics:
    """Statistics that a map is fitted to."""
    return cohort(names_of("fit", 10), seed=1)


@pytest.fixture(scope="session")
def held_out() -> CohortStatistics:
    """Those of other cases."""
    return cohort(names_of("new", 12), seed=2)


@pytest.fixture(scope="session")
def calibration(fitted: CohortStatistics) -> CalibrationMap:
    """The map."""
    return fit(fitted)


@pytest.fixture(scope="session", name="cohort")
def _cohort() -> Callable[..., CohortStatistics]:
    return cohort


@pytest.fixture(scope="session", name="names_of")
def _names_of() -> Callable[[str, int], list[str]]:
    return names_of


@pytest.fixture(scope="session", name="parsed")
def _parsed() -> Callable[[str], Page]:
    return Page
