"""Every kernel under the conformance kit, and the kit on kernels with a mistake."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from twintrack_core import kernels
from twintrack_core.codes import CODE_NEGATIVE_ZERO, mean_codes
from twintrack_core.kernels import Findings, reference
from twintrack_core.testing import KernelConformance, check_kernel
from twintrack_core.testing.kernels import _KernelChecks

Array = npt.NDArray[Any]


class TestKernels(KernelConformance):
    """All there are; the oracle would be compared with itself."""

    @pytest.fixture(autouse=True, params=[name for name in kernels.names() if name != "reference"])
    def _by_name(self, request: pytest.FixtureRequest) -> None:
        self.kernel = kernels.get(request.param)


class TestPortableC(KernelConformance):
    """The C kernels as they run on a processor without AVX2."""

    @pytest.fixture(autouse=True)
    def _portable(self) -> None:
        if "cython" not in kernels.names():
            pytest.skip("the Cython kernels were not built")
        self.kernel = kernels.get("cython").portable  # type: ignore[attr-defined]


class Correct:
    """The oracle once more, in pieces in which the kernels below make their mistakes."""

    def accumulate(
        self, scores: Array, votes: Array | None, region: Array | None, table: Array, *, clip: bool = False
    ) -> Findings:
        codes, valid = self.codes(scores, clip)
        pattern = np.zeros(codes.shape, np.uint8) if votes is None else votes
        known = pattern < table.shape[1]
        plane = np.zeros(codes.size, np.int64) if region is None else self.plane(region)
        counted = valid & known & self.seen(codes.size)
        cells = np.zeros(table.shape, np.int64)
        np.add.at(cells, (plane[counted] + (len(table) - 1) * (region is None), pattern[counted], codes[counted]), 1)
        self.add(cells, table)
        return self.found(valid, known)

    def relabel(self, scores: Array, lut: Array, out: Array, *, clip: bool = False) -> Findings:
        codes, valid = self.codes(scores, clip)
        self.write(np.where(valid, lut[codes], lut[-1]), out)
        return self.found(valid, None)

    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        return mean_codes(scores, clip=clip)

    def plane(self, region: Array) -> Array:
        return np.where(region != 0, 1, 0)

    def seen(self, size: int) -> Array:
        return np.ones(size, bool)

    def add(self, cells: Array, table: Array) -> None:
        table += cells.astype(np.uint32)

    def write(self, values: Array, out: Array) -> None:
        out[:] = values

    def found(self, valid: Array, known: Array | None) -> Findings:
        return Findings.of(valid, known)


def as_float32(scores: Array) -> Array:
    return np.asarray(scores / np.float32(255) if scores.dtype == np.uint8 else scores, np.float32)


def rounded(mean: Array, valid: Array) -> tuple[Array, Array]:
    codes = np.where(valid, mean, 0).astype(np.float16).view(np.uint16)
    return np.where(codes == CODE_NEGATIVE_ZERO, np.uint16(0), codes), valid


class LosesTheEndOfABlock(Correct):
    def seen(self, size: int) -> Array:
        return np.asarray((np.arange(size) != 4096) | (size < 4098))


class DropsTheLastVoxel(Correct):
    def seen(self, size: int) -> Array:
        return np.arange(size) < max(size - 1, 1)


class NegativeZeroIsInvalid(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        codes, valid = mean_codes(scores, clip=clip)
        return codes, valid & ~((scores == 0) & np.signbit(scores)).any(axis=0)


class Truncates(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        codes, valid = mean_codes(scores, clip=clip)
        mean = as_float32(np.where(valid, scores, 0)).mean(axis=0, dtype=np.float32)
        above = codes.view(np.float16) > mean
        return np.where(above & (codes > 0), codes - 1, codes), valid


class DoesNotClipWhatRoundsToAnEnd(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        codes, valid = mean_codes(scores)
        return mean_codes(scores, clip=clip) if not valid.all() else (codes, valid)


class MeansInFloat64(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        valid = mean_codes(scores, clip=clip)[1]
        values = as_float32(np.where(valid, scores, 0)).astype(np.float64)
        return rounded((np.clip(values, 0, 1) if clip else values).mean(axis=0), valid)


class MeansInFloat16(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        valid = mean_codes(scores, clip=clip)[1]
        values = as_float32(np.where(valid, scores, 0)).astype(np.float16)
        return rounded((np.clip(values, 0, 1) if clip else values).mean(axis=0, dtype=np.float16), valid)


class MultipliesByTheReciprocal(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        valid = mean_codes(scores, clip=clip)[1]
        total = np.zeros(valid.shape, np.float32)
        for member in as_float32(np.where(valid, scores, 0)):
            total = total + (np.clip(member, 0, 1) if clip else member)
        return rounded(total * (np.float32(1) / np.float32(len(scores))), valid)


class SumsBackwards(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        return mean_codes(scores[::-1], clip=clip)


class LooksAtTheMeanOnly(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        if scores.dtype == np.uint8:
            return mean_codes(scores)
        with np.errstate(all="ignore"):
            return mean_codes(scores.mean(axis=0, keepdims=True, dtype=np.float32), clip=clip)


class ClipsInPlace(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        if clip and scores.flags.writeable:
            np.clip(scores, 0, 1, out=scores)
        return mean_codes(scores, clip=clip)


class ClipsNan(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        return mean_codes(np.nan_to_num(scores) if clip and scores.dtype != np.uint8 else scores, clip=clip)


class TakesTheFirstMemberForBackground(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        return mean_codes(scores if scores[:1].any() else scores[:1], clip=clip)


class NeedsAlignment(Correct):
    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        if scores.ctypes.data % 8:
            raise ValueError("not aligned to 8 bytes")
        return mean_codes(scores, clip=clip)


class SharesScratch(Correct):
    scratch: tuple[Array, Array]

    def codes(self, scores: Array, clip: bool) -> tuple[Array, Array]:
        self.scratch = mean_codes(scores, clip=clip)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.002)
        return self.scratch


class IgnoresTheRegion(Correct):
    def plane(self, region: Array) -> Array:
        return np.ones(region.size, np.int64)


class InsideIsOne(Correct):
    def plane(self, region: Array) -> Array:
        return np.where(region == 1, 1, 0)


class StartsFromNothing(Correct):
    def add(self, cells: Array, table: Array) -> None:
        table[:] = cells


class SaturatesAt31Bits(Correct):
    def add(self, cells: Array, table: Array) -> None:
        table[:] = np.minimum(cells + table, 2**31 - 1)


class CountsInFloat32(Correct):
    def add(self, cells: Array, table: Array) -> None:
        table[:] = (cells.astype(np.float32) + table.astype(np.float32)).astype(np.float64)


class CountsIn16Bits(Correct):
    def add(self, cells: Array, table: Array) -> None:
        table += cells.astype(np.uint16)


class TouchesAnotherCell(Correct):
    def add(self, cells: Array, table: Array) -> None:
        table += cells.astype(np.uint32)
        np.lib.stride_tricks.as_strided(table.reshape(-1), (table.size + 1,))[-1] += 1


class WritesPastOut(Correct):
    def write(self, values: Array, out: Array) -> None:
        out[:] = values
        np.lib.stride_tricks.as_strided(out, (out.size + 1,))[-1] = 0


class WritesBeforeOut(Correct):
    def write(self, values: Array, out: Array) -> None:
        out[:] = values
        backwards = np.lib.stride_tricks.as_strided(out, (2,), (-out.itemsize,))
        backwards[1] = 0


class WritesByWayOfFloat32(Correct):
    def write(self, values: Array, out: Array) -> None:
        out[:] = values.astype(np.float32)


class SaysNothingOfVotes(Correct):
    def found(self, valid: Array, known: Array | None) -> Findings:
        return Findings.of(valid)


class NamesTheLast(Correct):
    def found(self, valid: Array, known: Array | None) -> Findings:
        found = Findings.of(valid, known)
        return found._replace(first_invalid_score=int(np.flatnonzero(~valid)[-1])) if found.invalid_scores else found


class ReturnsATuple(Correct):
    def found(self, valid: Array, known: Array | None) -> Any:
        return tuple(Findings.of(valid, known))


MISTAKES = {
    LosesTheEndOfABlock: "numbers_of_voxels",
    DropsTheLastVoxel: "numbers_of_voxels",
    NegativeZeroIsInvalid: "every_float16",
    Truncates: "rounding",
    DoesNotClipWhatRoundsToAnEnd: "rounding",
    MeansInFloat64: "means",
    MeansInFloat16: "means",
    MultipliesByTheReciprocal: "means",
    SumsBackwards: "means",
    LooksAtTheMeanOnly: "members_that_are_invalid_together",
    ClipsInPlace: "invalid_scores",
    ClipsNan: "invalid_scores",
    TakesTheFirstMemberForBackground: "kinds_of_volumes",
    NeedsAlignment: "places_in_memory",
    SharesScratch: "threads",
    IgnoresTheRegion: "regions",
    InsideIsOne: "regions",
    StartsFromNothing: "counts_are_added",
    SaturatesAt31Bits: "counts_are_added",
    CountsInFloat32: "counts_are_added",
    CountsIn16Bits: "large_volumes",
    TouchesAnotherCell: "every_uint8",
    WritesPastOut: "every_uint8",
    WritesBeforeOut: "every_uint8",
    WritesByWayOfFloat32: "values_of_every_dtype",
    SaysNothingOfVotes: "invalid_votes",
    NamesTheLast: "splits",
    ReturnsATuple: "every_uint8",
}


@pytest.mark.parametrize(("mistake", "check"), [pytest.param(*item, id=item[0].__name__) for item in MISTAKES.items()])
def test_mistakes_are_caught(mistake: type[Correct], check: str) -> None:
    suite = KernelConformance()
    suite.kernel = Correct()
    getattr(suite, f"test_{check}")()
    suite.kernel = mistake()
    with pytest.raises(AssertionError, match=r"^(accumulate|relabel)"):
        getattr(suite, f"test_{check}")()


@pytest.mark.parametrize("mistake", [DropsTheLastVoxel, SaysNothingOfVotes])
def test_hypothesis_finds_a_simplest_case(mistake: type[Correct]) -> None:
    suite = KernelConformance()
    suite.kernel = mistake()
    with pytest.raises(AssertionError, match="made up"):
        suite.test_any_voxels_in_any_split()


def test_a_difference_is_described() -> None:
    with pytest.raises(AssertionError) as caught:
        check_kernel(NegativeZeroIsInvalid())
    assert str(caught.value) == (
        "accumulate, all float16 bit patterns (float16, members: 1, voxels: 65536, raters: 0, votes: False, "
        f"region: False), clip=False: found {Findings(50175, 15361)} instead of {Findings(50174, 15361)}"
    )


def test_the_function_makes_every_check_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    wanted = [name for name in dir(KernelConformance) if name.startswith("test_")]
    wanted.remove("test_any_voxels_in_any_split")
    for name in wanted:
        monkeypatch.setattr(_KernelChecks, name, lambda self, name=name: made.append((name, self.kernel)))
    check_kernel(reference)
    assert sorted(made) == [(name, reference) for name in wanted]


def test_the_function_needs_no_test_library() -> None:
    program = """
import sys
from twintrack_core.testing import check_kernel
check_kernel
assert not {"pytest", "hypothesis", "numba", "dask", "zarr"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
