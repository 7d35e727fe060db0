"""The CUDA kernels as programs of this machine: their source behind ``kernels/cuda_shim.h``, compiled by g++."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twintrack_core.kernels import cuda
from twintrack_core.kernels.findings import Findings

Array = npt.NDArray[Any]

_SHIM = Path(__file__).parent / "kernels" / "cuda_shim.h"
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
_FLAGS = (
    *("-std=c++17", "-O1", *_WARNINGS, "-ffp-contract=off", "-fPIC", "-pthread"),
    "-U_FORTIFY_SOURCE",  # with it, glibc takes a jump to another fiber's stack for an attack
)

_BLOCK = 64
_MULTIPROCESSORS = 3


def why_not() -> str | None:
    """What is missing here, if anything."""
    if not sys.platform.startswith("linux"):
        return "the shim's fibers are made with glibc"
    return None if _compiler() else "there is no g++"


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


class Compiler:
    """Shared libraries of kernel sources in a folder, each compiled once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._libraries: dict[str, ctypes.CDLL] = {}
        runtime = self._compile("runtime", f'#define SHIM_RUNTIME\n#include "{_SHIM}"\n')
        self._runtime = ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)

    def library(self, kernel: str, source: str) -> ctypes.CDLL:
        """Load the library of a source; ``kernel`` says what its entry points are."""
        with self._lock:
            if source not in self._libraries:
                text = f'#include "{_SHIM}"\n{source}\n{kernel.upper()}\n'
                path = self._compile(f"{kernel}{len(self._libraries)}", text)
                self._libraries[source] = ctypes.CDLL(str(path))
            return self._libraries[source]

    def _compile(self, name: str, text: str) -> Path:
        path = self._folder / f"{name}.cpp"
        path.write_text(text, "utf-8")
        library = path.with_suffix(".so")
        command = [str(_compiler()), *_FLAGS, "-shared", str(path), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return library


class Bodies:
    """A kernel under the contract of `twintrack_core.kernels.findings`, as far as tests need one.

    Parameters
    ----------
    compiler
        Where libraries come from.
    unrolled
        Numbers of members that are compiled in; others are given at run time.
    shared
        Bytes of shared memory a block may use.
    edits
        What to replace in the source before it is compiled, each there once.
    """

    def __init__(
        self,
        compiler: Compiler,
        unrolled: tuple[int, ...] = (1, 2),
        shared: int = cuda.SHARED_BYTES,
        edits: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._compiler = compiler
        self._unrolled = unrolled
        self._shared = shared
        self._edits = edits

    def accumulate(
        self, scores: Array, votes: Array | None, region: Array | None, table: Array, *, clip: bool = False
    ) -> Findings:
        planes = table[-1:] if region is None else table
        variant = cuda.Variant(
            scores.dtype.name,
            self._members(scores),
            planes.shape[1],
            len(planes),
            clip and scores.dtype != np.uint8,
            self._shared,
        )
        library = self._library("accumulate", cuda.accumulate_source(variant))
        n = scores.shape[1]
        found = np.zeros(4, np.uint64)
        launch = cuda.accumulate_launch(variant, n, _MULTIPROCESSORS)
        arguments = [_at(scores), ctypes.c_longlong(n), len(scores), _at(votes), _at(region), _at(planes), _at(found)]
        _launch(library.run_accumulate, launch, arguments)
        return _findings(found)

    def relabel(self, scores: Array, lut: Array, out: Array, *, clip: bool = False) -> Findings:
        n, members, to = scores.shape[1], self._members(scores), out.dtype.name
        clip = clip and scores.dtype != np.uint8
        source = cuda.relabel_source(scores.dtype.name, members, to, clip, self._shared)
        found = np.zeros(2, np.uint64)
        launch = cuda.relabel_launch(scores.dtype.name, to, n, _MULTIPROCESSORS, self._shared)
        arguments = [_at(scores), ctypes.c_longlong(n), len(scores), _at(lut), _at(out), _at(found)]
        _launch(self._library("relabel", source).run_relabel, launch, arguments)
        return _findings(np.append(found, found * 0))

    def flush(self, variant: cuda.Variant, table: Array, counts: Array) -> None:
        library = self._library("accumulate", cuda.accumulate_source(variant))
        launch = cuda.flush_launch(variant, _MULTIPROCESSORS)
        _launch(library.run_flush, launch, [_at(table), _at(counts), ctypes.c_longlong(table.size)])

    def _members(self, scores: Array) -> int:
        return len(scores) if len(scores) in self._unrolled else 0

    def _library(self, kernel: str, source: str) -> ctypes.CDLL:
        for before, after in self._edits:
            assert source.count(before) == 1, before
            source = source.replace(before, after)
        return self._compiler.library(kernel, source)


def _launch(function: Any, launch: cuda.Launch, arguments: list[Any]) -> None:
    message = ctypes.create_string_buffer(200)
    if function(launch.grid, _BLOCK, ctypes.c_size_t(launch.shared), *arguments, message, ctypes.c_size_t(200)):
        raise RuntimeError(message.value.decode())


def _at(array: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def _findings(found: Array) -> Findings:
    first_score, first_vote = (int(~complement) if complement else -1 for complement in found[1::2])
    return Findings(int(found[0]), first_score, int(found[2]), first_vote)
