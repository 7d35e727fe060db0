# cython: language_level=3, freethreading_compatible=True
"""Both kernels compiled ahead of time: nothing to warm up, no cache, free of the GIL.

The loops are in ``stretches.h``, once for any processor and once for AVX2 and F16C; which of them runs is decided when
this module is imported.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from twintrack_core import codes
from twintrack_core.kernels.findings import Findings

cdef extern from "stretches_variants.h" nogil:
    enum scores_dtype "scores_dtype":
        SCORES_FLOAT16
        SCORES_FLOAT32
        SCORES_UINT8

    struct scores_t "scores":
        scores_dtype dtype
        const uint8_t *data
        size_t members
        size_t n

    struct table_t "table":
        uint32_t *outside
        uint32_t *inside
        size_t patterns

    int N_CODES
    int CODE_NEGATIVE_ZERO
    float LOWEST_VALID
    float HIGHEST_VALID
    int has_avx2()
    void c_accumulate "accumulate"(
        bint avx2, const scores_t *, const uint8_t *votes, const uint8_t *region, const table_t *, bint clip,
        int64_t *found, const uint8_t **rows,
    )
    void c_relabel "relabel"(
        bint avx2, const scores_t *, const void *lut, uint8_t *out, size_t item, bint clip, int64_t *found,
        const uint8_t **rows,
    )

assert (N_CODES, CODE_NEGATIVE_ZERO) == (codes.N_CODES, codes.CODE_NEGATIVE_ZERO)
assert (LOWEST_VALID, HIGHEST_VALID) == (codes.LOWEST_VALID, codes.HIGHEST_VALID)

cdef dict _DTYPES = {"float16": SCORES_FLOAT16, "float32": SCORES_FLOAT32, "uint8": SCORES_UINT8}


cdef class _Bytes:
    """The memory of a C-contiguous array, or of none."""

    cdef Py_buffer buffer
    cdef bint held
    cdef uint8_t *start

    def __cinit__(self, array, Py_ssize_t expected, bint writable=False):
        self.held = False
        self.start = NULL
        if array is None:
            return
        PyObject_GetBuffer(array, &self.buffer, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.held = True
        self.start = <uint8_t *> self.buffer.buf
        if self.buffer.len != expected:
            raise ValueError(f"an array has {self.buffer.len} bytes where {expected} are expected")

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)


cdef class _Call:
    """What both kernels hold while they run: the scores, a pointer per member, and what is found."""

    cdef scores_t stored
    cdef _Bytes memory
    cdef const uint8_t **rows
    cdef int64_t[4] found

    def __cinit__(self, array):
        self.rows = NULL
        if not 1 <= len(array) <= codes.MAX_MEMBERS or not array.dtype.isnative:
            raise ValueError(f"scores are {array.dtype} of shape {array.shape}")
        self.memory = _Bytes(array, array.nbytes)
        self.stored.dtype = _DTYPES[array.dtype.name]
        self.stored.data = self.memory.start
        self.stored.members, self.stored.n = array.shape
        self.rows = <const uint8_t **> malloc(len(array) * sizeof(uint8_t *))
        if self.rows == NULL:
            raise MemoryError
        self.found[0] = self.found[2] = 0
        self.found[1] = self.found[3] = -1

    def __dealloc__(self):
        free(self.rows)

    cdef findings(self):
        return Findings(self.found[0], self.found[1], self.found[2], self.found[3])


cdef class _Kernel:
    """Both kernels for one instruction set."""

    cdef bint avx2

    def __cinit__(self, bint avx2):
        self.avx2 = avx2

    def accumulate(self, scores, votes, region, table, *, bint clip=False):
        """Count voxels into ``table[region, pattern, code]``; `twintrack_core.kernels.findings` has the contract."""
        cdef _Call call = _Call(scores)
        cdef _Bytes marks = _Bytes(votes, call.stored.n)
        cdef _Bytes inside = _Bytes(region, call.stored.n)
        cdef _Bytes cells = _Bytes(table, 4 * N_CODES * table.shape[0] * table.shape[1], True)
        cdef table_t planes
        if not 1 <= len(table) <= 2:
            raise ValueError(f"a table has {len(table)} planes")
        planes.patterns = table.shape[1]
        planes.outside = <uint32_t *> cells.start
        planes.inside = planes.outside + (len(table) - 1) * planes.patterns * N_CODES
        with nogil:
            c_accumulate(self.avx2, &call.stored, marks.start, inside.start, &planes, clip, call.found, call.rows)
        return call.findings()

    def relabel(self, scores, lut, out, *, bint clip=False):
        """Write ``lut[code]`` to ``out``; `twintrack_core.kernels.findings` has the contract."""
        cdef _Call call = _Call(scores)
        cdef size_t item = out.itemsize
        if item not in (1, 2, 4, 8):
            raise ValueError(f"results are {out.dtype}")
        cdef _Bytes table = _Bytes(lut, (N_CODES + 1) * item)
        cdef _Bytes values = _Bytes(out, call.stored.n * item, True)
        with nogil:
            c_relabel(self.avx2, &call.stored, table.start, values.start, item, clip, call.found, call.rows)
        return call.findings()


portable = _Kernel(False)
"""Both kernels as they run on a processor without AVX2."""

_best = _Kernel(has_avx2())
accumulate = _best.accumulate
relabel = _best.relabel
