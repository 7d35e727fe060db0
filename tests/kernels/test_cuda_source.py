"""The source of the CUDA kernels as text, and how they are launched."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from twintrack_core.codes import HIGHEST_VALID, LOWEST_VALID, N_CODES
from twintrack_core.kernels import cuda

SCORES = ("float16", "float32", "uint8")
OUTS = ("float16", "float32", "float64", "uint8")
VARIANTS = [
    cuda.Variant(scores, members, patterns, regions, clip, shared)
    for scores, members, patterns, regions in product(SCORES, (0, 1, 3, 8), (1, 2, 256), (1, 2))
    for clip, shared in product((False, True), (0, 64 * 1024, cuda.SHARED_BYTES))
]
SOURCES = [cuda.accumulate_source(variant) for variant in VARIANTS] + [
    cuda.relabel_source(*fixed) for fixed in product(SCORES, (0, 1, 3, 8), OUTS, (False, True))
]


def constant(source: str, name: str) -> str:
    (value,) = re.findall(rf"^constexpr \w+ {name} = (.+);$", source, re.MULTILINE)
    return str(value)


def test_a_source_follows_from_its_variant_and_nothing_else() -> None:
    again = [cuda.accumulate_source(replace(variant)) for variant in VARIANTS]
    assert again == SOURCES[: len(again)]
    assert len(set(again)) == len({(replace(v, shared=0), v.planes, v.slots) for v in VARIANTS})


def test_everything_is_in_the_text() -> None:
    for source in SOURCES:
        assert "#include" not in source
        for left, right in ("{}", "()", "[]"):
            assert source.count(left) == source.count(right)
        constants = re.findall(r"^constexpr \w+ ([A-Z_]+) =", source, re.MULTILINE)
        assert len(constants) == len(set(constants))


def test_entry_points() -> None:
    for source in SOURCES:
        names = re.findall(r'extern "C" __global__ void __launch_bounds__\(THREADS(?:, 1)?\)\n(\w+)\(', source)
        assert names == (["accumulate", "flush"] if "PATTERNS = " in source else ["relabel"])


def test_what_a_variant_fixes() -> None:
    source = cuda.accumulate_source(cuda.Variant("uint8", 3, 32, 2, True))
    assert "using Score = unsigned char;" in source
    expected = {"MEMBERS": "3", "PATTERNS": "32", "REGIONS": "2", "CLIP": "1", "N_CODES": str(N_CODES)}
    assert {name: constant(source, name) for name in expected} == expected
    assert float.fromhex(constant(source, "LOWEST_VALID").removesuffix("f")) == LOWEST_VALID
    assert float.fromhex(constant(source, "HIGHEST_VALID").removesuffix("f")) == HIGHEST_VALID
    source = cuda.relabel_source("float32", 0, "float64", False)
    assert "using Score = unsigned int;" in source
    assert "using Value = unsigned long long;" in source
    assert constant(source, "MEMBERS") == "0"


def test_warps_merge_with_all_of_their_lanes() -> None:
    for source in SOURCES:
        masks = re.findall(r"_sync\((\w+),", source)
        assert masks
        assert set(masks) == {"ALL_LANES"}


def test_arithmetic_that_options_could_change_is_spelt_out() -> None:
    for source in SOURCES:
        code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
        assert {"__fadd_rn", "__fdiv_rn"} <= set(re.findall(r"__f\w+_rn", code))
        assert "total +=" not in code
        assert "total /" not in code


@pytest.mark.parametrize(
    ("shared", "patterns", "regions", "planes", "slots"),
    [
        (227 * 1024, 32, 2, 2, 4096),
        (163 * 1024, 32, 2, 2, 4096),
        (163 * 1024, 32, 1, 1, 4096),
        (163 * 1024, 1, 2, 2, 0),
        (99 * 1024, 32, 2, 1, 4096),
        (64 * 1024, 32, 2, 0, 4096),
        (64 * 1024, 1, 1, 1, 0),
        (0, 32, 2, 0, 0),
    ],
)
def test_as_many_planes_as_fit_are_private(shared: int, patterns: int, regions: int, planes: int, slots: int) -> None:
    variant = cuda.Variant("float16", 1, patterns, regions, False, shared)
    assert (variant.planes, variant.slots) == (planes, slots)
    launch = cuda.accumulate_launch(variant, 10**8, 132)
    assert launch == (132, cuda.THREADS, planes * 4 * N_CODES + 8 * slots)
    assert launch.shared <= shared


@pytest.mark.parametrize("out", OUTS)
def test_tables_that_fit_are_copied_to_shared_memory(out: str) -> None:
    size = (N_CODES + 1) * {"float16": 2, "float32": 4, "float64": 8, "uint8": 1}[out]
    for shared in (size - 1, size, cuda.SHARED_BYTES):
        fits = shared >= size
        assert constant(cuda.relabel_source("float16", 1, out, False, shared), "TABLE_IN_SHARED") == str(int(fits))
        assert cuda.relabel_launch("float16", out, 10**8, 132, shared) == (132, cuda.THREADS, size if fits else 0)


def test_launches() -> None:
    variant = cuda.Variant("float16", 1, 32, 2, False)
    group = 8
    for n, grid in ((0, 1), (1, 1), (1024 * group, 1), (1024 * group + 1, 2), (cuda.MAX_VOXELS, 132)):
        assert cuda.accumulate_launch(variant, n, 132).grid == grid
        assert cuda.relabel_launch("float16", "uint8", n, 132).grid == grid
    assert cuda.relabel_launch("uint8", "float64", 2049, 132).grid == 2
    assert cuda.flush_launch(variant, 132) == (264, 1024, 0)
    assert cuda.MAX_VOXELS < 2**32  # all voxels of a launch may be in one cell
    for n in (-1, cuda.MAX_VOXELS + 1):
        with pytest.raises(ValueError, match=str(n)):
            cuda.accumulate_launch(variant, n, 132)
        with pytest.raises(ValueError, match=str(n)):
            cuda.relabel_launch("float16", "uint8", n, 132)


def test_variants_there_are_not() -> None:
    for scores, members, patterns, regions in (
        ("float64", 1, 1, 1),
        ("float16", 9, 1, 1),
        ("float16", -1, 1, 1),
        ("float16", 1, 3, 1),
        ("float16", 1, 512, 1),
        ("float16", 1, 1, 0),
        ("float16", 1, 1, 3),
    ):
        with pytest.raises(ValueError, match="allowed"):
            cuda.Variant(scores, members, patterns, regions, False)
    for scores, members in (("float64", 1), ("uint8", 9)):
        with pytest.raises(ValueError, match="allowed"):
            cuda.relabel_source(scores, members, "float16", False)


def test_text_is_made_without_cuda() -> None:
    program = """
import sys
from twintrack_core.kernels import cuda
cuda.accumulate_source(cuda.Variant("float16", 1, 32, 2, False))
assert not {"cupy", "numba", "dask", "zarr", "nvidia"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_text_is_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert "kernels/*.cuh" in project["tool"]["setuptools"]["package-data"]["twintrack_core"]
