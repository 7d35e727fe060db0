"""Threads that wait for the network, for all tasks of a process."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

_THREADS = 64
_pools: list[ThreadPoolExecutor] = []


def pool() -> ThreadPoolExecutor:
    """Return the threads, which must not wait for each other."""
    if not _pools:
        _pools.append(ThreadPoolExecutor(_THREADS, "twintrack-transfer"))
    return _pools[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads
