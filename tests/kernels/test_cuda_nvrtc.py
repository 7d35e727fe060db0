"""The CUDA kernels compiled to machine code, without a driver; `python -m tests.cuda_nvrtc` prints all variants."""

from __future__ import annotations

import re

import cuda_nvrtc
import pytest
from cuda_nvrtc import MEMBERS, OUTS, SCORES, Row, accumulate_row, compile_rows, compile_source, relabel_row

from twintrack_core.kernels import cuda

pytestmark = pytest.mark.skipif(cuda_nvrtc.library_path() is None, reason="nvidia-cuda-nvrtc is not installed")

_REGISTERS_OF_A_MULTIPROCESSOR = 65536


def rows() -> list[Row]:
    """Every dtype with every number of members, or every result, and every other choice with some of them."""
    found = []
    for scores, members in [(scores, members) for scores in SCORES for members in MEMBERS]:
        number = SCORES.index(scores) + members
        clip = scores != "uint8" and number % 2 == 0
        found.append(accumulate_row(cuda.Variant(scores, members, 32, 2, clip)))
        if members in (0, 1, 2, 5, 8):
            found.append(relabel_row(scores, members, OUTS[number % 4], clip))
    for scores in SCORES:
        found += [accumulate_row(cuda.Variant(scores, 1, patterns, 1, False)) for patterns in (1, 256)]
        found += [relabel_row(scores, members, out, False) for members in (0, 1) for out in OUTS]
    for shared in (0, 99 * 1024):  # no room for planes, and room for one of two
        found.append(accumulate_row(cuda.Variant("float16", 1, 32, 2, False, shared)))
        found.append(relabel_row("float16", 1, "float64", True, shared))
    return list({row.source: row for row in found}.values())


def check(row: Row, compiled: cuda_nvrtc.Compiled) -> None:
    assert compiled.log == "", row.words
    assert set(compiled.kernels) == ({"accumulate", "flush"} if row.kernel == "accumulate" else {"relabel"})
    for kernel in compiled.kernels.values():
        assert kernel.stack == 0, f"{row.words}: spills, or an array in local memory"
        assert 0 < kernel.registers * cuda.THREADS <= _REGISTERS_OF_A_MULTIPROCESSOR, row.words
        assert kernel.static_shared in (0, 1024), row.words  # compute capability 9.0 keeps 1 KB a block to itself
    assert row.shared <= cuda.SHARED_BYTES
    assert "ld.global.cs.v" in compiled.ptx or "ld.global.cs.u" in compiled.ptx, row.words
    assert ".approx" not in compiled.ptx, row.words


def test_every_dtype_and_number_of_members_for_sm_90() -> None:
    some = rows()
    for row, compiled in zip(some, compile_rows(some, "sm_90"), strict=True):
        check(row, compiled)


def test_some_of_them_for_sm_80() -> None:
    some = rows()[::4]
    for row, compiled in zip(some, compile_rows(some, "sm_80"), strict=True):
        check(row, compiled)


def test_the_oldest_that_can_merge_warps() -> None:
    variant = cuda.Variant("float32", 2, 32, 2, False, 64 * 1024)
    compiled = compile_source(cuda.accumulate_source(variant), "sm_70")
    assert compiled.kernels["accumulate"].stack == 0


def test_what_the_compiler_makes_of_it() -> None:
    ptx = compile_source(accumulate_row(cuda.Variant("float16", 1, 32, 2, False)).source, "sm_90").ptx
    assert "ld.global.cs.v4.u32" in ptx  # 16 bytes of scores at a time
    assert "match.any.sync.b32" in ptx
    assert re.search(r"(atom|red)\.shared\.add\.u32", ptx)
    assert re.search(r"(atom|red)\.global\.add\.u32", ptx)
    ptx = compile_source(relabel_row("float16", 3, "float16", False).source, "sm_90").ptx
    assert "cvt.rn.f16x2.f32" in ptx
    assert "div" not in ptx  # its reciprocal is a constant
    assert "st.global.cs.v4.u32" in ptx


def test_spills_are_seen() -> None:
    source = """extern "C" __global__ void crowded(int *at, int n) {
        int kept[4096];
        for (int i = 0; i < n; i++) kept[at[i]] = i;
        at[0] = kept[at[1]];
    }"""
    assert compile_source(source, "sm_90").kernels["crowded"].stack >= 4 * 4096


def test_what_does_not_compile_is_told() -> None:
    with pytest.raises(RuntimeError, match='identifier "unknown" is undefined'):
        compile_source("__global__ void kernel() { unknown(); }", "sm_90")
