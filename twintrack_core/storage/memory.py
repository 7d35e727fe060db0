"""What this machine can hold. Making room for more would end the process, not raise."""

from __future__ import annotations

import os

from twintrack_core.errors import TwinTrackError


def require_memory(what: str, n_bytes: int, error: type[TwinTrackError], action: str) -> None:
    """Refuse, with ``error``, what takes more bytes than this machine has memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else n_bytes
    if n_bytes > memory:
        raise error(
            f"{what} takes {n_bytes / 2**30:.1f} GiB; this machine has {memory / 2**30:.1f} GiB of memory.",
            "Allowed: what fits into memory.",
            action,
        )
