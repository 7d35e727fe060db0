"""How wide the Venn-Abers band is, and how far the choice of cases moves a map, on a simulated cohort.

`python -m benchmarks.exchangeable` prints what the README of plugins/venn-abers says.
"""

from __future__ import annotations

import numpy as np

import twintrack_core as tt
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.simulate import Simulation

CASES, SHAPE, DRAWS = 20, (48, 128, 128), 200
SCORES = (0.1, 0.25, 0.5, 0.75, 0.9)


def main() -> None:
    """Fit to the cohort, and to as many of its cases drawn with replacement, again and again."""
    simulation = Simulation(CASES, SHAPE, seed=0)
    cases = []
    for name in simulation.case_names():
        case = simulation.read(name)
        assert case.votes is not None
        histogram = JointHistogram.from_votes(case.probability, case.votes, raters=case.raters, members=True)
        cases.append(CaseStatistics(histogram))
    fitted = tt.fit(CohortStatistics({str(place): case for place, case in enumerate(cases)}), "venn_abers")
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        places = rng.integers(0, CASES, CASES).tolist()
        draw = CohortStatistics({str(number): cases[place] for number, place in enumerate(places)})
        drawn.append(tt.fit(draw, "venn_abers")(SCORES))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    band = fitted.bound("upper")(SCORES) - fitted.bound("lower")(SCORES)
    print(f"{fitted.voxels:,} voxels of {CASES} cases, {DRAWS} draws of cases\n")
    print("| score | calibrated | Venn-Abers band | 95 % of draws of cases | ratio |\n|---|---|---|---|---|")
    for row in zip(SCORES, fitted(SCORES), band, high - low, (high - low) / band, strict=True):
        print("| {:g} | {:.3f} | {:.2g} | {:.2g} | {:.0f} |".format(*row))


if __name__ == "__main__":
    main()
