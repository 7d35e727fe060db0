"""Numbers as a reader sees them."""

from __future__ import annotations

import pytest

from twintrack_core.report.numbers import counted, interval, number, numbers, percent, span, stacked
from twintrack_core.validation import Estimate


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.00"),
        (0.123456, "0.123"),
        (-0.0123456, "−0.0123"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (0.99999, "1.000"),
        (0.0000123456, "1.23 × 10⁻⁵"),
        (-2.5e8, "−2.50 × 10⁸"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_three_digits(value: float | None, expected: str) -> None:
    assert number(value) == expected


def test_signs() -> None:
    assert numbers([0.5, -0.5, 0.0], signed=True) == ["+0.500", "−0.500", "0.000"]
    assert numbers([-0.0001, 0.5], signed=True) == ["0.000", "+0.500"]


def test_an_interval_has_one_number_of_places() -> None:
    found = Estimate(0.0086, 0.00611, 0.0112, 9)
    assert interval(found) == "0.0086 (0.0061 to 0.0112)"
    assert span(found) == "0.0061 to 0.0112"
    assert stacked(found) == ("0.0086", "(0.0061 to 0.0112)")
    assert interval(Estimate(0.25, None, None, 1)) == "0.250"
    assert stacked(Estimate(0.25, None, None, 1)) == ("0.250", "")
    assert interval(Estimate(None, None, None, 0)) == "–"


def test_an_interval_shares_its_power_of_ten() -> None:
    found = Estimate(-1.24e-5, -2.31e-5, -1.62e-6, 9)
    assert interval(found, signed=True) == "−1.24 (−2.31 to −0.16) × 10⁻⁵"
    assert stacked(found) == ("−1.24 × 10⁻⁵", "(−2.31 to −0.16) × 10⁻⁵")
    assert span(found) == "(−2.31 to −0.16) × 10⁻⁵"
    assert interval(Estimate(0.0, -2.31e-5, 1e-5, 9)) == "0.00 (−2.31 to 1.00) × 10⁻⁵"


def test_counts_and_shares() -> None:
    assert counted(1, "case") == "1 case"
    assert counted(2073600, "voxel") == "2,073,600 voxels"
    assert percent(0.1234) == "12.3\u00a0%"
    assert percent(0.0) == "0\u00a0%"
