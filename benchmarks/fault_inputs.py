"""What faults happen to: small inputs, the commands that read them, and what these make when nothing happens."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.fault_children import Child, Cluster, Outcome, difference, in_child, tree
from twintrack_core.cohort import writer
from twintrack_core.cohort.case import Case, Geometry, pack_votes
from twintrack_core.cohort.images import write_volume

RATERS = ("ann", "bob", "cy")
LARGE = "large"
_CHUNK_VOXELS = 1 << 11
_SMALL, _LARGE = (8, 16, 32), (16, 64, 64)
_TINY = (8, 32, 64)
_IMAGE = (8, 12, 10)
_TIMED = 3

Volume = npt.NDArray[np.generic]


class Wrong(Exception):  # noqa: N818 - what a trial found, not what went wrong in it
    """Something that was promised and is not so."""


@dataclass(frozen=True)
class Job:
    """A command that writes a store.

    Attributes
    ----------
    name
        What people call it.
    words
        Its arguments without the output.
    option
        What precedes the output, if anything.
    readers
        Commands that read what it makes; ``{}`` is the store.
    others
        Arguments of other runs, which must not be mixed with it, by what is different.
    """

    name: str
    words: tuple[str, ...]
    option: tuple[str, ...]
    readers: tuple[tuple[str, ...], ...]
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def arguments(self, output: Path, *more: str, words: Sequence[str] | None = None) -> list[str]:
        """Return the arguments that make an output."""
        words = self.words if words is None else words
        if self.option:
            return [*words, *self.option, str(output), *more]
        return [*words[:2], str(output), *words[2:], *more]

    def reading(self, output: Path) -> list[list[str]]:
        """Return the commands that read an output; what they make is called as it, and ``.read``."""
        return [[word.replace("{}", str(output)) for word in reader] for reader in self.readers]


def digest(found: dict[str, bytes]) -> str:
    """Return the SHA-256 of a tree."""
    sha = hashlib.sha256()
    for name, content in sorted(found.items()):
        sha.update(f"{name}\0{len(content)}\0".encode() + content)
    return sha.hexdigest()


class Shop:
    """A folder with inputs, and a place for outputs.

    Parameters
    ----------
    folder
        An empty one.
    schedulers
        Where jobs run.
    """

    def __init__(self, folder: Path, schedulers: Sequence[str]) -> None:
        self.schedulers = tuple(schedulers)
        self._number = 0
        self._children: list[Child] = []
        self.folder = folder
        self.inputs = folder / "inputs"
        self.logs = folder / "logs"
        self.outputs = folder / "outputs"
        self.cluster = Cluster(self.logs)
        for each in (self.inputs, self.logs, self.outputs):
            each.mkdir()
        if said := in_child(self._make):
            raise RuntimeError(f"The inputs cannot be made:\n{said}")
        for target in ("mhr", "majority"):
            words = ("fit", self.inputs / "cohort", "-o", self.inputs / f"{target}.json", "--target", target)
            self.done(words)
        self.content = self.digest()
        self.before = self.look()
        self._whole: dict[str, dict[str, bytes]] = {}
        self._seconds: dict[tuple[str, str], tuple[float, float]] = {}

    def digest(self) -> str:
        """Return what tells whether all that is in the inputs is as it was."""
        return digest(tree(self.inputs))

    def look(self) -> dict[str, tuple[int, int, int]]:
        """Return what tells at once whether anything was done to the inputs."""
        found = {}
        for folder, _, names in os.walk(self.inputs):
            for path in (folder, *(f"{folder}/{name}" for name in names)):
                status = os.stat(path)  # noqa: PTH116 - there are many
                found[path] = status.st_ino, status.st_size, status.st_mtime_ns
        return found

    def start(self, words: Sequence[object], before: Callable[[], object] | None = None, logs: str = "a") -> Child:
        """Start a command."""
        place = self.logs / logs
        place.mkdir(exist_ok=True)
        child = Child(words, place, before)
        self._children.append(child)
        return child

    def tidy(self) -> None:
        """Kill what the children of a trial started and left, and remove all outputs."""
        for child in self._children:
            child.clean()
        self._children.clear()
        while self.outputs.exists():  # a worker of a client that was killed may be writing
            shutil.rmtree(self.outputs, ignore_errors=True)
        self.outputs.mkdir()

    def run(self, words: Sequence[object], before: Callable[[], object] | None = None) -> Outcome:
        """Run a command to its end."""
        child = self.start(words, before, "b")
        outcome = child.wait()
        child.clean()
        return outcome

    def done(self, words: Sequence[object]) -> Outcome:
        """Run a command that nothing happens to."""
        outcome = self.run(words)
        if outcome.code != 0:
            raise Wrong(f"twintrack {' '.join(map(str, words))} ended with {outcome.code}: {outcome.err}")
        return outcome

    def new(self) -> Path:
        """Return a path for an output."""
        self._number += 1
        return self.outputs / f"{self._number}"

    def remove(self, output: Path) -> None:
        """Remove an output."""
        shutil.rmtree(output, ignore_errors=True)

    def copy(self, cohort: Path) -> Path:
        """Return a copy of a cohort whose files may be replaced, but not written to."""
        copy = self.new()
        shutil.copytree(cohort, copy, copy_function=_link)
        return copy

    def scheduler(self, name: str) -> list[str]:
        """Return the arguments that run a command there."""
        if name == "tcp":
            return ["--scheduler", self.cluster.address]
        return ["--scheduler", name, "--workers", "2"]

    def whole(self, job: Job) -> dict[str, bytes]:
        """Return what a job makes when nothing happens to it."""
        if job.name not in self._whole:
            output = self.new()
            self.done(job.arguments(output))
            self._whole[job.name] = tree(output)
            self.remove(output)
        return self._whole[job.name]

    def seconds(self, job: Job, scheduler: str) -> tuple[float, float]:
        """Return how long a job takes when nothing happens to it, and how much of that before its output is there."""
        key = job.name, scheduler
        if key not in self._seconds:
            taken: list[tuple[float, float]] = []
            for _ in range(_TIMED):
                output = self.new()
                child = self.start(job.arguments(output, *self.scheduler(scheduler)))
                child.until(output.exists)
                until = child.age
                outcome = child.wait()
                child.clean()
                if outcome.code != 0 or difference(tree(output), self.whole(job)):
                    raise Wrong(
                        f"{job.name} with {scheduler} ended with {outcome.code}: {outcome.err} "
                        f"{difference(tree(output), self.whole(job))}"
                    )
                taken.append((outcome.seconds, until))
                self.remove(output)
            total, before = (statistics.median(values) for values in zip(*taken, strict=True))
            self._seconds[key] = total, before
        return self._seconds[key]

    def jobs(self) -> dict[str, Job]:
        """Return the jobs by name; those called tiny have few files."""
        inputs = self.inputs
        store = (("info", "{}"), ("accumulate", "{}", "-o", "{}.read"), ("fit", "{}", "-o", "{}.read"))
        statistics_ = (
            ("info", "{}"),
            ("fit", "{}", "-o", "{}.read"),
            ("evaluate", "{}"),
            ("merge", "{}", "-o", "{}.read"),
        )
        found = []
        for prefix, cohort in (("", inputs / "cohort"), ("tiny ", inputs / "tiny")):
            counting = ("accumulate", str(cohort), "--roi", "mask+2mm")
            applying = ("apply", str(cohort), str(inputs / "mhr.json"))
            of_cohort = {
                "a case more": (str(inputs / "more"),),
                "a chunk of another size": (str(inputs / "changed"),),
                "a case less": (str(cohort), "--cases", "small*"),
            }
            found.append(
                Job(
                    f"{prefix}accumulate", counting, ("-o",), statistics_,
                    {
                        "another region": (*counting[:2], "--roi", "full"),
                        **{what: ("accumulate", *words, *counting[2:]) for what, words in of_cohort.items()},
                    },
                )
            )  # fmt: skip
            found.append(
                Job(
                    f"{prefix}apply", applying, ("-o",), store,
                    {
                        "another map": (*applying[:2], str(inputs / "majority.json")),
                        **{what: ("apply", words[0], applying[2], *words[1:]) for what, words in of_cohort.items()},
                    },
                )
            )  # fmt: skip
        for kind, option in (("volumes", "--probability"), ("nnunet", "--member")):
            words: list[str] = ["import", kind]
            for name in ("m0", "m1"):
                words += [option, str(inputs / kind / name)]
            raters = [part for name in RATERS for part in ("--rater", str(inputs / kind / name))]
            others = {
                "a rater less": (*words, *raters[2:]),
                "another floor": (*words, *raters, "--floor", "0.01"),
                "a case less": (*words, *raters, "--cases", "a", "--cases", "b"),
            }
            found.append(Job(f"import {kind}", (*words, *raters), (), store, others))
        return {job.name: job for job in found}

    def _make(self) -> None:
        inputs = self.inputs
        vars(writer)["_TARGET_VOXELS"] = _CHUNK_VOXELS
        small = [_case(f"small{number}", _SMALL, number) for number in range(9)]
        large = _case(LARGE, _LARGE, 100)
        _write(inputs / "cohort", [*small[:4], large, *small[4:]])
        _write(inputs / "more", [*small[:4], large, *small[4:], _case("z", _SMALL, 200)])
        _write(inputs / "tiny", [*small[:2], _case(LARGE, _TINY, 300)])
        shutil.copytree(inputs / "cohort", inputs / "changed")
        chunk = next(iter(chunks(inputs / "changed" / LARGE / "probability")))
        chunk.write_bytes(chunk.read_bytes() + b"\0")
        _write_images(inputs / "volumes", nnunet=False)
        _write_images(inputs / "nnunet", nnunet=True)


def chunks(array: Path) -> list[Path]:
    """Files of the chunks of an array, in order."""
    return sorted(path for path in array.rglob("*") if path.is_file() and path.name != "zarr.json")


def _link(source: str, target: str) -> str:
    Path(target).hardlink_to(source)
    return target


def _write(path: Path, cases: Sequence[Case]) -> None:
    store = writer.CohortWriter(path, [case.name for case in cases])
    for case in cases:
        store.write_case(case)
    store.finish()


def _case(name: str, shape: tuple[int, int, int], seed: int) -> Case:
    """Two members and three raters; exactly zero in the last eighth, so that some chunks are not there."""
    rng = np.random.default_rng(seed)
    lesion = np.zeros(shape)
    lesion[tuple(slice(side // 4, side // 2) for side in shape)] = 1
    probability = 1 / (1 + np.exp(-(6 * lesion - 3 + rng.normal(0, 1, (2, *shape)))))
    probability[..., -shape[2] // 8 :] = 0
    masks = [(lesion > 0) & (rng.random(shape) < 0.8) for _ in RATERS]
    return Case(
        name, probability.astype(np.float16), RATERS, pack_votes(masks), lesion > 0, attributes={"site": "AB"[seed % 2]}
    )


def _write_images(root: Path, *, nnunet: bool) -> None:
    geometry = Geometry((3.0, 0.7, 0.8), (10.0, -20.0, 30.5))
    for name in ("m0", "m1", *RATERS):
        (root / name).mkdir(parents=True)
    for number, name in enumerate("abcd"):
        case = _case(name, _IMAGE, number)
        for member, scores in zip(("m0", "m1"), case.probability.astype(np.float32), strict=True):
            if nnunet:
                both = np.stack([1 - scores, scores])
                np.savez_compressed(root / member / f"{name}.npz", probabilities=both)
                write_volume(root / member / f"{name}.nii.gz", both.argmax(axis=0).astype(np.uint8), geometry)
            else:
                write_volume(root / member / f"{name}.nii.gz", scores, geometry)
        assert case.votes is not None
        for bit, rater in enumerate(RATERS):
            write_volume(root / rater / f"{name}.nii.gz", case.votes >> bit & 1, geometry)
