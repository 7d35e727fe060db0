"""Small cohorts of tables, drawn without any volume."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from twintrack_core.codes import encode
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram

RATERS = ("ann", "bob", "cy")


def case(seed: int, *, voxels: int = 3000, n_scores: int = 30, shift: float = 0.0) -> JointHistogram:
    """Over-confident scores; raters who mark with sigmoid(logit(p) / 2 - 0.5 + shift), bob more than the others."""
    rng = np.random.default_rng(seed)
    codes = encode(np.sort(rng.choice(np.linspace(0.01, 0.99, 99), n_scores, replace=False)))
    score = codes.view(np.float16).astype(np.float64)
    code = rng.choice(np.arange(n_scores), voxels)
    pattern = np.zeros(voxels, dtype=np.int64)
    for bit, bias in enumerate((0.0, 0.6, -0.2)):
        chance = expit(logit(score[code]) / 2 - 0.5 + shift + bias)
        pattern |= (rng.random(voxels) < chance).astype(np.int64) << bit
    inside = (rng.random(voxels) < 0.7).astype(np.int64)
    return JointHistogram.from_cells(inside, codes[code], pattern, np.ones(voxels, dtype=np.int64), RATERS)


def cohort(n: int = 8, *, seed: int = 0, spread: float = 0.3, voxels: int = 3000) -> CohortStatistics:
    """Cases whose raters are more or less generous, of two sites."""
    shift = spread * np.random.default_rng(seed).normal(size=n)
    return CohortStatistics(
        {
            f"case{i:03d}": CaseStatistics(
                case(1000 * seed + i, shift=shift[i], voxels=voxels), attributes={"site": "AB"[i % 2]}
            )
            for i in range(n)
        },
        "raters+20",
    )
