from __future__ import annotations

import numpy as np
import pytest
from cohorts import cohort
from scipy.spatial.distance import jensenshannon

from twintrack_core.codes import CODE_VALUES, encode
from twintrack_core.errors import RequestError
from twintrack_core.histogram import CaseStatistics, CohortStatistics, JointHistogram
from twintrack_core.validation import drift


def unrated(*tables: dict[float, int]) -> CohortStatistics:
    return CohortStatistics(
        {
            f"new{i}": CaseStatistics(
                JointHistogram.from_cells(
                    np.ones(len(table), dtype=int), encode(list(table)), np.zeros(len(table), dtype=int),
                    list(table.values()), [],
                )
            )
            for i, table in enumerate(tables)
        }
    )  # fmt: skip


def test_shares_support_and_distances_by_hand() -> None:
    fitted = unrated({0.0: 90, 0.5: 10, 0.9: 10}, {0.0: 90, 0.5: 10}, {0.0: 90, 0.5: 30})
    new = unrated({0.0: 50, 0.5: 30, 0.9: 20}, {0.0: 99, 0.3: 1}, {0.0: 7})
    found = drift(fitted, new, least=2.0)
    place = {score: int(CODE_VALUES[encode([score])[0]] * 50) for score in (0.0, 0.3, 0.5, 0.9)}
    assert found.support[place[0.0]] == pytest.approx(3)
    assert found.support[place[0.5]] == pytest.approx(50**2 / (100 + 100 + 900))
    assert found.support[place[0.9]] == pytest.approx(1)
    assert found.support[place[0.3]] == 0
    assert found.fitted[place[0.5]] == pytest.approx(50 / 330)
    assert found.new[place[0.9]] == pytest.approx(20 / 207)
    assert found.unsupported == pytest.approx(21 / 207)
    assert found.unsupported_foreground == pytest.approx(21 / 51)
    assert set(found.distance) == {"new0", "new1"}  # the third has background alone
    pooled = np.array([0.0, 50, 10])  # scores 0.3, 0.5, 0.9
    assert found.distance["new0"] == pytest.approx(jensenshannon([0, 30, 20], pooled, base=2))
    assert found.distance["new1"] == pytest.approx(1.0)
    assert found.rank["new1"] == pytest.approx(1 / 4)  # further than each of three from the others


def test_the_same_cohort_does_not_drift_and_a_shifted_one_does() -> None:
    statistics = cohort(20)
    same = drift(statistics.select(statistics.names[:10]), statistics.select(statistics.names[10:]))
    assert same.unsupported < 0.3  # a case has 30 of 99 scores
    assert min(same.rank.values()) >= 1 / 11
    shifted = statistics.select(statistics.names[10:]).relabel(encode(CODE_VALUES**8))
    moved = drift(statistics.select(statistics.names[:10]), shifted)
    assert min(moved.distance.values()) > max(same.distance.values())
    assert np.median(list(moved.rank.values())) == pytest.approx(1 / 11)


def test_a_fitted_case_is_compared_with_the_others_alone() -> None:
    # The second case is all there is at 0.5: without it, nothing is left there, and it is as far off as can be.
    fitted = unrated({0.0: 90, 0.9: 10}, {0.0: 90, 0.5: 1000}, {0.0: 90, 0.9: 10})
    new = unrated({0.0: 50, 0.1: 30}, {0.0: 50, 0.5: 30})
    found = drift(fitted, new)
    assert found.distance["new0"] == pytest.approx(1.0)
    assert found.rank["new0"] == pytest.approx(2 / 4)  # the second one is as far from the others
    assert found.rank["new1"] == pytest.approx(4 / 4)


def test_nothing_to_compare_with_is_as_far_as_can_be() -> None:
    found = drift(unrated({0.0: 90}, {0.0: 80}), unrated({0.0: 5, 0.5: 5}))
    assert found.distance["new0"] == 1.0
    alone = drift(unrated({0.0: 90, 0.5: 1}, {0.0: 80}), unrated({0.0: 5, 0.5: 5}))
    assert alone.rank["new0"] == 1.0


def test_what_cannot_be_compared() -> None:
    fitted = unrated({0.5: 10}, {0.5: 10})
    with pytest.raises(RequestError, match="1 cases"):
        drift(fitted.select(["new0"]), fitted)
    with pytest.raises(RequestError, match=r"'full'.*'mask'"):
        drift(fitted, CohortStatistics(dict(fitted.items()), "mask"))
    empty = CohortStatistics({"e": CaseStatistics(JointHistogram.from_cells([0], [0], [0], [5], []))})
    with pytest.raises(RequestError, match="and 0 new ones"):
        drift(fitted, empty)
    background = drift(fitted, unrated({0.0: 5}))
    assert np.isnan(background.unsupported_foreground)
