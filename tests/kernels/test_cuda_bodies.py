"""The CUDA kernels, run by the threads of this machine, under the conformance kit."""

from __future__ import annotations

from itertools import product

import cuda_bodies
import numpy as np
import pytest
from cuda_bodies import Bodies, Compiler

from twintrack_core.codes import N_CODES
from twintrack_core.kernels import cuda
from twintrack_core.testing import KernelConformance
from twintrack_core.testing._oracle import LUT_DTYPES, compare, compare_counts, compare_values
from twintrack_core.testing._voxels import DTYPES, KINDS, Voxels, moved, regions, volume, with_invalid_scores

pytestmark = pytest.mark.skipif(cuda_bodies.why_not() is not None, reason=str(cuda_bodies.why_not()))


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("cuda"))


class TestBodies(KernelConformance):
    """One member compiled in, others given at run time; more of them are unrolled below."""

    @pytest.fixture(autouse=True)
    def _bodies(self, compiler: Compiler) -> None:
        self.kernel = Bodies(compiler, unrolled=(1,))

    def test_numbers_of_raters(self) -> None:
        # Every width is a variant to be compiled; other checks have 0 to 3 raters.
        for n_raters, dtype in [*product((0, 4, 5, 8), ["float16"]), (8, "float32"), (8, "uint8")]:
            voxels = volume("any scores and votes", dtype, 1, 5000, n_raters)
            compare_counts(self.kernel, voxels, planes=1)
            compare_counts(self.kernel, voxels._replace(votes=None), planes=1)

    def test_values_of_every_dtype(self) -> None:
        # Half of the variants, every pair of dtypes among them.
        for (i, dtype), (j, lut) in product(enumerate(DTYPES), enumerate(LUT_DTYPES)):
            members = 1 + 2 * ((i + j) % 2)
            for kind in KINDS:
                compare_values(self.kernel, volume(kind, dtype, members, 9000, 1), dtype=lut)
            if dtype != "uint8":
                for damaged in with_invalid_scores(volume("runs", dtype, members, 8213, 1)):
                    compare_values(self.kernel, damaged, dtype=lut)


@pytest.mark.parametrize(("dtype", "members"), [("float16", 3), ("float32", 8), ("uint8", 4)])
def test_members_that_are_unrolled(compiler: Compiler, dtype: str, members: int) -> None:
    bodies = Bodies(compiler, unrolled=(members,))
    for kind, size in product(KINDS, (0, 63, 6000, 6017)):
        voxels = volume(kind, dtype, members, size, 3)
        compare(bodies, voxels)
    if dtype != "uint8":
        for damaged in with_invalid_scores(volume("runs", dtype, members, 5000, 3)):
            compare_counts(bodies, damaged)


@pytest.mark.parametrize("shared", [0, 64 * 1024, 99 * 1024])
def test_less_shared_memory(compiler: Compiler, shared: int) -> None:
    bodies = Bodies(compiler, shared=shared)
    for kind in KINDS:
        voxels = volume(kind, "float16", 1, 20_000, 3)
        compare_counts(bodies, voxels)
        for words, region in regions(20_000):
            compare_counts(bodies, voxels._replace(words=f"{kind}, {words}", region=region))
    compare_values(bodies, volume("any scores and votes", "float16", 1, 20_000, 0), dtype="float64")


def test_any_alignment_of_each_array(compiler: Compiler) -> None:
    bodies = Bodies(compiler)
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        whole = volume("any scores and votes", dtype, 1, 3000, 3)._replace(region=rng.integers(0, 2, 3000, np.uint8))
        for _ in range(40):
            scores, votes, region = (moved(whole, int(rng.integers(0, 64))) for _ in range(3))
            compare_counts(bodies, scores._replace(votes=votes.votes, region=region.region))


def test_the_cache_is_emptied_now_and_then(compiler: Compiler) -> None:
    """What is frequent changes, among more cells than the cache has slots."""
    rng = np.random.default_rng(0)
    size = 400_000
    place = np.arange(size)
    codes = np.where(rng.random(size) < 0.7, 500 + place // 40_000 * 700, rng.integers(0, N_CODES, size))
    scores = codes.astype(np.uint16).view(np.float16)[np.newaxis]
    compare_counts(Bodies(compiler), Voxels("changing", scores, rng.integers(1, 8, size, np.uint8), None, 3))


def test_counts_are_moved_to_64_bits(compiler: Compiler) -> None:
    variant = cuda.Variant("float16", 1, 2, 1, False)
    table = np.random.default_rng(0).integers(0, 2**32, (1, 2, N_CODES), np.uint32)
    counts = np.random.default_rng(1).integers(0, 2**60, table.shape)
    expected = counts + table
    Bodies(compiler).flush(variant, table, counts)
    np.testing.assert_array_equal(counts, expected)
    assert not table.any()


BARRIERS = {
    "planes and cache are zero": "accumulate",
    "nobody adds to the cache while it is emptied": "accumulate",
    "nor before it is empty": "accumulate",
    "all counts are in": "accumulate",
    "the table is whole": "relabel",
}


FEW_SLOTS = (("SLOTS", 4096, 4), ("SLOT_BITS", 12, 2), ("TILES_BETWEEN_FLUSHES", 64, 1))


def barriers() -> list[str]:
    text = cuda.accumulate_source(cuda.Variant("float16", 1, 8, 1, False))
    text += cuda.relabel_source("float16", 1, "float32", False)
    return [line.split("/* ")[1].removesuffix(" */") for line in text.splitlines() if "__syncthreads();" in line]


def test_no_barrier_is_left_out_below() -> None:
    assert sorted(barriers()) == sorted(BARRIERS)


@pytest.mark.parametrize(("why", "kernel"), BARRIERS.items())
def test_a_missing_barrier_shows(compiler: Compiler, why: str, kernel: str) -> None:
    edits = [(f"__syncthreads(); /* {why} */", "")]
    if "empt" in why:  # a small cache that is emptied all the time
        edits += [(f"{name} = {usual};", f"{name} = {few};") for name, usual, few in FEW_SLOTS]
    bodies = Bodies(compiler, edits=edits)
    voxels = volume("any scores and votes", "float16", 1, 200_000, 3)
    if "empt" in why:
        few = np.random.default_rng(0).integers(1, 4, voxels.scores.shape).astype(np.float16) / 4
        voxels = voxels._replace(scores=few, votes=np.ones(few.size, np.uint8))

    def run_often() -> None:
        for _ in range(100):
            if kernel == "accumulate":
                compare_counts(bodies, voxels)
            else:
                compare_values(bodies, voxels.part(0, 3000))

    with pytest.raises(AssertionError, match=f"^{kernel}"):
        run_often()


MISTAKES = {
    "a read outside of all arrays": ("if (!aligned)\n            start += VOXELS;", ""),
    "a read outside of": ("(n - start) / VOXELS - !aligned", "(n - start) / VOXELS"),
    "that is not aligned": ("count_groups<false>", "count_groups<true>"),
    "for ever": ("if (blockIdx.x == 0)\n        counter", "if (threadIdx.x < 3)\n        counter"),
    "not all threads reach": ("__syncthreads(); /* all counts", "if (threadIdx.x < 32) __syncthreads(); /* all counts"),
    "not in its own mask": ("__match_any_sync(ALL_LANES, cell)", "__match_any_sync(ALL_LANES << 1, cell)"),
}


@pytest.mark.parametrize(("words", "edit"), MISTAKES.items())
def test_the_shim_sees(compiler: Compiler, words: str, edit: tuple[str, str]) -> None:
    bodies = Bodies(compiler, edits=[edit])
    voxels = volume("runs", "float16", 1, 5000, 3)
    voxels = moved(voxels, 0)._replace(votes=moved(voxels, 4).votes)
    with pytest.raises(RuntimeError, match=words):
        bodies.accumulate(voxels.scores, voxels.votes, None, np.zeros((1, 8, N_CODES), np.uint32))
