"""Maps on the arrays of other libraries: the same kind out. Registered with the package's start.

Those of Dask and Zarr are calibrated chunk by chunk; those of CuPy and torch where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from twintrack_core.codes import OnInvalid
from twintrack_core.errors import RequestError
from twintrack_core.maps import output_dtype

if TYPE_CHECKING:
    from twintrack_core.maps import CalibrationMap


def apply_to_dask(
    calibration: CalibrationMap,
    scores: Any,
    /,
    *,
    members: bool,
    dtype: npt.DTypeLike | None,
    on_invalid: OnInvalid,
) -> Any:
    """Return a lazy Dask array of the same chunks; a member axis is gathered and averaged away."""
    out = output_dtype(scores.dtype, dtype)

    def block(values: Any) -> Any:
        # One thread a block: the parallelism is Dask's.
        return calibration(values, members=members, dtype=out, threads=1, on_invalid=on_invalid)

    if not members:
        return scores.map_blocks(block, dtype=out)
    return scores.rechunk({0: -1}).map_blocks(block, dtype=out, drop_axis=0)


def apply_to_zarr(
    calibration: CalibrationMap,
    scores: Any,
    /,
    *,
    members: bool,
    dtype: npt.DTypeLike | None,
    on_invalid: OnInvalid,
) -> Any:
    """Return a Zarr array in memory, of the same spatial chunks. For arrays beyond memory use `apply`."""
    import numpy as np
    import zarr

    out = output_dtype(scores.dtype, dtype)
    shape, chunks = (scores.shape[1:], scores.chunks[1:]) if members else (scores.shape, scores.chunks)
    result = zarr.create_array(store={}, shape=shape, chunks=chunks, dtype=out.name, fill_value=0)
    for index in np.ndindex(result.cdata_shape):
        box = tuple(
            slice(i * chunk, min((i + 1) * chunk, size)) for i, chunk, size in zip(index, chunks, shape, strict=True)
        )
        read = scores[(slice(None), *box)] if members else scores[box]
        result[box] = calibration(read, members=members, dtype=out, on_invalid=on_invalid)
    return result


def apply_to_cupy(
    calibration: CalibrationMap,
    scores: Any,
    /,
    *,
    members: bool,
    dtype: npt.DTypeLike | None,
    on_invalid: OnInvalid,
) -> Any:
    """Return a CuPy array of the same device, written on the current stream."""
    from twintrack_core.kernels.device import require_device

    require_device()
    from twintrack_core.kernels import cupy

    lut = calibration.table_as(output_dtype(scores.dtype, dtype))
    return cupy.look_up(scores, lut, members=members, on_invalid=on_invalid)


def apply_to_torch(
    calibration: CalibrationMap,
    scores: Any,
    /,
    *,
    members: bool,
    dtype: npt.DTypeLike | None,
    on_invalid: OnInvalid,
) -> Any:
    """Return a tensor of the same device, written on torch's current stream. A step function has no gradient."""
    import torch

    name = str(scores.dtype).removeprefix("torch.")
    if not scores.is_cuda:
        if scores.device.type != "cpu" or name == "bfloat16":
            raise RequestError(
                f"A torch tensor of {name} on {scores.device} cannot be calibrated.",
                "Allowed: float16, float32, float64 or uint8 on the host or a CUDA device.",
                "Move or convert it with Tensor.to.",
            )
        values = calibration(scores.detach().numpy(), members=members, dtype=dtype, on_invalid=on_invalid)
        return torch.as_tensor(values)
    from twintrack_core.kernels.device import require_device

    require_device()
    from twintrack_core.kernels import cupy

    lut = calibration.table_as(output_dtype(name, dtype))
    return cupy.look_up(scores, lut, members=members, on_invalid=on_invalid)
