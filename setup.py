"""The kernels that are compiled ahead of time; everything else about the package is in pyproject.toml."""

import sys

from setuptools import Extension, setup

# Scores are rounded where the oracle rounds them; comparisons of floats raise nothing, so that they vectorise.
GCC_FLAGS = ["-O3", "-ffp-contract=off", "-fno-trapping-math"]

setup(
    ext_modules=[
        Extension(
            "twintrack_core.kernels.cython",
            ["twintrack_core/kernels/cython.pyx"],
            depends=["twintrack_core/kernels/stretches.h", "twintrack_core/kernels/stretches_variants.h"],
            extra_compile_args=["/O2"] if sys.platform == "win32" else GCC_FLAGS,
            optional=True,  # without a C compiler the package installs all the same
        )
    ]
)
