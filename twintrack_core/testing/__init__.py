"""Conformance kits for those who write kernels.

A kernel of another distribution is an entry point, named as it is asked for::

    [project.entry-points."twintrack.kernels"]
    mine = "my_package.my_kernel"

`KernelConformance` is a class of tests for it that pytest collects and that uses Hypothesis; `check_kernel` makes the
same checks in any program and needs neither.
"""

from twintrack_core.testing.kernels import KernelConformance, check_kernel

__all__ = ["KernelConformance", "check_kernel"]
