"""Numbers as a reader sees them: three significant digits, a true minus sign, intervals in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from twintrack_core.validation import Estimate

NOTHING = "–"
"""What stands where there is no number."""

_TIMES = " × "
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, *, signed: bool = False) -> str:
    """Return three significant digits."""
    return numbers([value], signed=signed)[0]


def numbers(values: Sequence[float | None], *, signed: bool = False) -> list[str]:
    """Return numbers that are read together: to one place after the point, which gives the largest three digits."""
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(known, default=0.0)
    if _needs_power(largest):
        exponent = math.floor(math.log10(largest))
        return [_fixed(value, 2, signed, exponent) for value in values]
    places = max(2 - math.floor(math.log10(largest)), 0) if largest else 2
    return [_fixed(value, places, signed) for value in values]


def interval(found: Estimate, *, signed: bool = False) -> str:
    """Return a mean with its interval: "0.0086 (0.0061 to 0.0112)"."""
    mean, low, high = numbers([found.mean, found.low, found.high], signed=signed)
    if found.low is None or found.high is None:
        return mean
    factor, power = _split_power([mean, low, high])
    return f"{factor[0]} ({factor[1]} to {factor[2]}){power}"


def span(found: Estimate, *, signed: bool = False) -> str:
    """Return the interval alone: "0.0061 to 0.0112"."""
    if found.low is None or found.high is None:
        return NOTHING
    texts = numbers([found.mean, found.low, found.high], signed=signed)
    factor, power = _split_power(texts)
    return f"({factor[1]} to {factor[2]}){power}" if power else f"{factor[1]} to {factor[2]}"


def stacked(found: Estimate, *, signed: bool = False) -> tuple[str, str]:
    """Return a mean, and its interval to stand below it: "0.0086" and "(0.0061 to 0.0112)"."""
    mean = numbers([found.mean, found.low, found.high], signed=signed)[0]
    ends = span(found, signed=signed)
    return mean, "" if ends == NOTHING else ends if ends.startswith("(") else f"({ends})"


def whole(value: float) -> str:
    """Return a count: "2,073,600"."""
    return f"{round(value):,}"


def percent(share: float) -> str:
    """Return a share of one as per cent: "12.3 %"."""
    return f"{number(100 * share)}\u00a0%" if share else "0\u00a0%"


def counted(count: int, one: str, several: str | None = None) -> str:
    """Return a count with its noun: "1 case", "13 cases"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def power_of_ten(exponent: int) -> str:
    """Return "10³"."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _needs_power(largest: float) -> bool:
    return 0 < largest < 1e-4 or largest >= 1e7


def _fixed(value: float | None, places: int, signed: bool, exponent: int = 0) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{abs(value) / 10.0**exponent:,.{places}f}"
    power = f"{_TIMES}{power_of_ten(exponent)}" if exponent else ""
    # A number that is rounded to nothing has no sign.
    shown = any(digit in "123456789" for digit in text)
    sign = "" if not shown else "−" if value < 0 else "+" if signed else ""
    return f"{sign}{text}{power}"


def _split_power(texts: Sequence[str]) -> tuple[list[str], str]:
    """Return numbers without the power of ten that they share, and that."""
    factors, powers = zip(*(text.partition(_TIMES)[::2] for text in texts), strict=True)
    power = next((each for each in powers if each), "")
    return list(factors), f"{_TIMES}{power}" if power else ""
