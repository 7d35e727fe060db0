"""Benchmarks: the kernels of this machine, beside other libraries and beside floors, every answer checked first.

One table, `twintrack_core.bench.contenders`, says who takes part; tests, ``twintrack bench`` and the scripts in
``benchmarks/`` all read it.
"""
