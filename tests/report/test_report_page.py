"""The page: one file that loads nothing, in which no name is markup, the same for the same input."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from twintrack_core.calibrators import fit
from twintrack_core.errors import WorkError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import CalibrationMap
from twintrack_core.report.report import html_report
from twintrack_core.validation import compare

if TYPE_CHECKING:
    from report.conftest import Page

Cohort = Callable[..., CohortStatistics]

HOSTILE = "</td><script>alert('x')</script>&\"$\\frac$"


@pytest.fixture(scope="module")
def text(calibration: CalibrationMap, held_out: CohortStatistics, fitted: CohortStatistics) -> str:
    comparison = compare(held_out, ["isotonic", "platt"], folds=3, bootstrap=50, metrics=["brier_mhr"])
    return html_report(
        calibration, held_out, fitted=fitted, comparison=comparison, bootstrap=50, command="twintrack report m s"
    )


@pytest.fixture(scope="module")
def page(text: str, parsed: Callable[[str], Page]) -> Page:
    return parsed(text)


def test_it_is_one_well_formed_file_that_loads_nothing(text: str, page: Page) -> None:
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert not {tag for tag, _, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "use:"}
    for tag, attributes, _ in page.elements:
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#"), tag
        assert not any(name.startswith("on") for name in attributes)
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", text))


def test_ids_are_unique_and_what_is_referred_to_is_there(text: str, page: Page) -> None:
    assert len(set(page.ids)) == len(page.ids)
    referred = set(re.findall(r"url\(#([^)]+)\)", text))
    for _, attributes, _ in page.elements:
        referred |= {attributes[name].lstrip("#") for name in ("href", "aria-labelledby") if name in attributes}
    assert referred <= set(page.ids)


def test_figures_have_a_name_a_caption_and_their_data(page: Page) -> None:
    figures = [attributes["id"] for attributes in page.all("figure")]
    assert figures == [
        f"figure-{name}"
        for name in ("comparison", "map", "reliability-roi", "reliability-whole", "cases", "learning", "drift")
    ]
    inside = [(tag, attributes) for tag, attributes, path in page.elements if path and "figure" in path]
    assert sum(tag == "figcaption" for tag, _ in inside) == len(figures)
    assert sum(tag == "table" for tag, _ in inside) == len(figures)
    drawings = [attributes for tag, attributes in inside if tag == "svg"]
    assert len(drawings) == len(figures)
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"] in page.ids
        assert "viewbox" in attributes


def test_figures_take_the_colours_and_the_font_of_the_page(text: str) -> None:
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        assert not re.findall(r"#[0-9a-f]{6}\b", drawing)
        assert "DejaVu" not in drawing
        assert "<style" not in drawing
        assert "var(--ink)" in drawing


def test_tables_have_as_many_cells_as_titles(page: Page) -> None:
    rows: list[list[dict[str, str]]] = []
    for tag, attributes, _ in page.elements:
        if tag == "tr":
            rows.append([])
        elif tag in ("th", "td"):
            rows[-1].append(attributes)
    width = 0
    for row in rows:
        if all(cell.get("scope") == "col" for cell in row):
            width = len(row)
        assert sum(int(cell.get("colspan", 1)) for cell in row) == width
        assert row[0]["scope"] in ("col", "row", "rowgroup")


def test_equal_input_gives_equal_bytes(
    text: str, calibration: CalibrationMap, held_out: CohortStatistics, fitted: CohortStatistics
) -> None:
    comparison = compare(held_out, ["isotonic", "platt"], folds=3, bootstrap=50, metrics=["brier_mhr"])
    again = html_report(
        calibration, held_out, fitted=fitted, comparison=comparison, bootstrap=50, command="twintrack report m s"
    )
    assert again == text
    other = html_report(calibration, held_out, fitted=fitted, bootstrap=50, seed=1, command="twintrack report m s")
    assert other != text


def test_no_name_is_markup_or_a_formula(cohort: Cohort, parsed: Callable[[str], Page]) -> None:
    raters = [HOSTILE, "b", "日本"]
    statistics = cohort(["a0", "a1", "a2"], raters=raters)
    fitted = fit(statistics)
    strange = CalibrationMap(
        fitted.score,
        fitted.value,
        calibrator=HOSTILE,
        parameters={HOSTILE: HOSTILE},
        target=f"rater:{HOSTILE}",
        roi=HOSTILE,
        raters=(HOSTILE,),
        cases=(HOSTILE,),
        statistics=HOSTILE,
        package_version=HOSTILE,
    )
    for calibration in (fitted, strange):
        text = html_report(calibration, statistics, bootstrap=50, command=HOSTILE)
        assert "<script" not in text
        page = parsed(text)
        assert any(HOSTILE in data for data, _ in page.texts)
        assert len(set(page.ids)) == len(page.ids)


def test_long_names_of_many_letters_are_shortened_in_figures_only(cohort: Cohort) -> None:
    names = [f"{number}{'日' * 60}" for number in range(4)]
    text = html_report(fit(cohort(["x", "y"])), cohort(names), bootstrap=50)
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        assert not any(name in drawing for name in names)
    assert all(f">{name}</th>" in text for name in names)


@pytest.mark.parametrize(("module", "name"), [("jinja2", "Jinja2"), ("matplotlib", "matplotlib")])
def test_what_is_missing_is_named(
    module: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    calibration: CalibrationMap,
    held_out: CohortStatistics,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WorkError, match=name) as caught:
        html_report(calibration, held_out, bootstrap=50)
    assert caught.value.action == "pip install twintrack-core[report]"


def test_drawing_leaves_the_settings_of_matplotlib_alone(
    calibration: CalibrationMap, held_out: CohortStatistics
) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 31.0}):
        one = html_report(calibration, held_out, bootstrap=50)
        assert mpl.rcParams["font.size"] == 31.0
    assert html_report(calibration, held_out, bootstrap=50) == one
    assert np.isfinite(mpl.rcParams["font.size"])
