"""What scale is measured on is what it says; the page has a place for every table, and its code compiles."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import twintrack_core as tt
from benchmarks import scale
from benchmarks.lung import ORGAN_SHARDS, RATERS, lung_case, write_lungs, write_organ
from benchmarks.processes import taken
from benchmarks.sections import replaced
from twintrack_core.codes import CODE_VALUES
from twintrack_core.cohort.scratch import Scratch


@pytest.fixture(scope="module")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> tt.Cohort:
    return write_lungs(tmp_path_factory.mktemp("lungs") / "two.zarr", 2)


def test_a_case_depends_on_its_number_and_the_seed_only(lungs: tt.Cohort, tmp_path: Path) -> None:
    write_lungs(tmp_path / "one.zarr", 1, threads=1)
    assert scale.digest(tmp_path / "one.zarr" / "lung0000") == scale.digest(Path(str(lungs.folder)) / "lung0000")
    assert lung_case(0, seed=1).shape != lung_case(0).shape


def test_volumes_are_large_and_nearly_empty(lungs: tt.Cohort) -> None:
    for index, stored in enumerate(lungs):
        case = lung_case(index)
        assert (stored.shape, stored.raters) == (case.shape, RATERS)
        assert 140 <= stored.shape[0] <= 360
        assert stored.shape[1:] == (512, 512)
        assert 1 <= len(case.lesions) <= 4
        assert len(stored.probability.written()) < 0.2 * math.prod(stored.probability.grid)
        for lesion in case.lesions:
            found = np.empty(lesion.probability.shape, dtype=np.float16)
            stored.probability.read(lesion.box, found, Scratch())
            assert np.all(found >= lesion.probability)  # others may overlap it
            assert np.all(lesion.probability[lesion.votes > 0] > 0)


def test_counts_are_those_of_the_lesions(lungs: tt.Cohort) -> None:
    statistics = tt.accumulate(lungs)
    for index, name in enumerate(lungs.names):
        case, histogram = lung_case(index), statistics[name].histogram
        assert histogram.n_voxels == math.prod(case.shape)
        assert 0 < histogram.counts[..., 1:, :].sum() <= sum(np.count_nonzero(one.probability) for one in case.lesions)


def test_raters_disagree_about_what_the_ensemble_is_unsure_of(lungs: tt.Cohort) -> None:
    counts = sum(case.histogram.counts.sum(axis=0) for _, case in tt.accumulate(lungs).items())
    marks = np.bitwise_count(np.arange(counts.shape[1], dtype=np.uint8)) / len(RATERS)
    mhr = [
        np.average(marks, weights=counts[some].sum(axis=0))
        for some in (CODE_VALUES > 0.99, abs(CODE_VALUES - 0.5) < 0.1)
    ]
    assert mhr[0] > 0.8
    assert 0.1 < mhr[1] < 0.7


def test_an_organ_is_counted_as_it_was_made(tmp_path: Path) -> None:
    shape = (ORGAN_SHARDS[0] + 200, *ORGAN_SHARDS[1:])
    organ = write_organ(tmp_path / "organ.zarr", 2, shape=shape)
    histogram = tt.accumulate(organ.cohort)["organ"].histogram
    assert histogram.n_voxels == math.prod(shape) == organ.counts.sum()
    np.testing.assert_array_equal(histogram.counts.sum(axis=0), organ.counts)


def test_peaks_are_those_of_the_command_and_of_what_it_starts() -> None:
    hold = "import time; held = b'x' * (%d << 20); time.sleep(1)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold % 300!r}], check=True)"
    found = taken([sys.executable, "-c", start])
    assert found.peak < 200 < 300 < found.worker


def test_digests_tell_names_and_contents_apart(tmp_path: Path) -> None:
    found = []
    for name, text in (("a", "x"), ("a", "y"), ("b", "y")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(text)
        found.append(scale.digest(folder))
    assert len(set(found)) == 3


def test_the_page_has_a_place_for_every_table() -> None:
    page = scale.PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- generated: ") == page.count("<!-- end -->") == len(scale.SECTIONS)
    assert replaced(page, dict.fromkeys(scale.SECTIONS, "x")).count("\nx\n") == len(scale.SECTIONS)


def test_the_page_s_examples_compile() -> None:
    examples = re.findall(r"```python\n(.*?)```", scale.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        compile(example, "docs/scaling.md", "exec")
