"""Every metric of tables against its definition, voxel by voxel, and what holds for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from twintrack_core import metrics
from twintrack_core.codes import CODE_ONE, CODE_VALUES, N_CODES, encode
from twintrack_core.errors import FitError, RequestError
from twintrack_core.histogram import CaseStatistics, JointHistogram
from twintrack_core.metrics import Metric, Noted, Result, ScoredCells, Undefined
from twintrack_core.targets import staple

RATERS = ("ann", "bob", "cy", "di", "eve")
ARGUMENTS = (
    "brier_rater:bob",
    "ece_rater:bob",
    "log_loss_rater:bob",
    "ece_without:bob",
    "brier_without:bob",
    "log_loss_without:bob",
    "ncc:variance",
    "auroc:rater:bob",
    "average_precision:rater:bob",
)
STAPLE = ("staple_sensitivity", "staple_specificity", "staple_sensitivity:bob", "staple_specificity:bob")
SIZE_MATTERS = {"krippendorff_alpha", "aurc", "eaurc", "tdsc", "adaptive_ece_mhr"}


@dataclass(frozen=True)
class Voxel:
    """A score, and the mark of each rater of the voxel's case."""

    code: int
    marks: dict[str, int]

    @property
    def p(self) -> float:
        return float(CODE_VALUES[self.code])

    @property
    def m(self) -> float:
        return sum(self.marks.values()) / len(self.marks)

    @property
    def exact_m(self) -> Fraction:
        return Fraction(sum(self.marks.values()), len(self.marks))

    def without(self, rater: str) -> Voxel:
        return Voxel(self.code, {name: mark for name, mark in self.marks.items() if name != rater})


Case = list[Voxel]


def histogram(case: Case, times: int = 1) -> JointHistogram:
    raters = tuple(case[0].marks)
    pattern = [sum(mark << bit for bit, mark in enumerate(voxel.marks.values())) for voxel in case]
    ones = np.ones(len(case), dtype=np.int64)
    return JointHistogram.from_cells(ones, [voxel.code for voxel in case], pattern, ones * times, raters)


def scored(cases: Sequence[Case], times: int = 1) -> ScoredCells:
    return ScoredCells.of([CaseStatistics(histogram(case, times)) for case in cases], "roi")


def measured(name: str, cells: ScoredCells) -> Result:
    (metric,) = metrics.resolve([name])
    assert isinstance(metric, Metric)
    return metric(cells)


def value(name: str, cells: ScoredCells) -> float | None:
    result = measured(name, cells)
    if isinstance(result, Undefined):
        assert result.why
        return None
    return result.value if isinstance(result, Noted) else result


@st.composite
def case_of(draw: st.DrawFn, raters: tuple[str, ...]) -> Case:
    edges = [int(encode(k / 15)) for k in range(16)] + [int(encode(t)) for t in (0.1, 0.24, 0.38, 0.52, 0.66, 0.8)]
    code = st.one_of(st.sampled_from([0, 1, CODE_ONE - 1, CODE_ONE, *edges]), st.integers(0, CODE_ONE))
    marks = st.lists(st.integers(0, 1), min_size=len(raters), max_size=len(raters))
    voxels = draw(st.lists(st.tuples(code, marks), min_size=1, max_size=20))
    return [Voxel(code, dict(zip(raters, given, strict=True))) for code, given in voxels]


one_case = st.integers(1, 5).flatmap(lambda n: case_of(RATERS[:n])).map(lambda case: [case])
"""One case of one to five raters, as a list of cases."""
panels = st.permutations(RATERS).flatmap(lambda names: st.integers(1, 5).map(lambda n: tuple(names[:n])))
mixed_cases = st.lists(panels.flatmap(case_of), min_size=2, max_size=4)
"""Cases with raters of their own."""


# --- Definitions ------------------------------------------------------------------------------------------------------


def slow_bins(voxels: Sequence[Voxel]) -> list[tuple[int, Fraction]]:
    """Voxels and |sum of p - sum of m| of each bin that is not empty, in exact arithmetic."""
    bins: dict[int, tuple[int, Fraction]] = {}
    for voxel in voxels:
        place = max(k for k in range(15) if k / 15 <= voxel.p)
        n, gap = bins.get(place, (0, Fraction(0)))
        bins[place] = n + 1, gap + Fraction(voxel.p) - voxel.exact_m
    return [(n, abs(gap)) for n, gap in bins.values()]


def slow_calibration(voxels: Sequence[Voxel]) -> dict[str, float | None]:
    n_voxels = len(voxels)
    bins = slow_bins(voxels)
    ascending = sorted(voxels, key=lambda voxel: voxel.code)
    adaptive: dict[int, Fraction] = {}
    for voxel in ascending:
        first = next(i for i, other in enumerate(ascending) if other.code == voxel.code)
        place = sum(first >= Fraction(n_voxels * j, 15) for j in range(1, 15))
        adaptive[place] = adaptive.get(place, Fraction(0)) + Fraction(voxel.p) - voxel.exact_m
    return {
        "ece_mhr": float(sum((gap for _, gap in bins), Fraction(0)) / n_voxels),
        "ace_mhr": float(sum((gap / n for n, gap in bins), Fraction(0)) / len(bins)),
        "mce_mhr": float(max(gap / n for n, gap in bins)),
        "rmsce_mhr": math.sqrt(sum((gap**2 / n for n, gap in bins), Fraction(0)) / n_voxels),
        "adaptive_ece_mhr": float(sum((abs(gap) for gap in adaptive.values()), Fraction(0)) / n_voxels),
    }


def log_loss(p: float, m: float) -> float:
    q = min(max(p, 2.0**-25), 1 - 2.0**-12)
    return -m * math.log(q) - (1 - m) * math.log(1 - q)


def entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def slow_proper(voxels: Sequence[Voxel]) -> dict[str, float | None]:
    at_score = {v.code: np.mean([w.m for w in voxels if w.code == v.code]) for v in voxels}
    cross_entropy = float(np.mean([log_loss(v.p, v.m) for v in voxels]))
    return {
        "brier_mhr": float(np.mean([(v.p - v.m) ** 2 for v in voxels])),
        "brier_rater": float(np.mean([np.mean([(v.p - y) ** 2 for y in v.marks.values()]) for v in voxels])),
        "brier_calibration": float(np.mean([(v.p - at_score[v.code]) ** 2 for v in voxels])),
        "brier_refinement": float(np.mean([at_score[v.code] * (1 - at_score[v.code]) for v in voxels])),
        "cross_entropy_mhr": cross_entropy,
        "kl_mhr": cross_entropy - float(np.mean([entropy(v.m) for v in voxels])),
        "js_mhr": float(np.mean([jensenshannon([v.p, 1 - v.p], [v.m, 1 - v.m]) ** 2 for v in voxels])),
    }


def against(voxels: Sequence[Voxel]) -> tuple[float, float, float]:
    """ECE, Brier score and log loss of voxels to their raters' mean."""
    ece = float(sum((gap for _, gap in slow_bins(voxels)), Fraction(0)) / len(voxels))
    return ece, float(np.mean([(v.p - v.m) ** 2 for v in voxels])), float(np.mean([log_loss(v.p, v.m) for v in voxels]))


def slow_raters(voxels: Sequence[Voxel]) -> dict[str, float | None]:
    raters = {rater for voxel in voxels for rater in voxel.marks}
    alone, rest = {}, {}
    for rater in raters:
        own = [v for v in voxels if rater in v.marks]
        alone[rater] = against([Voxel(v.code, {rater: v.marks[rater]}) for v in own])
        others = [v.without(rater) for v in own if len(v.marks) > 1]
        if others:
            rest[rater] = against(others)
    found: dict[str, float | None] = {}
    for place, name in enumerate(("ece", "brier", "log_loss")):
        if name != "brier":
            found[f"{name}_rater"] = float(np.mean([figures[place] for figures in alone.values()]))
        found[f"{name}_without"] = float(np.mean([figures[place] for figures in rest.values()])) if rest else None
        found[f"{name}_rater:bob"] = alone["bob"][place] if "bob" in alone else None
        found[f"{name}_without:bob"] = rest["bob"][place] if "bob" in rest else None
    return found


def slow_overlap(voxels: Sequence[Voxel]) -> dict[str, float | None]:
    dice = []
    for threshold in np.linspace(0.1, 0.8, 6).tolist():
        predicted, marked = [v.p > threshold for v in voxels], [v.m > threshold for v in voxels]
        both = sum(a and b for a, b in zip(predicted, marked, strict=True))
        total = sum(predicted) + sum(marked)
        dice.append(2 * both / (total + 1e-6) if total else 1.0)
    volume = sum(v.m for v in voxels)
    return {
        "tdsc": sum(dice) / 6,
        "volume_error": (sum(v.p for v in voxels) - volume) / volume if volume else None,
    }


def correlation(a: list[float], b: list[Fraction]) -> float | None:
    if len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(np.corrcoef(a, [float(value) for value in b])[0, 1])


def risk_coverage(ranked: list[tuple[float, float]]) -> float:
    """Mean over n of the mean loss of the first n of (rank, loss), those of one rank standing for their mean."""
    losses = [np.mean([other for rank, other in ranked if rank == mine]) for mine, _ in sorted(ranked)]
    return float(np.mean(np.cumsum(losses) / np.arange(1, len(losses) + 1)))


def slow_uncertainty(voxels: Sequence[Voxel]) -> dict[str, float | None]:
    disagreement = [v.exact_m * (1 - v.exact_m) for v in voxels]
    loss = [1 - v.m if v.p > 0.5 else v.m for v in voxels]
    aurc = risk_coverage([(-max(v.p, 1 - v.p), mine) for v, mine in zip(voxels, loss, strict=True)])
    found: dict[str, float | None] = {
        "ncc": correlation([entropy(v.p) for v in voxels], disagreement),
        "ncc:variance": correlation([v.p * (1 - v.p) for v in voxels], disagreement),
        "aurc": aurc,
        "eaurc": aurc - risk_coverage([(mine, mine) for mine in loss]),
        "sharpness": float(np.var([v.p for v in voxels])),
    }
    majority = [(v.p, 2 * sum(v.marks.values()) > len(v.marks)) for v in voxels]
    of_bob = [(v.p, v.marks["bob"] == 1) for v in voxels if "bob" in v.marks]
    for argument, labelled in (("", majority), (":rater:bob", of_bob)):
        found[f"auroc{argument}"], found[f"average_precision{argument}"] = slow_curves(labelled)
    return found


def slow_curves(labelled: list[tuple[float, bool]]) -> tuple[float | None, float | None]:
    """Areas under the receiver operating characteristic and the precision-recall curve."""
    inside, outside = [p for p, label in labelled if label], [p for p, label in labelled if not label]
    if not inside or not outside:
        return None, None
    wins = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    precision = [sum(a >= mine for a in inside) / sum(p >= mine for p, _ in labelled) for mine in inside]
    return float(np.mean(wins)), float(np.mean(precision))


def slow_agreement(voxels: Sequence[Voxel]) -> dict[str, float | None]:
    found: dict[str, float | None] = {"fleiss_kappa": None, "krippendorff_alpha": None, "pairwise_dice": None}
    n_raters = {len(v.marks) for v in voxels}
    q = sum((v.exact_m for v in voxels), Fraction(0)) / len(voxels)
    if len(n_raters) == 1 and n_raters != {1} and 0 < q < 1:
        agree = [np.mean([a == b for a, b in combinations(v.marks.values(), 2)]) for v in voxels]
        chance = float(q**2 + (1 - q) ** 2)
        found["fleiss_kappa"] = (float(np.mean(agree)) - chance) / (1 - chance)
    units = [list(v.marks.values()) for v in voxels if len(v.marks) > 1]
    values = [mark for unit in units for mark in unit]
    if len(set(values)) == 2:
        observed = sum((unit.count(0) * unit.count(1)) / (len(unit) - 1) for unit in units) / len(values)
        expected = values.count(0) * values.count(1) / len(values) / (len(values) - 1)
        found["krippendorff_alpha"] = 1 - observed / expected
    dice = []
    for a, b in combinations(RATERS, 2):
        pairs = [(v.marks[a], v.marks[b]) for v in voxels if a in v.marks and b in v.marks]
        if any(x or y for x, y in pairs):
            dice.append(2 * sum(x and y for x, y in pairs) / sum(x + y for x, y in pairs))
    if dice:
        found["pairwise_dice"] = float(np.mean(dice))
    return found


def slow_metrics(voxels: Sequence[Voxel]) -> dict[str, float | None]:
    parts = (slow_calibration, slow_proper, slow_raters, slow_overlap, slow_uncertainty, slow_agreement)
    return {name: figure for part in parts for name, figure in part(voxels).items()}


def check_definitions(cases: Sequence[Case]) -> None:
    cells = scored(cases)
    for name, expected in slow_metrics([voxel for case in cases for voxel in case]).items():
        found = value(name, cells)
        if expected is None:
            assert found is None, name
        else:
            # The correlation of values that differ little loses digits, by either road.
            tolerance = 1e-4 if name.startswith("ncc") else 1e-10
            assert found == pytest.approx(expected, rel=tolerance, abs=1e-11), name


@given(one_case)
def test_metrics_are_their_definitions_voxel_by_voxel(cases: list[Case]) -> None:
    check_definitions(cases)


@settings(max_examples=60)
@given(mixed_cases)
def test_metrics_of_cases_with_raters_of_their_own_are_their_definitions(cases: list[Case]) -> None:
    check_definitions(cases)


def test_every_metric_has_a_definition_here() -> None:
    defined = set(slow_metrics([Voxel(9000, {"ann": 1, "bob": 0}), Voxel(3, {"ann": 0, "bob": 0})]))
    ours = {metric.name for metric in metrics.resolve(None)}
    assert set(ARGUMENTS) < defined
    assert ours - defined == {"smece_mhr", *STAPLE[:2]}  # test_smooth.py, test_agreement.py, and below


@settings(max_examples=30)
@given(mixed_cases)
def test_rates_to_staple_are_their_definitions(cases: list[Case]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twintrack_core.staple._MAX_ITERATIONS", 500)
        cells = scored(cases)
        # Cases without a mark have no STAPLE and are left out, as those are whose marks do not determine it.
        shared = [case for case in cases if len(case[0].marks) > 2 and any(any(v.marks.values()) for v in case)]
        sums = {rater: [0.0] * 4 for rater in cells.raters}
        try:
            truths = [staple(histogram(case).pattern_counts, len(case[0].marks)).probability for case in shared]
        except FitError:
            assert all(value(name, cells) is None for name in STAPLE[:2])
            return
        for case, truth in zip(shared, truths, strict=True):
            for voxel in case:
                w = truth[sum(mark << bit for bit, mark in enumerate(voxel.marks.values()))]
                for rater, mark in voxel.marks.items():
                    for place, term in enumerate((w * mark, w, (1 - w) * (1 - mark), 1 - w)):
                        sums[rater][place] += float(term)
        for start, name in ((0, "staple_sensitivity"), (2, "staple_specificity")):
            rates = {rater: found[start] / found[start + 1] for rater, found in sums.items() if found[start + 1]}
            expected = float(np.mean(list(rates.values()))) if rates else None
            assert value(name, cells) == (expected if expected is None else pytest.approx(expected))
            found = value(f"{name}:bob", cells)
            assert found == (pytest.approx(rates["bob"]) if "bob" in rates else None)


# --- What holds for all -----------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.one_of(one_case, mixed_cases), st.sampled_from([2**25 + 1, 2**33 + 1, 2**45 + 1]))
def test_counts_of_any_size_change_no_metric(cases: list[Case], times: int) -> None:
    once, often = scored(cases), scored(cases, times)
    assert often.n_voxels == sum(map(len, cases)) * times
    for metric in (*metrics.resolve(None), *metrics.resolve(ARGUMENTS)):
        if metric.name not in (*SIZE_MATTERS, *STAPLE):
            found, expected = value(metric.name, often), value(metric.name, once)
            assert found == (expected if expected is None else pytest.approx(expected, rel=1e-6, abs=1e-10))


@settings(max_examples=50)
@given(st.one_of(one_case, mixed_cases))
def test_counts_of_any_size_change_no_metric_that_is_a_limit(cases: list[Case]) -> None:
    """What depends on the number of voxels, such as a bias or where a bin is cut, settles as they grow."""
    many, more = scored(cases, 2**33 + 1), scored(cases, 2**52 + 1)
    for name in SIZE_MATTERS - {"adaptive_ece_mhr"}:
        expected = value(name, many)
        assert value(name, more) == (expected if expected is None else pytest.approx(expected, rel=1e-6, abs=1e-8))


@settings(max_examples=50)
@given(st.one_of(one_case, mixed_cases), st.sampled_from([1, 7, 2**53]))
def test_values_lie_in_the_range_that_is_promised(cases: list[Case], times: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twintrack_core.staple._MAX_ITERATIONS", 500)
        cells = scored(cases, times)
        for metric in (*metrics.resolve(None), *metrics.resolve((*ARGUMENTS, *STAPLE))):
            found = value(metric.name, cells)
            low, high = metric.range
            assert found is None or low <= found <= high, metric.name


@settings(max_examples=50)
@given(st.one_of(one_case, mixed_cases))
def test_what_adds_up(cases: list[Case]) -> None:
    cells = scored(cases)
    found = {metric.name: value(metric.name, cells) for metric in metrics.resolve(None) if metric.name not in STAPLE}
    calibration, refinement, total = (found[f"brier_{part}"] for part in ("calibration", "refinement", "rater"))
    assert calibration is not None
    assert refinement is not None
    assert calibration + refinement == pytest.approx(total, abs=1e-15)
    if cells.n_raters == 1:
        assert found["brier_mhr"] == pytest.approx(total, abs=1e-15)
    if len(cases) == 1:  # each voxel has the same raters, so means over raters and over voxels can be exchanged
        assert found["log_loss_rater"] == pytest.approx(found["cross_entropy_mhr"])
        if cells.n_raters != 1:
            assert found["log_loss_without"] == pytest.approx(found["cross_entropy_mhr"])


@pytest.mark.parametrize("times", [1, 2**55])
@pytest.mark.parametrize("mark", [0, 1])
def test_marks_that_are_all_alike(mark: int, times: int) -> None:
    cells = scored([[Voxel(code, dict.fromkeys(("ann", "bob", "cy"), mark)) for code in (0, 9000, 14000)]], times)
    undefined = {m.name: r.why for m in metrics.resolve(None) if isinstance(r := measured(m.name, cells), Undefined)}
    every = "every" if mark else "no"
    one_class = dict.fromkeys(("auroc", "average_precision"), f"majority marks {every} voxel")
    alike = dict.fromkeys(("fleiss_kappa", "krippendorff_alpha"), f"every rater marked {every} voxel")
    if mark:
        rest = {"staple_specificity": "STAPLE leaves nothing to compare with"}
    else:
        nothing = "STAPLE is undefined where no rater marked a voxel"
        rest = dict.fromkeys(STAPLE[:2], nothing)
        rest |= {"volume_error": "no rater marked a voxel", "pairwise_dice": "no rater of a pair marked a voxel"}
    assert undefined == one_class | alike | rest | {"ncc": "the raters disagree everywhere as much"}


def test_a_single_rater_has_nobody_to_agree_with() -> None:
    cells = scored([[Voxel(code, {"ann": int(code > 5)}) for code in (0, 9000, 14000)]])
    undefined = {m.name: r.why for m in metrics.resolve(None) if isinstance(r := measured(m.name, cells), Undefined)}
    agreement = ("fleiss_kappa", "krippendorff_alpha", "pairwise_dice")
    without = ("ece_without", "brier_without", "log_loss_without")
    not_determined = "it takes 3 raters or more for their marks to determine STAPLE"
    assert undefined == {
        **dict.fromkeys((*agreement, *without), "it takes 2 raters or more"),
        **dict.fromkeys(STAPLE[:2], not_determined),
        "ncc": "the raters disagree everywhere as much",
    }
    assert measured("ece_without:ann", cells) == Undefined("there is no other rater")


def test_a_rater_there_is_not_and_an_argument_there_cannot_be() -> None:
    cells = scored([[Voxel(code, {"ann": int(code > 5), "bob": 1, "cy": 0}) for code in (0, 9000, 14000)]])
    for base in ("ece_rater", "ece_without", "log_loss_without", "staple_sensitivity", "auroc:rater"):
        result = measured(f"{base}:zoe", cells)
        assert isinstance(result, Undefined), base
        assert result.why == "there is no rater 'zoe' among ann, bob, cy"
    for name in ("ece_rater:", "ncc:entropy", "auroc:mhr", "auroc:rater:", "auroc:mean", "auroc:", "ece_mhr:ann"):
        with pytest.raises(RequestError):
            metrics.get(name)
    for name in (*ARGUMENTS, *STAPLE):
        (metric,) = metrics.resolve([name])
        assert metric.name == name


def test_without_voxels_or_raters_nothing_is_defined() -> None:
    outside = CaseStatistics(JointHistogram.from_cells([0], [9000], [1], [5], ["bob", "ann"]))
    for metric in (*metrics.resolve(None), *metrics.resolve((*ARGUMENTS, *STAPLE))):
        assert measured(metric.name, ScoredCells.of([])) == Undefined("there are no raters")
        assert measured(metric.name, ScoredCells.of([outside], "roi")) == Undefined("there are no voxels")


def test_a_rater_whose_cases_have_no_voxels_in_the_region() -> None:
    inside = CaseStatistics(JointHistogram.from_cells([1, 1], [9000, 0], [1, 2], [5, 6], ["ann", "cy"]))
    outside = CaseStatistics(JointHistogram.from_cells([0, 0], [9000, 4], [1, 3], [5, 7], ["bob", "ann"]))
    both, alone = ScoredCells.of([inside, outside], "roi"), ScoredCells.of([inside], "roi")
    for metric in metrics.resolve(None):
        assert value(metric.name, both) == value(metric.name, alone), metric.name
    for name in ARGUMENTS:
        if "bob" in name:
            assert measured(name, both) == Undefined("there are no voxels")


def test_scores_that_are_all_alike() -> None:
    cells = scored([[Voxel(9000, {"ann": 0, "bob": k % 2}) for k in range(4)] + [Voxel(9000, {"ann": 1, "bob": 1})]])
    assert measured("ncc", cells) == Undefined("the scores are everywhere as uncertain")
    assert value("auroc", cells) == 0.5
    assert value("average_precision", cells) == pytest.approx(0.2)
    assert value("sharpness", cells) == 0


def test_metrics_are_described() -> None:
    names = [metric.name for metric in metrics.resolve(None)]
    assert len(set(names)) == len(names)
    for metric in metrics.resolve([*names, *ARGUMENTS, *STAPLE]):
        assert metric.description
        assert metric.source
        assert metric.unit
        assert metric.better in ("lower", "higher", "zero", "neither")
        assert metric.range[0] < metric.range[1]
    with pytest.raises(RequestError, match=r"no metric 'ece'\.\nAllowed: "):
        metrics.get("ece")
    assert N_CODES == CODE_ONE + 1
