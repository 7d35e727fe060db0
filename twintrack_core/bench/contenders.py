"""The table of contenders: who does which task, and what it takes. Checks and timings both come from it.

Kernels take part under their names, a third party's among them. A library takes part where it is installed; where it is
not, it is listed with the way to get it. Every answer is checked against one, by the oracle, before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from twintrack_core import kernels
from twintrack_core.bench import job, peers
from twintrack_core.bench.answers import difference
from twintrack_core.bench.data import MAP, RATERS, Volume
from twintrack_core.bench.tasks import TASKS, require_task, values_of
from twintrack_core.bench.timing import version_of
from twintrack_core.calibrators import fit
from twintrack_core.codes import N_CODES
from twintrack_core.errors import WorkError
from twintrack_core.histogram import JointHistogram
from twintrack_core.maps import CalibrationMap


class WrongAnswerError(WorkError):
    """A contender whose answer is not the one expected; it is not timed."""


@dataclass(frozen=True)
class Contender:
    """One who does a task.

    Attributes
    ----------
    task
        Name of the task.
    name
        Name in tables.
    prepare
        From a volume and a number of threads to the work that is timed. Preparing is not timed.
    needs
        Distributions it cannot do without.
    threaded
        Whether it can use several threads.
    kernel
        Name of the kernel, None for another library.
    answer
        From what the work returns to what is compared with the expected answer.
    tolerance
        Of that comparison, see `answers.difference`; of kernels 0 where the answer is counts or scores.
    """

    task: str
    name: str
    prepare: Callable[[Volume, int], Callable[[], Any]]
    needs: tuple[str, ...] = ()
    threaded: bool = False
    kernel: str | None = None
    answer: Callable[[Any, Volume], Any] = lambda found, _: found
    tolerance: float = 0.0

    def missing(self) -> str | None:
        """What is not installed and how to get it, None if all is there."""
        absent = [name for name in self.needs if version_of(name) is None]
        return f"not installed: pip install {' '.join(absent)}" if absent else None

    def checked(self, volume: Volume, threads: int, expected: Any) -> Callable[[], Any]:
        """Prepare the work, do it once, and return it if its answer is right.

        Raises
        ------
        WrongAnswerError
            If it is not.
        """
        work = self.prepare(volume, threads)
        wrong = difference(self.answer(work(), volume), expected, self.tolerance)
        if wrong:
            raise WrongAnswerError(
                f"{self.name} gives a wrong answer to {self.task} on {volume.kind}, {volume.voxels} voxels: {wrong}.",
                None,
                "It is not timed.",
            )
        return work


_FLOAT64 = 1e-9
_FLOAT32_SUMS = 1e-3
_JOB = ("scikit-learn", "SimpleITK")


def _all_inside(counts: Any, _: Volume) -> Any:
    inside = np.reshape(counts, (N_CODES, 1 << len(RATERS)))
    return np.stack([np.zeros_like(inside), inside])


def _as_float16(scores: Any, _: Volume) -> Any:
    return scores.reshape(-1).astype(np.float16)


def _predicted(model: Any, _: Volume) -> Any:
    return peers.predict_codes(model)


def _table(calibration: CalibrationMap, _: Volume) -> Any:
    return calibration.table


def _peer_outcome(outcome: job.PeerOutcome, _: Volume) -> Any:
    return outcome.answer()


def _our_outcome(outcome: job.OurOutcome, volume: Volume) -> Any:
    return outcome.answer(volume.votes)


PEERS: tuple[Contender, ...] = (
    Contender("accumulate", "numpy.histogram2d", peers.histogram2d, answer=_all_inside),
    Contender("accumulate", "numpy.bincount", peers.bincount, answer=_all_inside),
    Contender(
        "accumulate", "fast_histogram.histogram2d", peers.fast_histogram2d, ("fast-histogram",), answer=_all_inside
    ),
    Contender(
        "accumulate", "boost_histogram", peers.boost_histogram, ("boost-histogram",), threaded=True, answer=_all_inside
    ),
    Contender(
        "accumulate", "dask.array.histogramdd", peers.dask_histogramdd, ("dask",), threaded=True, answer=_all_inside
    ),
    Contender("apply", "numpy.take", peers.take),
    Contender("apply", "numpy.interp", peers.interp, answer=_as_float16),
    Contender("apply", "sklearn predict", peers.isotonic_predict, ("scikit-learn",), answer=_as_float16),
    Contender("fit", "sklearn isotonic", peers.isotonic_fit, ("scikit-learn",), answer=_predicted, tolerance=_FLOAT64),
    Contender(
        "fit", "numpy.bincount + sklearn isotonic", peers.isotonic_fit_of_bins, ("scikit-learn",),
        answer=_predicted, tolerance=_FLOAT64,
    ),
    Contender("metrics", "numpy (six of them)", peers.numpy_metrics, tolerance=_FLOAT64),
    Contender(
        "metrics", "numpy + scipy + sklearn", peers.every_metric, ("scikit-learn",), tolerance=_FLOAT64
    ),
    Contender(
        "metrics", "torchmetrics (ECE)", peers.torchmetrics_ece, ("torch", "torchmetrics"),
        threaded=True, tolerance=_FLOAT64,
    ),
    Contender("metrics", "netcal (ECE, ACE)", peers.netcal_ece, ("netcal",), tolerance=_FLOAT64),
    Contender(
        "metrics", "monai (ECE, ACE)", peers.monai_ece, ("torch", "monai"), threaded=True, tolerance=_FLOAT32_SUMS
    ),
    Contender(
        "job", "numpy + sklearn + SimpleITK", job.numpy_peer, _JOB,
        threaded=True, answer=_peer_outcome, tolerance=_FLOAT64,
    ),
    Contender(
        "job", "numpy + sklearn + torchmetrics + SimpleITK", job.torch_peer, (*_JOB, "torch", "torchmetrics"),
        threaded=True, answer=_peer_outcome, tolerance=_FLOAT64,
    ),
)  # fmt: skip


def contenders(task: str, kernel_names: Sequence[str] | None = None) -> tuple[Contender, ...]:
    """Everyone who does a task: the kernels, or those named, and the peers.

    Raises
    ------
    RequestError
        For an unknown task or kernel.
    """
    require_task(task)
    return (
        *(_of_kernel(task, name) for name in resolve_kernels(kernel_names)),
        *(peer for peer in PEERS if peer.task == task),
    )


def combinations(*tasks: str, threads: Sequence[int] = (1, 2)) -> list[tuple[Contender, str, int]]:
    """Every contender of some tasks, with every kind of volume the task makes sense on and every number of threads."""
    return [
        (contender, kind, n)
        for task in tasks
        for kind in TASKS[task].kinds
        for contender in contenders(task)
        for n in (threads if contender.threaded else threads[:1])
    ]


def resolve_kernels(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names of kernels, those that are listed for None, each once; an error for one that cannot be used."""
    for name in names or ():
        kernels.get(name)
    return kernels.names() if names is None else tuple(dict.fromkeys(names))


def _of_kernel(task: str, kernel: str) -> Contender:
    prepare, answer = _OURS[task]
    name = f"kernel {kernel}"
    return Contender(task, name, partial(prepare, kernel), threaded=True, kernel=kernel, answer=answer)


def _count(kernel: str, volume: Volume, threads: int) -> Callable[[], Any]:
    return lambda: kernels.tally_of(volume.scores, volume.votes, None, len(RATERS), kernel=kernel, threads=threads)


def _relabel(kernel: str, volume: Volume, threads: int) -> Callable[[], Any]:
    lut, out = MAP.table_as(np.float16), np.empty_like(volume.scores)
    return lambda: kernels.relabel(volume.scores, lut, out=out, kernel=kernel, threads=threads)


def _histogram(kernel: str, volume: Volume, threads: int) -> JointHistogram:
    return JointHistogram.from_votes(volume.scores, volume.votes, RATERS, kernel=kernel, threads=threads)


def _fit(kernel: str, volume: Volume, threads: int) -> Callable[[], Any]:
    return lambda: fit(_histogram(kernel, volume, threads))


def _metrics(kernel: str, volume: Volume, threads: int) -> Callable[[], Any]:
    return lambda: values_of(_histogram(kernel, volume, threads))


def _job(kernel: str, volume: Volume, threads: int) -> Callable[[], Any]:
    return lambda: job.our_job(volume.scores, volume.votes, kernel=kernel, threads=threads)


def _as_it_is(found: Any, _: Volume) -> Any:
    return found


def _dense(tally: Any, _: Volume) -> Any:
    return tally.counts().swapaxes(1, 2)


_OURS: Mapping[str, tuple[Callable[[str, Volume, int], Callable[[], Any]], Callable[[Any, Volume], Any]]] = {
    "accumulate": (_count, _dense),
    "apply": (_relabel, _as_float16),
    "fit": (_fit, _table),
    "metrics": (_metrics, _as_it_is),
    "job": (_job, _our_outcome),
}
