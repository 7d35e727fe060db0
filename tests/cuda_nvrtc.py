"""The CUDA kernels as machine code of GPUs that are not here: compiled by NVRTC, which needs no driver.

``python -m tests.cuda_nvrtc`` prints what registers and shared memory every variant takes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from twintrack_core.kernels import cuda

SCORES = ("float16", "float32", "uint8")
OUTS = ("float16", "float32", "float64", "uint8")
MEMBERS = range(cuda.MAX_UNROLLED + 1)

_REGISTERS, _FRAME = 0x2F, 0x11  # attributes of .nv.info: of a symbol, registers a thread and bytes of stack


class Kernel(NamedTuple):
    """What machine code says of itself: registers a thread, and bytes of stack and of static shared memory.

    A stack means that values were spilled to local memory, or arrays kept there.
    """

    registers: int
    stack: int
    static_shared: int


class Compiled(NamedTuple):
    """A cubin's kernels by name, the PTX they were made of, and what the compiler said."""

    kernels: dict[str, Kernel]
    ptx: str
    log: str


@cache
def library_path() -> Path | None:
    """NVRTC of the wheel nvidia-cuda-nvrtc-cu12 (or of CUDA 13), if it is installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations or [] if spec else []
    found = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    return max((path for path in found if ".alt." not in path.name), default=None)


@cache
def _nvrtc() -> ctypes.CDLL:
    return ctypes.CDLL(str(library_path()))


def compile_source(source: str, arch: str) -> Compiled:
    """Compile as CuPy's RawModule does; RuntimeError with the compiler's words if that fails."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None), "")
    options = [f"-arch={arch}".encode(), b"-std=c++17", b"-ftz=true", b"--device-as-default-execution-space"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    _check(status, log.decode())
    ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    cubin = _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(dict(_kernels(cubin)), ptx.decode(), log.rstrip(b"\0\n").decode())


def _check(status: int, log: str) -> None:
    if status:
        raise RuntimeError(f"NVRTC says {status}: {log}")


def _text(size: Any, get: Any, program: ctypes.c_void_p) -> bytes:
    n = ctypes.c_size_t()
    _check(size(program, ctypes.byref(n)), "")
    buffer = ctypes.create_string_buffer(n.value)
    _check(get(program, buffer), "")
    return buffer.raw


class _Section(NamedTuple):
    """A section; one that stores nothing has a size all the same, and then data of another."""

    name: str
    data: bytes
    size: int


def _sections(elf: bytes) -> list[_Section]:
    (start,) = struct.unpack_from("<Q", elf, 40)
    entry, number, names = struct.unpack_from("<3H", elf, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, start + i * entry) for i in range(number)]
    names_at = headers[names][4]

    def name(offset: int) -> str:
        begin = names_at + offset
        return elf[begin : elf.index(b"\0", begin)].decode()

    return [_Section(name(header[0]), elf[header[4] : header[4] + header[5]], header[5]) for header in headers]


def _kernels(cubin: bytes) -> Iterator[tuple[str, Kernel]]:
    """Read the kernels of an ELF file: the sections of code, and what .nv.info says of their symbols."""
    sections = {section.name: section for section in _sections(cubin)}
    strings, symbols = sections[".strtab"].data, sections[".symtab"].data
    facts: dict[tuple[int, str], int] = {}
    info, at = sections[".nv.info"].data, 0
    while at < len(info):
        kind, attribute, size = struct.unpack_from("<BBH", info, at)
        has_payload = kind == 4  # EIFMT_SVAL
        if has_payload and attribute in (_REGISTERS, _FRAME):
            symbol, value = struct.unpack_from("<II", info, at + 4)
            (name_at,) = struct.unpack_from("<I", symbols, 24 * symbol)
            facts[attribute, strings[name_at : strings.index(b"\0", name_at)].decode()] = value
        at += 4 + (size if has_payload else 0)
    for name in sections:
        if name.startswith(".text."):
            kernel = name.removeprefix(".text.")
            shared = sections.get(f".nv.shared.{kernel}")
            numbers = facts[_REGISTERS, kernel], facts[_FRAME, kernel]
            yield kernel, Kernel(*numbers, shared.size if shared else 0)


class Row(NamedTuple):
    """A variant in words, its kernel's name, source, and dynamic shared memory."""

    words: str
    kernel: str
    source: str
    shared: int


def accumulate_row(variant: cuda.Variant) -> Row:
    words = f"accumulate {variant.scores}, {variant.members or 'any'} members, {variant.patterns} patterns, "
    words += f"{variant.regions} regions, {'clip' if variant.clip else 'no clip'}, {variant.planes} planes"
    return Row(
        words, "accumulate", cuda.accumulate_source(variant), cuda.accumulate_launch(variant, cuda.MAX_VOXELS, 1).shared
    )


def relabel_row(scores: str, members: int, out: str, clip: bool, shared: int = cuda.SHARED_BYTES) -> Row:
    words = f"relabel {scores} to {out}, {members or 'any'} members, {'clip' if clip else 'no clip'}"
    source = cuda.relabel_source(scores, members, out, clip, shared)
    return Row(words, "relabel", source, cuda.relabel_launch(scores, out, cuda.MAX_VOXELS, 1, shared).shared)


def every_row() -> list[Row]:
    """All that differs in more than a constant: 32 patterns stand for 2 to 128."""
    clips = {"float16": (False, True), "float32": (False, True), "uint8": (False,)}
    rows = []
    for scores, members, regions in product(SCORES, MEMBERS, (1, 2)):
        rows += [accumulate_row(cuda.Variant(scores, members, 32, regions, clip)) for clip in clips[scores]]
    for scores, members, out in product(SCORES, MEMBERS, OUTS):
        rows += [relabel_row(scores, members, out, clip) for clip in clips[scores]]
    for scores, patterns, regions in product(SCORES, (1, 256), (1, 2)):
        rows.append(accumulate_row(cuda.Variant(scores, 1, patterns, regions, False)))
    for scores, shared in product(SCORES, (0, 64 * 1024, 99 * 1024)):
        rows.append(accumulate_row(cuda.Variant(scores, 1, 32, 2, False, shared)))
    return rows


def compile_rows(rows: list[Row], arch: str) -> list[Compiled]:
    """Compile two at a time: NVRTC leaves Python's lock alone."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(partial(compile_source, arch=arch), [row.source for row in rows]))


def main(arch: str) -> None:
    rows = every_row()
    print(f"{'registers':>9} {'stack':>5} {'shared':>7}  {arch}")
    for row, compiled in zip(rows, compile_rows(rows, arch), strict=True):
        kernel = compiled.kernels[row.kernel]
        print(f"{kernel.registers:9} {kernel.stack:5} {row.shared + kernel.static_shared:7}  {row.words}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sm_90"])
