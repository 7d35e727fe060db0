"""Which way to calibrate a comparison recommends, and why, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.names import some
from twintrack_core.validation.bootstrap import Estimate
from twintrack_core.validation.candidates import Candidate


def recommended(candidates: Sequence[Candidate], rank_by: str) -> Recipe | None:
    """Return the first of the ranking, unless its advantage over the raw scores may be chance, refitted or not."""
    first = candidates[0]
    if first[rank_by].to_raw is None or _doubtful(first, rank_by) is not None:
        return None
    return first.recipe


def recommendation(candidates: Sequence[Candidate], rank_by: str, level: float) -> str:
    """Say what to take, how much better it is than the raw scores, and what may be as good."""
    measured = [each for each in candidates if not each.failed]
    first, n_cases = measured[0], measured[0][rank_by].value.defined
    value, to_raw = first[rank_by].value, first[rank_by].to_raw
    if to_raw is None:
        others = "nothing that was compared is better" if len(measured) > 1 else "nothing could be fitted in every fold"
        return f"Keep the raw scores: by {rank_by} on {n_cases} held-out cases, {others}."
    doubtful = _doubtful(first, rank_by)
    if doubtful is not None:
        refitted = ", maps refitted" if doubtful is not to_raw else ""
        return (
            f"Keep the raw scores, or rate more cases: {first.label} has the lowest {rank_by} on {n_cases} held-out "
            f"cases, but its difference of {_signed(to_raw.mean)} to that of the raw scores "
            f"({_span(doubtful, level)}{refitted}) may be chance."
        )
    lower = f"{_signed(to_raw.mean)} to that of the raw scores ({_span(to_raw, level)})"
    rest = [each for each in measured[1:] if each.recipe]
    alike = [each.label for each in rest if each.to_best and _may_be_chance(each.to_best)]
    beside = f"; {some(alike)} may be as good" if alike else "; the others are worse by more than chance" * bool(rest)
    return (
        f"Take {first.label}: its {rank_by} on {n_cases} held-out cases is the lowest, {_number(value.mean)}, "
        f"a difference of {lower}{beside}."
    )


def _doubtful(candidate: Candidate, rank_by: str) -> Estimate | None:
    """Return the difference to the raw scores whose interval holds 0: maps fixed, or refitted."""
    refitted = candidate.refitted.to_raw if candidate.refitted else None
    for difference in (candidate[rank_by].to_raw, refitted):
        if difference is not None and _may_be_chance(difference):
            return difference
    return None


def _may_be_chance(difference: Estimate) -> bool:
    return difference.low is None or difference.high is None or difference.low <= 0 <= difference.high


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:#.3g}".removesuffix(".")


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+#.3g}".removesuffix(".")


def _span(found: Estimate, level: float) -> str:
    if found.low is None:
        return "too few cases for an interval"
    return f"{level * 100:g} % interval {_signed(found.low)} to {_signed(found.high)}"
