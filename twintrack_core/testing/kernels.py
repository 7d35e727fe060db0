"""The conformance kit of kernels: what `twintrack_core.kernels.findings` promises, compared with the oracle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product

import numpy as np

from twintrack_core.codes import N_CODES
from twintrack_core.errors import WorkError
from twintrack_core.kernels.registry import Kernel
from twintrack_core.testing import _voxels
from twintrack_core.testing._checks import make_all
from twintrack_core.testing._oracle import LUT_DTYPES, compare, compare_counts, compare_split, compare_values
from twintrack_core.testing._voxels import DTYPES, KINDS, MEMBERS, SIZES, Voxels, volume

_FULL = (1 << 32) - 1
_CAREFUL_SIZES = (1, 100, 4200)


class _KernelChecks:
    """The checks that need nothing but NumPy, the quickest first."""

    kernel: Kernel

    def test_every_float16(self) -> None:
        """All 65,536 bit patterns, alone and beside another member; and all that are valid."""
        patterns = np.arange(1 << 16)
        others = np.random.default_rng(0).integers(0, N_CODES, 1 << 16)
        valid = np.append(np.arange(N_CODES), 0x8000)
        rows = [[patterns], [patterns, patterns], [patterns, others], [others, patterns], [valid], [valid, valid[::-1]]]
        for codes, clip in product(rows, (False, True)):
            compare(self.kernel, Voxels("all float16 bit patterns", _voxels.float16(np.stack(codes))), clip=clip)

    def test_every_uint8(self) -> None:
        """All values, alone and in pairs."""
        values = np.arange(256, dtype=np.uint8)
        compare(self.kernel, Voxels("all uint8 values", values[np.newaxis]))
        compare(self.kernel, Voxels("all pairs of uint8 values", np.stack([values.repeat(256), np.tile(values, 256)])))

    def test_rounding(self) -> None:
        """One float32 score at and beside every midpoint of two codes, from -2^-25 to 1 + 2^-11."""
        scores = _voxels.half_midpoints()
        tiny = _voxels.float32([1, 0x80000001, 0x00800000, 0x80800000, 0x80000000])
        mixed = np.random.default_rng(0).permutation(np.concatenate([scores, tiny]))
        for rows, clip in product(([scores], [tiny], [scores, scores], [mixed, mixed[::-1]]), (False, True)):
            compare(self.kernel, Voxels("midpoints of codes", np.stack(rows)), clip=clip)

    def test_means(self) -> None:
        """Means at which the order and precision of the sum, or another division, would show; and exact ties."""
        neighbours = _voxels.float16(np.stack([np.arange(N_CODES - 1), np.arange(1, N_CODES)]))
        compare(self.kernel, Voxels("neighbouring codes", neighbours))
        compare(self.kernel, Voxels("neighbouring codes", neighbours.astype(np.float32)))
        for members in (2, 3, 5, 6, 7, 9, 33):
            compare(self.kernel, Voxels("means near midpoints of codes", _voxels.near_midpoints(members)))

    def test_members_that_are_invalid_together(self) -> None:
        """Invalid members whose mean would be valid: 2 and 0, infinity and minus infinity."""
        for pair in ([2.0, 0.0], [-1.0, 1.0], [np.inf, -np.inf], [np.nan, 0.5], [65504.0, -65504.0]):
            for dtype, clip in product(("float16", "float32"), (False, True)):
                scores = np.tile(np.array(pair, dtype)[:, np.newaxis], 301)
                compare(self.kernel, Voxels(f"members {pair}", scores), clip=clip)

    def test_numbers_of_raters(self) -> None:
        """0 to 8 raters, with votes and without."""
        for n_raters, dtype in product(range(9), DTYPES):
            voxels = volume("any scores and votes", dtype, 1, 5000, n_raters)
            compare_counts(self.kernel, voxels, planes=1)
            compare_counts(self.kernel, voxels._replace(votes=None), planes=1)

    def test_places_in_memory(self) -> None:
        """Read-only arrays that are aligned to their items and no more."""
        for dtype, members, offset in product(DTYPES, (1, 3), (*range(1, 9), 15, 31, 33, 63)):
            voxels = volume("any scores and votes", dtype, members, 4500 + offset, 3)
            compare(self.kernel, _voxels.moved(_with_region(voxels), offset))

    def test_values_of_every_dtype(self) -> None:
        """Tables of every dtype, with NaN or any byte for invalid scores."""
        for kind, dtype, lut in product(KINDS, DTYPES, LUT_DTYPES):
            for members in (1, 3):
                compare_values(self.kernel, volume(kind, dtype, members, 9000, 1), dtype=lut)
        for dtype, lut in product(("float16", "float32"), LUT_DTYPES):
            for damaged in _voxels.with_invalid_scores(volume("runs", dtype, 2, 8213, 1)):
                compare_values(self.kernel, damaged, dtype=lut)

    def test_regions(self) -> None:
        """Regions of any bytes, in a table of two planes; and no region, in a table of one."""
        for kind, dtype in product(KINDS, DTYPES):
            voxels = volume(kind, dtype, 1 if dtype == "float16" else 2, 9000, 2)
            compare_counts(self.kernel, voxels, planes=1)
            for words, region in _voxels.regions(voxels.scores.shape[1]):
                compare_counts(self.kernel, voxels._replace(words=f"{kind}, {words}", region=region))

    def test_counts_are_added(self) -> None:
        """To what the table holds, up to 2^32 - 1 and exactly."""
        for kind, (dtype, size) in product(KINDS, (("uint8", 5000), ("float32", 5000), ("float16", 70_001))):
            voxels = volume(kind, dtype, 1, size, 1)
            for start in ((1 << 31) - 3, (1 << 24) + 1, _FULL - size):
                compare_counts(self.kernel, voxels, start=start)
            compare_counts(self.kernel, _with_region(voxels), start=np.arange(4 * N_CODES).reshape(2, 2, N_CODES))

    def test_splits(self) -> None:
        """Voxels in several calls give the table and findings of one."""
        rng = np.random.default_rng(0)
        for kind, dtype in product(KINDS, DTYPES):
            voxels = _with_region(volume(kind, dtype, 2, 10_000, 2))
            if dtype != "uint8":
                voxels.scores[1, rng.integers(0, 10_000, 3)] = np.nan
            compare_split(self.kernel, voxels, sorted(rng.integers(0, 10_000, 5).tolist()))

    def test_threads(self) -> None:
        """Calls at the same time, on the same voxels and on others, each with a table of its own."""
        many = [volume(kind, dtype, 2, 60_000, 3) for kind, dtype in product(("runs", "saturated scores"), DTYPES)]
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(compare, self.kernel, voxels) for voxels in many * 3]
        for call in calls:
            call.result()

    def test_invalid_scores(self) -> None:
        """Every invalid score, alone at the places where blocks begin and end, and in many places at once."""
        for dtype, members, size in product(("float16", "float32"), (1, 3), _CAREFUL_SIZES):
            for kind, clip in product(("background", "any scores and votes"), (False, True)):
                voxels = _with_region(volume(kind, dtype, members, size, 0))
                for damaged in _voxels.with_invalid_scores(voxels):
                    compare(self.kernel, damaged, clip=clip)

    def test_invalid_votes(self) -> None:
        """Patterns of 2^R and more, with valid and invalid scores."""
        for dtype, n_raters, size in product(DTYPES, (0, 2), _CAREFUL_SIZES):
            for kind in ("background", "any scores and votes"):
                voxels = _with_region(volume(kind, dtype, 1, size, n_raters))
                for damaged in _voxels.with_invalid_votes(voxels):
                    compare_counts(self.kernel, damaged)

    def test_numbers_of_voxels(self) -> None:
        """All small numbers, and those around every likely block; the last voxel alone, and among others."""
        for dtype, members in product(DTYPES, (1, 3)):
            voxels = volume("any scores and votes", dtype, members, max(SIZES), 1)
            for size in SIZES:
                compare(self.kernel, voxels.part(0, size))
                alone = np.arange(size) == size - 1
                scores = (alone * (np.arange(members)[:, np.newaxis] == members - 1)).astype(dtype)
                votes = (alone * size % 2).astype(np.uint8)
                compare(self.kernel, Voxels("the last voxel alone", scores, votes, None, 1))

    def test_kinds_of_volumes(self) -> None:
        """Every kind of volume, dtype and number of members, with and without votes."""
        for kind, dtype, members in product(KINDS, DTYPES, MEMBERS):
            voxels = volume(kind, dtype, members, 5000, 3)
            compare(self.kernel, voxels)
            compare_counts(self.kernel, voxels._replace(votes=None, n_raters=0))

    def test_large_volumes(self) -> None:
        """More voxels than any block, and more in one cell than 16 bits count."""
        for kind, (dtype, members) in product(KINDS, (("float16", 1), ("float32", 2))):
            voxels = volume(kind, dtype, members, 2 * 65536 + 17, 3)
            compare(self.kernel, voxels)
            compare_counts(self.kernel, _voxels.damaged(_with_region(voxels), np.nan, [70_000, 130_000]))


def _with_region(voxels: Voxels) -> Voxels:
    """Return the same voxels with a region of long and short runs."""
    places = np.arange(voxels.scores.shape[1])
    return voxels._replace(region=(places // 5000 % 2 ^ (places % 997 < 3)).astype(np.uint8))


class KernelConformance(_KernelChecks):
    """What every kernel must do, as a class of tests: derive from it, name the kernel, and let pytest collect it.

    The results of both functions are compared with `twintrack_core.kernels.reference`: over every kind of volume,
    dtype, number of members and raters, size, place in memory and invalid input. Inputs, and
    memory beside the results, must stay as they are.

    Attributes
    ----------
    kernel
        A module or any other object with ``accumulate`` and ``relabel``.

    Examples
    --------
    >>> import my_kernel
    >>> class TestMyKernel(KernelConformance):
    ...     kernel = my_kernel
    """

    def test_any_voxels_in_any_split(self) -> None:
        """Voxels that Hypothesis makes up, of which it shows the simplest that fail."""
        try:
            from twintrack_core.testing._strategies import for_all_splits
        except ImportError as error:
            raise WorkError(
                "Cannot make up voxels without hypothesis.", None, "pip install twintrack-core[testing]"
            ) from error
        for_all_splits(partial(compare_split, self.kernel))


def check_kernel(kernel: Kernel) -> None:
    """Run the checks of `KernelConformance`, all but the one that needs Hypothesis, without pytest.

    Parameters
    ----------
    kernel
        A module or any other object with ``accumulate`` and ``relabel``.

    Raises
    ------
    AssertionError
        For the first difference from `twintrack_core.kernels.reference`: what was called with which voxels, what came
        out, and what should have.
    """
    checks = _KernelChecks()
    checks.kernel = kernel
    make_all(checks, _KernelChecks)
