"""Memory that the system has for this process. Taking more would end the process, not raise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twintrack_core.errors import TwinTrackError


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory this process may still take, as Linux tells; None where it does not.

    Parameters
    ----------
    proc, cgroups
        Where Linux tells it: of the machine, and of the container or the batch job.
    """
    found = [_meminfo(proc), *(_room(*place) for place in _groups(proc, cgroups))]
    return min((room for room in found if room is not None), default=None)


def require_memory(what: str, n_bytes: int, error: type[TwinTrackError], action: str) -> None:
    """Refuse, with ``error``, what takes more bytes at once than are available, as far as that is known."""
    room = available_memory()
    if room is not None and n_bytes > room:
        raise error(
            f"{what} takes {n_bytes / 2**30:.1f} GiB; {room / 2**30:.1f} GiB of memory are available.",
            "Allowed: what fits into memory.",
            action,
        )


def _meminfo(proc: Path) -> int | None:
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_V2 = ("memory.max", "memory.current", "")


def _groups(proc: Path, cgroups: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Folders of the groups that this process is in, from its own up, and what they call their facts.

    In a container the path may be that on the host, which is not there; the uppermost folder is the container's then.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        inner = Path(*(part for part in path.split("/") if part not in ("", "..")))
        for above in (inner, *inner.parents):
            if controllers:
                yield cgroups / "memory" / above, *_V1
            else:
                yield cgroups / above, *_V2


def _room(folder: Path, limit: str, usage: str, prefix: str) -> int | None:
    """Room that a group leaves; pages of files are given back when they are needed, those of tmpfs are not."""
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        if not most.isdecimal():
            return None
        used = int((folder / usage).read_text(encoding="ascii"))
        facts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    pages = sum(int(facts.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
    return max(0, int(most) - used + pages)
