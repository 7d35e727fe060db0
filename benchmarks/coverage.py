"""How often 95 % intervals cover the truth, for few cases; with --write, the tables go into docs/validation.md.

    python -m benchmarks.coverage [--only NAME ...] [--share 1.0] [--write]

A population of simulated cases, tables without volumes, stands for all cases there are. Cohorts are drawn from it, each
case independently of the others but for a table of groups, so that the truth is known exactly: it is what the whole
population gives.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit, ndtr, stdtrit

from benchmarks.sections import replaced, table
from twintrack_core.calibrators.fitting import fit_map
from twintrack_core.calibrators.recipe import Recipe
from twintrack_core.codes import CODE_VALUES, encode
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.maps import CalibrationMap
from twintrack_core.metrics import resolve
from twintrack_core.metrics.evaluation import case_values
from twintrack_core.targets import BinnedTarget, CaseTargets
from twintrack_core.validation import Bootstrap, compare, map_band, reliability_band, split_cases

PAGE = Path(__file__).parent.parent / "docs" / "validation.md"
SIZES = (3, 5, 10, 20)
LEVEL = 0.95

_RATERS = ("ann", "bob", "cy", "dee", "eve")
_BIASES = np.array([-0.5, -0.2, 0.0, 0.2, 0.5])  # of the raters, on the logit
_GENEROSITY, _OWN, _QUALITY = 0.4, 0.2, 0.15  # spread over cases: of all raters, of one, of the ensemble's slope
_SHIFT = -0.5  # raters mark less than the ensemble
_OVERCONFIDENCE = 2.0
_SCORES = np.unique(encode(expit(np.linspace(-8, 8, 161))))

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tables:
    """Voxels of cases and their marks a rater, (cases, scores); and what else their Brier scores are made of."""

    score: _Floats
    voxels: _Floats
    marks: _Floats
    constant: _Floats

    def of(self, cases: Sequence[int] | npt.NDArray[np.int64]) -> Tables:
        """Return some of the cases."""
        return Tables(self.score, self.voxels[cases], self.marks[cases], self.constant[cases])

    def brier(self, values: _Floats) -> _Floats:
        """Return `brier_mhr` of (maps, scores) values, (maps, cases)."""
        loss = values**2 @ self.voxels.T - 2 * values @ self.marks.T
        return np.asarray(loss / self.voxels.sum(axis=1) + self.constant)

    def fitted(self, name: str, times: npt.NDArray[np.int64], at: _Floats) -> _Floats:
        """Return a map's values at some scores, fitted to cases drawn (draws, cases) times, (draws, len(at))."""
        weight, total = times @ self.voxels, times @ self.marks
        if name == "platt":
            return _platt(self.score, weight, total, at)
        found = np.empty((len(times), len(at)))
        for row, voxels, marks in zip(found, weight, total, strict=True):
            there = voxels > 0
            mean = np.minimum(marks[there] / voxels[there], 1.0)
            fitted = fit_map(Recipe(name), BinnedTarget(self.score[there], voxels[there], mean))
            row[:] = np.interp(at, fitted.score, fitted.value)
        return found


def _platt(score: _Floats, weight: _Floats, total: _Floats, at: _Floats) -> _Floats:
    """Fit sigmoid(a logit p + b) in all draws at once, by Newton's method."""
    x = logit(score)
    size = weight.sum(axis=1, keepdims=True)
    share, marked = weight / size, total / size
    b, a = np.full((2, len(weight), 1), [[[-0.5]], [[0.5]]])
    for _ in range(50):
        chance = expit(a * x + b)
        slope, bend = marked - share * chance, share * chance * (1 - chance)
        g0, g1 = slope.sum(axis=1), slope @ x
        h0, h1, h2 = bend.sum(axis=1), bend @ x, bend @ x**2
        determinant = h0 * h2 - h1**2
        steps = (h2 * g0 - h1 * g1) / determinant, (h0 * g1 - h1 * g0) / determinant
        b, a = b + steps[0][:, np.newaxis], a + steps[1][:, np.newaxis]
        if max(np.abs(step).max() for step in steps) < 1e-10:
            return np.asarray(expit(a * logit(at) + b))
    raise AssertionError("Newton's method does not converge.")


@dataclass(frozen=True)
class Population:
    """All the cases there are."""

    cases: tuple[CaseStatistics, ...]

    @classmethod
    def simulate(cls, n_cases: int = 4000, seed: int = 0) -> Population:
        """Draw cases: a lesion of log-normal size, of which small ones are mostly border, and raters as generous as the
        case makes them. Given the case and the score, raters mark independently."""
        rng = np.random.default_rng(seed)
        x = logit(CODE_VALUES[_SCORES])
        cases = []
        for _ in range(n_cases):
            size = np.exp(rng.normal(np.log(2000), 0.8))
            border = 4 * size ** (2 / 3) * np.exp(0.4 * rng.normal())
            share = _bell(x, -6 + 0.5 * rng.normal(), 1.2, 3 * size) + _bell(x, 5 + 0.7 * rng.normal(), 1.5, size)
            share += border * expit((6 - np.abs(x)) * 4) / 12
            voxels = rng.poisson(share * np.diff(x, append=2 * x[-1] - x[-2]))
            latent = x / _OVERCONFIDENCE * np.exp(_QUALITY * rng.normal()) + _SHIFT + _GENEROSITY * rng.normal()
            chance = expit(latent[:, np.newaxis] + _BIASES + _OWN * rng.normal(size=len(_BIASES)))
            patterns = np.ones((len(x), 1))
            for of_rater in chance.T[:, :, np.newaxis]:
                patterns = np.concatenate([patterns * (1 - of_rater), patterns * of_rater], axis=1)
            counts = rng.multinomial(voxels, patterns / patterns.sum(axis=1, keepdims=True))
            place, pattern = np.nonzero(counts)
            inside = np.ones(len(place), dtype=np.int64)
            cells = inside, _SCORES[place], pattern, counts[place, pattern]
            cases.append(CaseStatistics(JointHistogram.from_cells(*cells, _RATERS)))
        return cls(tuple(cases))

    def cohort(self, drawn: Sequence[int] | npt.NDArray[np.int64]) -> CohortStatistics:
        """Return a cohort of the cases drawn, one of which may be there twice."""
        return CohortStatistics({f"case{i:04d}": self.cases[case] for i, case in enumerate(drawn)})

    @cached_property
    def whole(self) -> CohortStatistics:
        """All cases as a cohort."""
        return self.cohort(range(len(self.cases)))

    @cached_property
    def tables(self) -> Tables:
        """Voxels and marks of all cases."""
        targets = CaseTargets.from_statistics(self.whole, "mhr")
        marks = targets.total / targets.denominator
        brier = case_values(self.whole, [None], ["brier_mhr"], "roi")[0, :, 0]
        free = Tables(targets.score, targets.voxels, marks, np.zeros(len(marks)))
        return Tables(targets.score, targets.voxels, marks, brier - free.brier(targets.score[np.newaxis])[0])

    def draws(self, n: int, times: int, seed: int) -> npt.NDArray[np.int64]:
        """Return the cases of so many cohorts of n, (times, n)."""
        return np.random.default_rng([seed, n]).integers(len(self.cases), size=(times, n))


def _bell(x: _Floats, centre: float, width: float, size: float) -> _Floats:
    return np.asarray(size * np.exp(-(((x - centre) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi)))


@dataclass
class Covered:
    """How often intervals cover, and how wide they are."""

    low: list[_Floats] = field(default_factory=list)
    high: list[_Floats] = field(default_factory=list)

    def add(self, low: npt.ArrayLike, high: npt.ArrayLike) -> None:
        """Count intervals, (k,) each end."""
        self.low.append(np.asarray(low, dtype=np.float64))
        self.high.append(np.asarray(high, dtype=np.float64))

    def rates(self, truth: _Floats) -> tuple[_Floats, _Floats]:
        """Return coverage and mean width, (k,) each, of the cohorts that have an interval."""
        low, high = np.array(self.low), np.array(self.high)
        covers = np.where(np.isnan(low), np.nan, (low <= truth) & (truth <= high))
        return np.nanmean(covers, axis=0), np.nanmean(high - low, axis=0)

    def cells(self, truth: _Floats) -> list[str]:
        """Return "coverage (mean width)" for each of k."""
        return [f"{100 * rate:.1f} ({width:#.2g})" for rate, width in zip(*self.rates(truth), strict=True)]


def _error(times: int) -> str:
    return f"{times:,} cohorts, Monte-Carlo standard error {100 * np.sqrt(LEVEL * (1 - LEVEL) / times):.1f}"


def _within(ends: Sequence[_Floats], ranges: Sequence[tuple[float, float]]) -> tuple[_Floats, _Floats]:
    """Return intervals that end where their values do."""
    least, most = np.array(ranges).T
    return np.maximum(ends[0], least), np.minimum(ends[1], most)


_ANY = (-np.inf, np.inf)
_METRICS = ("brier_mhr", "ece_mhr", "volume_error")


def means(population: Population, share: float) -> str:
    """Measure intervals for means over cases, the map fixed, and for differences to the raw scores."""
    columns = _columns(population)
    names = [*_METRICS, *(f"{name}, difference to raw" for name in _METRICS[:2])]
    ranges = [*(metric.range for metric in resolve(_METRICS)), _ANY, _ANY]
    times = round(1000 * share)
    rows = []
    for n in SIZES:
        covered = [Covered() for _ in range(4)]
        for seed, cohort in enumerate(population.draws(n, times, 1)):
            bootstrap, own = Bootstrap(1000, LEVEL, seed), columns[cohort]
            centre, spread = own.mean(axis=0), own.std(axis=0, ddof=1) / np.sqrt(n)
            reach = stdtrit(n - 1, (1 + LEVEL) / 2) * spread
            tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
            found = (
                bootstrap.of_means(own),
                bootstrap.of_means(own, "percentile"),
                np.quantile(bootstrap.times(n) @ own / n, tails, axis=0),
                (centre - reach, centre + reach),
            )
            for of_method, ends in zip(covered, found, strict=True):
                of_method.add(*_within(ends, ranges))
        cells = [of_method.cells(columns.mean(axis=0)) for of_method in covered]
        rows += [(name, str(n), *(of_method[k] for of_method in cells)) for k, name in enumerate(names)]
    rows.sort(key=lambda row: names.index(row[0]))
    title = (
        f"**Means over cases, the map fixed**: coverage in % (mean width); 1,000 draws, {_error(times)}. "
        "The first two columns are what the package gives."
    )
    header = ("mean over cases of", "cases", "BCa", "percentile", "percentile, not expanded", "Student's t alone")
    return table(title, header, rows)


def _columns(population: Population) -> _Floats:
    """Return the metrics of all cases, and two of them less those of the raw scores, (cases, 5); the map is fixed."""
    tables, drawn = population.tables, population.draws(20, 1, 99)[0]
    values = tables.of(drawn).fitted("isotonic", np.ones((1, 20), dtype=np.int64), tables.score)[0]
    raw, new = case_values(population.whole, [None, CalibrationMap(tables.score, values)], _METRICS, "roi")
    return np.column_stack([new, new[:, :2] - raw[:, :2]])


_CORRELATION = 0.7
_GROUPS = {"10 groups of 4": (4,) * 10, "10 groups of 1 to 7": (1, 1, 2, 3, 4, 4, 5, 6, 7, 7)}


def groups(population: Population, share: float) -> str:
    """Measure intervals where cases of a group are alike, for draws of cases and of groups.

    A case's place among all cases, sorted by what is measured, is a normal number of its group plus one of its own.
    """
    columns = _columns(population)[:, [0, 3]]
    order = np.argsort(columns, axis=0)
    times = round(1000 * share)
    rows = []
    for name, sizes in _GROUPS.items():
        group = np.repeat(np.arange(len(sizes)), sizes)
        covered = Covered(), Covered()
        for seed in range(times):
            rng, bootstrap = np.random.default_rng([8, seed]), Bootstrap(1000, LEVEL, seed)
            common, own = rng.normal(size=(len(sizes), 2))[group], rng.normal(size=(len(group), 2))
            share_below = ndtr(np.sqrt(_CORRELATION) * common + np.sqrt(1 - _CORRELATION) * own)
            place = (share_below * len(columns)).astype(np.int64)
            values = np.take_along_axis(columns, np.take_along_axis(order, place, axis=0), axis=0)
            for each, drawn in zip(covered, (None, group), strict=True):
                each.add(*_within(bootstrap.of_means(values, groups=drawn), [resolve(["brier_mhr"])[0].range, _ANY]))
        for drawn_by, each in zip(("cases", "groups"), covered, strict=True):
            rows.append((name, drawn_by, *each.cells(columns.mean(axis=0))))
    title = (
        f"**Means over cases of groups, the map fixed**, intraclass correlation {_CORRELATION} of normal scores: "
        f"coverage in % (mean width); BCa, 1,000 draws, {_error(times)}. With `--group-by` groups are resampled."
    )
    return table(title, ("cohort", "resampled", "brier_mhr", "brier_mhr, difference to raw"), rows)


_BANDS = ("isotonic", "centered_isotonic", "platt")
_AT = CODE_VALUES[encode([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])]


def bands(population: Population, share: float) -> str:
    """Measure the band of the map: it is refitted in every draw."""
    tables = population.tables
    everything = np.ones((1, len(population.cases)), dtype=np.int64)
    truth = {name: tables.fitted(name, everything, _AT)[0] for name in _BANDS}
    _check_bands(population)
    times = round(300 * share)
    rows = []
    for n in SIZES:
        covered = {name: Covered() for name in _BANDS}
        for seed, cohort in enumerate(population.draws(n, times, 2)):
            bootstrap = Bootstrap(1000 if n <= 5 else 300, LEVEL, seed)
            found = _drawn_values(tables.of(cohort), bootstrap)
            for name in _BANDS:
                centre = tables.of(cohort).fitted(name, np.ones((1, n), dtype=np.int64), _AT)[0]
                covered[name].add(*np.clip(bootstrap.of_draws(found[name], centre, n), 0, 1))
        rows += [(name, str(n), *each.cells(truth[name])) for name, each in covered.items()]
    rows.sort(key=lambda row: _BANDS.index(row[0]))
    title = (
        "**The map's band**, refitted in every draw: coverage in % (mean width) at a score; 1,000 draws of 3 and 5 "
        f"cases, 300 of more; {_error(times)}."
    )
    return table(title, ("map", "cases", *(f"{at:.2g}" for at in _AT)), rows)


def _drawn_values(tables: Tables, bootstrap: Bootstrap) -> Mapping[str, _Floats]:
    """Return the maps' values in every draw, as `map_band` finds them; draws that are alike are fitted once."""
    times, place = np.unique(bootstrap.times(len(tables.voxels)), axis=0, return_inverse=True)
    return {name: tables.fitted(name, times, _AT)[place] for name in _BANDS}


def _check_bands(population: Population) -> None:
    cohort, bootstrap = population.draws(5, 1, 3)[0], Bootstrap(50)
    found = _drawn_values(population.tables.of(cohort), bootstrap)
    tables, ones = population.tables.of(cohort), np.ones((1, 5), dtype=np.int64)
    for name in _BANDS:
        band = map_band(population.cohort(cohort), Recipe(name), bootstrap, _AT)
        ends = bootstrap.of_draws(found[name], tables.fitted(name, ones, _AT)[0], 5)
        np.testing.assert_allclose([band.low, band.high], np.clip(ends, 0, 1), rtol=0, atol=1e-6)


def reliability(population: Population, share: float) -> str:
    """Measure the band of the reliability diagram."""
    tables = population.tables
    place = np.minimum((tables.score * 15).astype(int), 14)
    truth = np.bincount(place, tables.marks.sum(axis=0)) / np.bincount(place, tables.voxels.sum(axis=0))
    times = round(500 * share)
    rows = []
    for n in SIZES:
        covered = Covered()
        for seed, cohort in enumerate(population.draws(n, times, 4)):
            low, high = reliability_band(
                [population.cases[case] for case in cohort], "roi", Bootstrap(1000, LEVEL, seed)
            )
            covered.add(low, high)
        rate, width = covered.rates(truth)
        rates = (f"{100 * found:.1f}" for found in (rate.mean(), rate.min(), rate.max(), rate[0], rate[7], rate[14]))
        rows.append((str(n), *rates, f"{width.mean():#.2g}"))
    title = f"**The reliability diagram's band**, 15 bins: coverage in %; 1,000 draws, {_error(times)}."
    header = ("cases", "mean of bins", "worst bin", "best bin", "first bin", "middle bin", "last bin", "mean width")
    return table(title, header, rows)


_FOLDS = 5
_REFITS = 50


def refitted(population: Population, share: float) -> str:
    """Measure intervals of a cross-validated score, against what maps of so many cases do on new cases on average."""
    times = round(300 * share)
    tables = population.tables
    raw = tables.brier(tables.score[np.newaxis]).mean()
    ranges = [resolve(["brier_mhr"])[0].range, _ANY]
    rows = []
    for name in ("isotonic", "platt"):
        _check_refitted(population, name)
        for n in (5, 10, 20):
            trained = population.draws(n - n // _FOLDS, times, 5)
            ones = np.ones((1, trained.shape[1]), dtype=np.int64)
            maps = np.concatenate([tables.of(cases).fitted(name, ones, tables.score) for cases in trained])
            value = tables.brier(_rounded(maps)).mean()
            truth = np.array([value, value - raw])
            fixed, anew = Covered(), Covered()
            for seed, cohort in enumerate(population.draws(n, times, 6)):
                of_cases, of_draws = _compared(population, name, cohort, seed)
                fixed.add(*_within(Bootstrap(1000, LEVEL, seed).of_means(of_cases), ranges))
                anew.add(*_within(_around(Bootstrap(_REFITS, LEVEL, seed), of_cases, of_draws), ranges))
            rows += [
                (name, str(n), how, *each.cells(truth)) for how, each in (("fixed", fixed), ("refitted", anew))
            ]  # fmt: skip
    title = (
        "**The mean held-out `brier_mhr` of a 5-fold comparison**, and its difference to the raw scores: coverage in % "
        "(mean width) of what maps fitted to four fifths of so many cases do on new cases, on average over cohorts; "
        f"maps fixed: BCa, 1,000 draws; refitted: {_REFITS} draws; {_error(times)}."
    )
    return table(title, ("map", "cases", "maps", "brier_mhr", "difference to raw"), rows)


def _compared(population: Population, name: str, cohort: npt.NDArray[np.int64], seed: int) -> tuple[_Floats, _Floats]:
    """Return (cases, 2) held-out values and differences to raw, and the means of both in draws, as `compare` does."""
    tables, n = population.tables.of(cohort), len(cohort)
    statistics = population.cohort(cohort)
    raw = tables.brier(tables.score[np.newaxis])[0]
    drawn = np.vstack([np.ones((1, n), dtype=np.int64), Bootstrap(_REFITS, LEVEL, seed).times(n)])
    values = np.full((n, 1 + _REFITS), np.nan)
    for split in split_cases(statistics, _FOLDS, seed=seed):
        test = np.array([statistics.names.index(case) for case in split.test])
        times = drawn.copy()
        times[:, test] = 0
        some = times.any(axis=1)  # a draw of one case only leaves nothing to fit to
        values[np.ix_(test, some)] = tables.of(test).brier(_rounded(tables.fitted(name, times[some], tables.score))).T
    both = np.stack([values, values - raw[:, np.newaxis]])
    of_draws = np.einsum("dc,kcd->dk", drawn[1:], both[:, :, 1:]) / n
    return both[:, :, 0].T, of_draws


def _around(bootstrap: Bootstrap, of_cases: _Floats, of_draws: _Floats) -> tuple[_Floats, _Floats]:
    """Return standard intervals, (2,) each end."""
    centre = of_cases.mean(axis=0).tolist()
    ends = [bootstrap.around(*both, len(of_cases)) for both in zip(centre, of_draws.T, strict=True)]
    low, high = np.array(ends).T
    return low, high


def _rounded(values: _Floats) -> _Floats:
    return CODE_VALUES[encode(values)]


def _check_refitted(population: Population, name: str) -> None:
    cohort = population.draws(10, 1, 7)[0]
    of_cases, of_draws = _compared(population, name, cohort, 3)
    found = compare(
        population.cohort(cohort), [name], folds=_FOLDS, metrics=["brier_mhr"], refit=_REFITS, level=LEVEL, seed=3
    )[f"{name} to mhr"]
    ends = _around(Bootstrap(_REFITS, LEVEL, 3), of_cases, of_draws)
    assert found.refitted is not None
    for estimate, low, high in zip((found.refitted.value, found.refitted.to_raw), *ends, strict=True):
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        np.testing.assert_allclose([estimate.low, estimate.high], [low, high], rtol=0, atol=1e-6)


SECTIONS: Mapping[str, Callable[[Population, float], str]] = {
    "coverage-means": means,
    "coverage-groups": groups,
    "coverage-bands": bands,
    "coverage-reliability": reliability,
    "coverage-refitted": refitted,
}


def main() -> None:
    """Measure and print; write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="only this table; repeat")
    parser.add_argument("--share", type=float, default=1.0, help="of the cohorts, for a quick look (default: 1)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/validation.md")
    arguments = parser.parse_args()
    population = Population.simulate()
    wanted: Iterable[str] = arguments.only or SECTIONS
    for name in wanted:
        start = time.process_time()
        text = SECTIONS[name](population, arguments.share)
        print(f"{text}\n", flush=True)
        print(f"{name}: {time.process_time() - start:.0f} s of processor time", file=sys.stderr, flush=True)
        if arguments.write:
            PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), {name: text}), encoding="utf-8")


if __name__ == "__main__":
    main()
