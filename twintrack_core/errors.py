"""Every exception of the package.

Each one says what was wrong (with the value and the case or file), what is allowed, and what to do next, on one
line each. The command line prints exactly that text and leaves with ``exit_code``.
"""

from __future__ import annotations

__all__ = [
    "FitError",
    "GeometryError",
    "ImageError",
    "InvalidScoresError",
    "InvalidVotesError",
    "MapError",
    "PluginError",
    "RequestError",
    "StoreError",
    "TwinTrackError",
    "WorkError",
    "WorkerError",
]


class TwinTrackError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what
        What was wrong, with the offending value and the case, file or argument it was found in.
    allowed
        What would have been accepted.
    action
        What the caller can do next.
    """

    exit_code = 1

    def __init__(self, what: str, allowed: str | None = None, action: str | None = None) -> None:
        # The three parts are the exception's args, so it survives pickling between worker processes.
        super().__init__(what, allowed, action)
        self.what = what
        self.allowed = allowed
        self.action = action

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.allowed, self.action) if part)


class RequestError(TwinTrackError, ValueError):
    """The request cannot be met as it was put: an unknown name, a missing folder, an output that exists."""

    exit_code = 2


class InvalidScoresError(TwinTrackError, ValueError):
    """Scores that are not probabilities: NaN, infinite or outside [0, 1]."""


class InvalidVotesError(TwinTrackError, ValueError):
    """Rater masks or packed votes that hold values without a meaning."""


class ImageError(TwinTrackError, ValueError):
    """An image or array file that cannot be read or does not fit the other files of its case."""


class GeometryError(ImageError):
    """Size, spacing, origin or direction that differ between the files of a case, or make no sense."""


class StoreError(TwinTrackError, ValueError):
    """A cohort or statistics store that is damaged, cut off, of another format or of another version."""


class MapError(TwinTrackError, ValueError):
    """A calibration map that is not one: damaged, edited into nonsense, or of another version."""


class FitError(TwinTrackError, ValueError):
    """Data that do not determine a calibration map."""


class WorkError(TwinTrackError, RuntimeError):
    """The work itself failed: a full disk, a missing dependency, a worker that died."""


class WorkerError(WorkError):
    """Workers of a cluster that died while they did one task, several of them one after the other."""


class PluginError(TwinTrackError, RuntimeError):
    """A plugin that is installed but cannot be used. The request was right, so this counts as work that failed."""
