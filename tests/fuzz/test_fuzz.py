"""Every parser on files that were spoiled: a short session, always the same; ``make fuzz`` is the long one."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

pytest.importorskip("SimpleITK")
if not Path("/proc/self/statm").exists():
    pytest.skip("memory is limited as Linux does it", allow_module_level=True)
from fuzz.targets import CORPUS, Files, Target, corpus_of

NAMES = [
    "map", "cohort-root", "cohort-case", "cohort-array", "cohort-votes", "chunk-none", "chunk-blosc-lz4",
    "chunk-blosc-zstd", "chunk-zstd", "chunk-gzip", "chunk-crc32c", "shard", "statistics-root", "statistics-array",
    "statistics-offset", "statistics-code", "image-nii", "image-nii-gz", "image-mha", "image-nrrd", "image-mhd", "npz",
    "attributes", "cases", "roi",
]  # fmt: skip


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return Files(tmp_path_factory.mktemp("fuzz")).targets


def test_every_target_is_here(targets: dict[str, Target]) -> None:
    assert list(targets) == NAMES
    assert {path.name for path in CORPUS.iterdir()} == set(NAMES)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000


@pytest.mark.parametrize("name", NAMES)
def test_good_files_are_read(targets: dict[str, Target], name: str) -> None:
    for seed, data in targets[name].seeds.items():
        assert targets[name].check(data), seed


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept(targets: dict[str, Target], name: str) -> None:
    """Entries of the corpus whose name begins with "refused" must be; others may be read, without harm."""
    for entry, data in corpus_of(name).items():
        read = targets[name].check(data)
        assert not (read and entry.startswith("refused")), entry


@pytest.mark.parametrize("name", NAMES)
def test_spoiled_files_are_read_or_refused(targets: dict[str, Target], name: str) -> None:
    target = targets[name]
    starts = [*target.seeds.values(), *corpus_of(name).values()]

    # What is drawn are changes, so a smaller draw is no smaller file: nothing is shrunk.
    @settings(max_examples=60, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(starts), st.randoms(use_true_random=False), st.integers(1, 3))
    def check(data: bytes, random: Random, times: int) -> None:
        for _ in range(times):
            data = target.spoiled(data, random)
        note(f"content: {data!r}")
        target.check(data)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_bytes_alone(targets: dict[str, Target], name: str) -> None:
    data = next(iter(targets[name].seeds.values()))
    for length in {0, 1, len(data) // 2, len(data) - 1}:
        targets[name].check(data[:length])
