"""What is fuzzed: for every kind of file a parser, the files it should read, and how they are spoiled.

A target is called with the content of a file. It may read it, or refuse it with one clear error of ours; whatever else
is raised, or takes long, or takes memory beyond `ROOM`, is a crash.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import resource
import shutil
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
from fuzz.mutations import MAX_BYTES, Spoil, spoil_bytes, spoil_json, spoil_text

from twintrack_core.cli import main
from twintrack_core.cli._shared import case_patterns
from twintrack_core.cohort.attributes import read_attributes
from twintrack_core.cohort.case import Geometry
from twintrack_core.cohort.images import read_info, read_volume, write_volume
from twintrack_core.cohort.npz import open_probabilities
from twintrack_core.cohort.roi import parse_roi
from twintrack_core.cohort.store import StoredCase, open_cohort
from twintrack_core.errors import TwinTrackError
from twintrack_core.histogram import CohortStatistics
from twintrack_core.maps import load_map
from twintrack_core.names import matching
from twintrack_core.storage import retry

CORPUS = Path(__file__).parent / "corpus"
ROOM = 1 << 30
"""Address space that reading one small file may take on top of what there is."""

SECONDS = 10.0
"""Time that it may take; a hundred times as long as the slowest should, on a busy machine."""

_SHAPE = (6, 7, 8)


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes
    ----------
    name
        Of the target and of its folder in the corpus.
    seeds
        Contents that must be read without an error, by name.
    parse
        Reads a content.
    spoil
        Changes a content.
    inside
        How the content is unpacked and packed again, so that what is inside is spoiled too.
    """

    name: str
    seeds: dict[str, bytes]
    parse: Callable[[bytes], object]
    spoil: Spoil
    inside: tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]] | None = None

    def check(self, data: bytes) -> bool:
        """Read or refuse ``data``; whether it was read. Anything else is raised."""
        start = time.process_time()
        try:
            # What is damaged is read again after a while, which tells nothing here.
            with _limited(ROOM), mock.patch.object(retry, "WAITS", ()):
                self.parse(data)
        except TwinTrackError as error:
            _check_message(error)
            return False
        finally:
            taken = time.process_time() - start
            if taken > SECONDS:
                raise AssertionError(f"{self.name}: it took {taken:.1f} seconds of the processor")
        return True

    def spoiled(self, data: bytes, random: Random) -> bytes:
        """Return a changed content."""
        if self.inside is not None and random.random() < 0.6:
            unpack, pack = self.inside
            with contextlib.suppress(Exception):
                return pack(self.spoil(unpack(data), random))
        return self.spoil(data, random) if random.random() < 0.8 else spoil_bytes(data, random)


def _check_message(error: TwinTrackError) -> None:
    """Refuse an error that no person would read: of many lines or of kilobytes, or that cannot be printed."""
    parts = [part for part in (error.what, error.allowed, error.action) if part]
    assert error.what
    assert len(parts) >= 2, f"it says neither what is allowed nor what to do: {error.what[:200]}"
    for part in parts:
        assert len(part) < 1500, f"it has {len(part)} characters: {part[:200]}"
        assert part.isprintable(), f"it cannot be printed on a line: {part[:200]!r}"


@contextlib.contextmanager
def _limited(room: int) -> Iterator[None]:
    """Let the process take only so much more address space."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Files:
    """Good files of every kind in a folder, and the targets that read them.

    Parameters
    ----------
    folder
        An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "cohort.zarr"
        self.statistics = folder / "statistics.zarr"
        self.map = folder / "map.json"
        shape = [str(size) for size in _SHAPE]
        simulated = ["--cases", "2", "--shape", *shape, "--raters", "2", "--members", "2", "--seed", "3"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for words in (
                ["simulate", str(self.store), *simulated],
                ["accumulate", str(self.store), "-o", str(self.statistics)],
                ["fit", str(self.statistics), "-o", str(self.map), "--calibrator", "beta"],
            ):
                if main(words) != 0:
                    raise RuntimeError(f"twintrack {' '.join(words)} failed")
        self.case = open_cohort(self.store).names[0]
        self.scores = np.round(np.random.default_rng(5).random(_SHAPE), 1).astype(np.float32)
        self.scores[:3] = 0

    @cached_property
    def targets(self) -> dict[str, Target]:
        """Every target by name."""
        found = [
            *self._of_maps(),
            *self._of_cohorts(),
            *self._of_chunks(),
            *self._of_statistics(),
            *self._of_images(),
            *self._of_tables(),
        ]
        return {target.name: target for target in found}

    def _file(self, path: Path, parse: Callable[[], object]) -> Callable[[bytes], object]:
        """Return a parser that puts the content in place first."""

        def parse_content(data: bytes) -> object:
            path.write_bytes(data)
            return parse()

        return parse_content

    def _of_maps(self) -> Iterator[Target]:
        path = self.folder / "fuzzed.json"

        def parse() -> None:
            found = load_map(path)
            found(np.linspace(0, 1, 5, dtype=np.float32))
            path.write_text(found.to_json())
            assert load_map(path) == found  # what was read can be written, and read again

        banded = json.loads(self.map.read_text())
        banded["knots"] = [[0.1, 0.2, 0.1, 0.3], [0.5, 0.6, 0.4, 0.9]]
        seeds = {"beta": json.dumps(json.loads(self.map.read_text()) | {"knots": [[0, 0], [0.5, 0.4]]}).encode()}
        seeds["band"] = json.dumps(banded).encode()
        yield Target("map", seeds, self._file(path, parse), spoil_json)

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.store, self.folder / name))

    def _of_cohorts(self) -> Iterator[Target]:
        for name, file in (
            ("cohort-root", "zarr.json"),
            ("cohort-case", f"{self.case}/zarr.json"),
            ("cohort-array", f"{self.case}/probability/zarr.json"),
            ("cohort-votes", f"{self.case}/votes/zarr.json"),
        ):
            store = self._copy(f"{name}.zarr")
            yield Target(
                name, {"valid": (store / file).read_bytes()}, self._file(store / file, _reader(store)), spoil_json
            )

    def _of_chunks(self) -> Iterator[Target]:
        import zarr
        from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

        plain: dict[str, dict[str, Any]] = {
            "chunk-none": {"compressors": None},
            "chunk-blosc-lz4": {"compressors": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", blocksize=256)},
            "chunk-blosc-zstd": {"compressors": BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")},
            "chunk-zstd": {"compressors": ZstdCodec(level=3, checksum=False)},
            "chunk-gzip": {"compressors": GzipCodec(level=5)},
            "chunk-crc32c": {
                "filters": [TransposeCodec(order=(2, 0, 1))],
                "serializer": BytesCodec(endian="big"),
                "compressors": [ZstdCodec(level=3), Crc32cCodec()],
            },
            "shard": {"shards": (6, 8, 8), "chunks": (3, 4, 8), "compressors": ZstdCodec(level=3)},
        }
        for name, layout in plain.items():
            store = self._copy(f"{name}.zarr")
            path = store / self.case / "probability"
            shutil.rmtree(path)
            array = zarr.create_array(
                str(path), shape=_SHAPE, dtype="float16", fill_value=0, **{"chunks": (6, 8, 8), **layout}
            )
            array[...] = self.scores
            chunk = path / "c" / "0" / "0" / "0"
            inside = {"chunk-gzip": (_gunzipped, _gzipped), "chunk-crc32c": (_unsigned, _signed)}.get(name)
            case = open_cohort(store)[self.case]
            yield Target(
                name, {"valid": chunk.read_bytes()}, self._file(chunk, _case_reader(case)), spoil_bytes, inside
            )

    def _of_statistics(self) -> Iterator[Target]:
        for name, file, spoil in (
            ("statistics-root", "zarr.json", spoil_json),
            ("statistics-array", "count/zarr.json", spoil_json),
            ("statistics-offset", "offset/c/0", spoil_bytes),
            ("statistics-code", "code/c/0", spoil_bytes),
        ):
            store = Path(shutil.copytree(self.statistics, self.folder / f"{name}.zarr"))

            def load(store: Path = store) -> object:
                return CohortStatistics.load(store)

            yield Target(name, {"valid": (store / file).read_bytes()}, self._file(store / file, load), spoil)

    def _of_images(self) -> Iterator[Target]:
        scores = {"float": self.scores[:3, :4, :5], "mask": (self.scores[2:5, 1:5, 2:6] > 0.5).astype(np.uint8)}
        for suffix in (".nii", ".nii.gz", ".mha", ".nrrd", ".mhd"):
            path = self.folder / f"fuzzed{suffix}"
            seeds = {}
            for name, values in scores.items():
                if suffix == ".mhd":
                    (self.folder / "a.raw").write_bytes(bytes(60 * 4))
                    header = "NDims = 3\nElementSpacing = 1 1 2\nDimSize = 5 4 3\nElementType = MET_FLOAT\n"
                    seeds[name] = f"ObjectType = Image\n{header}ElementDataFile = a.raw\n".encode()
                    continue
                write_volume(path, np.ascontiguousarray(values), Geometry((2.0, 1.0, 0.5)))
                seeds[name] = path.read_bytes()
            if suffix in (".mha", ".nrrd"):
                seeds["raw"] = _RAW_HEADERS[suffix] + self.scores[:3, :4, :5].tobytes()

            def parse(path: Path = path) -> None:
                read_info(path)
                read_volume(path)

            inside = (_gunzipped, _gzipped) if suffix == ".nii.gz" else None
            spoil = spoil_bytes if suffix.startswith(".nii") else spoil_text
            yield Target(f"image-{suffix.strip('.').replace('.', '-')}", seeds, self._file(path, parse), spoil, inside)

    def _of_tables(self) -> Iterator[Target]:
        npz = self.folder / "fuzzed.npz"

        def parse_npz() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # NumPy's, about headers of Python 2
                for _ in open_probabilities(npz).blocks():
                    pass

        seeds = {}
        for name, save in (("stored", np.savez), ("deflated", np.savez_compressed)):
            save(npz, probabilities=np.stack([1 - self.scores, self.scores])[:, :2, :3, :4])
            seeds[name] = npz.read_bytes()
        yield Target("npz", seeds, self._file(npz, parse_npz), spoil_bytes, (_unzipped, _zipped))

        csv = self.folder / "fuzzed.csv"
        rows = {
            "plain": b"case,site,age\na,A,61\nb,B,0070\n",
            "quoted": b'\xef\xbb\xbfage,case\r\n"1,5",a\r\n"""",b\r\n',
        }
        yield Target("attributes", rows, self._file(csv, lambda: read_attributes(csv, ["a", "b"])), spoil_text)

        text = self.folder / "fuzzed.txt"
        lists = {"names": b"a\nb\n", "globs": b"[ab]*\n*\n"}
        names = ["a", "b", "case_" + "a" * 150]
        yield Target(
            "cases", lists, self._file(text, lambda: matching(names, case_patterns([str(text)]), "it")), spoil_text
        )

        rules = {"full": b"full", "mask": b"mask+5.25mm", "raters": b"raters+20"}

        def parse_rule(data: bytes) -> None:
            rule = parse_roi(data.decode(errors="surrogateescape"))
            assert parse_roi(str(rule)) == rule

        yield Target("roi", rules, parse_rule, spoil_text)


_RAW_HEADERS = {
    ".mha": b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 5 4 3\n"
    b"ElementType = MET_FLOAT\nElementDataFile = LOCAL\n",
    ".nrrd": b"NRRD0004\ntype: float\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n\n",
}


def _reader(store: Path) -> Callable[[], object]:
    def read() -> None:
        cohort = open_cohort(store)
        _case_reader(cohort[cohort.names[0]])()

    return read


def _case_reader(case: StoredCase) -> Callable[[], object]:
    def read() -> None:
        for array in (case.probability, *case.parts.values()):
            array.written()
        case.read()

    return read


def _gunzipped(data: bytes) -> bytes:
    with gzip.open(io.BytesIO(data)) as stream:
        return stream.read(MAX_BYTES)  # some are bombs


def _gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 5, mtime=0)


def _unsigned(data: bytes) -> bytes:
    return data[:-4]


def _signed(data: bytes) -> bytes:
    from numcodecs.checksum32 import CRC32C

    return data + int(CRC32C.checksum(data, 0)).to_bytes(4, "little")


def _unzipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(archive.namelist()[0])


def _zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("probabilities.npy"), data)
    return out.getvalue()


def corpus_of(name: str) -> dict[str, bytes]:
    """Inputs of a target that are kept, by name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*")) if path.is_file()}
