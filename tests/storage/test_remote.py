"""Stores behind URLs: the same bytes as on this machine, few requests, several at a time, and errors that say why."""

from __future__ import annotations

import errno
import functools
import http.server
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import twintrack_core as tt
from twintrack_core.cli import main
from twintrack_core.cohort.array_metadata import open_array
from twintrack_core.cohort.case import Case
from twintrack_core.cohort.scratch import Scratch
from twintrack_core.cohort.store import fingerprint
from twintrack_core.cohort.writer import CohortWriter, create_array
from twintrack_core.engine.check import _largest_values
from twintrack_core.engine.cost import cost_of
from twintrack_core.engine.importing import import_cases
from twintrack_core.errors import RequestError, StoreError, WorkError
from twintrack_core.simulate import Simulation
from twintrack_core.storage import Entry, Folder, copy_files, new_folder, open_folder
from twintrack_core.storage import ahead as ahead_module
from twintrack_core.storage import remote as remote_module
from twintrack_core.storage.ahead import BYTES, REQUESTS, Ahead

pytest.importorskip("obstore")
pytest.importorskip("moto.server")

SIMULATION = Simulation(cases=3, shape=(24, 40, 40), raters=3, members=2, seed=1)


def tree(folder: Folder) -> dict[str, bytes | None]:
    return {key: folder.read(key) for key, _ in folder.files()}


def put(folder: Folder, *keys: str) -> Folder:
    for key in keys:
        folder.write(key, key.encode())
    return folder


@pytest.fixture
def bucket(server: Any) -> str:
    """URL of an empty bucket."""
    return str(server.bucket())


@pytest.fixture
def local(tmp_path: Path) -> Path:
    import_cases(SIMULATION, tmp_path / "local.zarr")
    return tmp_path / "local.zarr"


def upload(local: Path, url: str) -> Folder:
    copy_files(open_folder(local), open_folder(url))
    return open_folder(url)


# Folders


def test_a_remote_folder_is_as_a_local_one(bucket: str, tmp_path: Path) -> None:
    keys = ["zarr.json", "a/b", "a/b.x/c", "a/c/10", "a/c/9", "a.x", "b/é %20"]
    ordered = sorted(keys, key=lambda key: key.split("/"))
    for folder in (open_folder(f"{bucket}/some where/s.zarr/"), open_folder(bucket), open_folder(tmp_path / "s")):
        assert not folder.exists()
        assert folder.names() == frozenset()
        put(folder, *keys)
        assert folder.exists()
        assert (folder / "a").name == "a"
        assert str(folder / "a") == f"{folder}/a"
        assert folder.files() == [Entry(key, len(key.encode())) for key in ordered]
        assert [key for key, _ in folder.files("a/c")] == ["a/c/10", "a/c/9"]
        assert sorted(folder.keys("a") or ()) == ["a/b", "a/b.x/c", "a/c/10", "a/c/9"]
        assert folder.names() == frozenset({"a", "a.x", "b", "zarr.json"})
        assert (folder / "a").read("b") == b"a/b"
        assert (folder.read("x"), folder.read("a"), folder.read_range("x", 0, 1), folder.open("x")) == (None,) * 4
        assert (folder.has("a/b"), folder.has("a"), folder.has("x")) == (True, False, False)
        assert folder.read_range("zarr.json", 2, 3) == b"rr."
        with pytest.raises(OSError, match="it has more than 8 bytes") as caught:
            folder.read("zarr.json", limit=8)
        assert caught.value.filename == f"{folder}/zarr.json"
        for hint in ({}, {"head": 3}, {"tail": 4}, {"tail": 400}):
            file = folder.open("zarr.json", **hint)
            assert file is not None
            with file:
                assert (file.size, file.read(3, 0), file.read(4, 5), file.read(9, 5)) == (9, b"zar", b"json", b"json")
        assert not folder.create("a/b", b"new")
        assert folder.create("a/new", b"new")
        folder.remove("a/new")
        assert pickle.loads(pickle.dumps(folder / "a")) == folder / "a"
        assert (folder / "a").lies_in(folder)
        assert not folder.lies_in(folder / "a")
        folder.remove("a")
        folder.remove("zarr.json")
        assert [key for key, _ in folder.files()] == ["a.x", "b/é %20"]
        folder.remove()
        assert not folder.exists()


def test_a_large_file_comes_in_pieces(bucket: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(bucket)
    data = bytes(range(256)) * 100
    folder.write("a", data)
    monkeypatch.setattr(remote_module, "_PIECE", 10_000)
    server.counted.reset()
    assert folder.read("a") == data
    assert server.counted.made["GET"] >= 4


def test_a_list_of_several_pages(bucket: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(bucket)
    put(folder, *map(str, range(12)))
    monkeypatch.setattr(remote_module, "_PAGE", 5)
    assert len(folder.files()) == 12


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/a", "cannot be opened"),
        ("http://example.com/a", "cannot be opened"),
        ("s3://", "cannot be opened"),
        ("s3:///a", "cannot be opened"),
        ("https://host/a?token=secret", "has a query"),
        ("https://user:secret@host/a", "a password in its URL"),
        ("s3://bucket/../a", "cannot be the name"),
        ("https://host/a/%2e%2e/b", "cannot be the name"),
    ],
)
def test_other_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises((RequestError, StoreError), match=words) as caught:
        open_folder(url)
    assert "secret" not in str(caught.value) or "password" not in words


def test_obstore_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(WorkError, match=r"needs obstore: pip install 'twintrack-core\[remote\]'"):
        open_folder("s3://bucket/a")


# Failures


def test_failures_say_why(bucket: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(open_folder(bucket), "a")
    nowhere = open_folder("s3://nobucket/a")
    for work in (lambda: nowhere.read("a"), nowhere.files, nowhere.names, lambda: nowhere.write("a", b"")):
        with pytest.raises(OSError, match="there is no such bucket") as caught:
            work()
        assert str(caught.value.filename).startswith("s3://nobucket/a")
    for status, number, words in (
        ("403 Forbidden", errno.EACCES, "access is denied"),
        ("401 Unauthorized", errno.EACCES, "access is denied"),
        ("400 Bad Request", errno.EIO, "the server answered 400 Bad Request"),
        ("503 Slow Down", errno.EIO, "the server answered 503"),
    ):
        server.counted.reset()
        server.counted.faults = [status] * 3
        with pytest.raises(OSError, match=words) as caught:
            folder.read("a")
        assert caught.value.errno == number
    server.counted.reset()
    server.counted.faults = ["500 Internal Server Error"] * 2
    assert folder.read("a") == b"a"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="the server cannot be reached, 3 tries"):
        folder.read("a")


def test_a_stalled_network_ends(bucket: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(open_folder(bucket), "a")
    monkeypatch.setattr(remote_module, "TIMEOUT", 0.3)
    remote_module._connect.cache_clear()
    server.counted.delay = 1.5
    try:
        with pytest.raises(OSError, match=r"timed out, 3 tries of 0\.3 s") as caught:
            folder.read("a")
        assert caught.value.errno == errno.ETIMEDOUT
    finally:
        remote_module._connect.cache_clear()


def test_a_store_that_is_not_there_is_a_wrong_request(bucket: str) -> None:
    with pytest.raises(RequestError, match=f"{bucket}/a does not exist"):
        tt.open_cohort(f"{bucket}/a")
    with pytest.raises(RequestError, match="does not exist"):
        tt.CohortStatistics.load(f"{bucket}/a")
    with pytest.raises(StoreError, match=r"nobucket/a/zarr\.json cannot be read: there is no such bucket"):
        tt.open_cohort("s3://nobucket/a")


# Stores


def test_the_same_bytes_as_on_this_machine(bucket: str, local: Path, tmp_path: Path, server: Any) -> None:
    import_cases(SIMULATION, f"{bucket}/c.zarr")
    remote, here = tt.open_cohort(f"{bucket}/c.zarr"), tt.open_cohort(local)
    assert tree(remote.folder) == tree(here.folder)
    assert fingerprint(remote) == fingerprint(here)
    with pytest.raises(RequestError, match="is not on this machine"):
        _ = remote.path
    for roi in ("full", "raters+3", "mask+3mm")[:2]:
        assert tt.accumulate(remote, roi=roi) == tt.accumulate(here, roi=roi)
    statistics = tt.accumulate(remote)
    statistics.save(f"{bucket}/s.zarr")
    statistics.save(tmp_path / "s.zarr")
    assert tree(open_folder(f"{bucket}/s.zarr")) == tree(open_folder(tmp_path / "s.zarr"))
    assert tt.CohortStatistics.load(f"{bucket}/s.zarr") == statistics
    fitted = tt.fit(statistics, "isotonic")
    tt.apply(here, fitted, tmp_path / "out.zarr")
    expected = tree(open_folder(tmp_path / "out.zarr"))
    for source, target in ((remote, f"{bucket}/out.zarr"), (remote, tmp_path / "a.zarr"), (here, f"{bucket}/b.zarr")):
        tt.apply(source, fitted, target)
        assert tree(open_folder(target)) == expected
    with pytest.raises(RequestError, match="exists already"):
        tt.apply(here, fitted, f"{bucket}/out.zarr")
    with pytest.raises(RequestError, match="lies in the cohort"):
        tt.apply(remote, fitted, f"{bucket}/c.zarr/out.zarr")
    for case, same in zip(remote, here, strict=True):
        np.testing.assert_array_equal(case.read().probability, same.read().probability)


def test_commands_take_urls(
    bucket: str, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(local, f"{bucket}/c.zarr")
    for arguments in (
        ["info", f"{bucket}/c.zarr"],
        ["accumulate", f"{bucket}/c.zarr", "-o", f"{bucket}/s.zarr"],
        ["info", f"{bucket}/s.zarr"],
        ["fit", f"{bucket}/s.zarr", "-o", str(tmp_path / "map.json")],
        ["apply", f"{bucket}/c.zarr", str(tmp_path / "map.json"), "-o", f"{bucket}/o.zarr"],
        ["evaluate", f"{bucket}/c.zarr", "--map", str(tmp_path / "map.json")],
        ["export", f"{bucket}/o.zarr", str(tmp_path / "images")],
    ):
        assert main(arguments) == 0, capsys.readouterr().err
    before = [*tmp_path.iterdir()]
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["fit", f"{bucket}/s.zarr", "-o", f"{bucket}/map.json"],
        ["export", f"{bucket}/o.zarr", f"{bucket}/images"],
    ):
        assert main(arguments) == 2
        assert "only stores are written to URLs" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == before
    for arguments in (
        ["info", "s3://nobucket/a"],
        ["accumulate", f"{bucket}/c.zarr", "-o", "s3://nobucket/a"],
        ["apply", f"{bucket}/c.zarr", str(tmp_path / "map.json"), "-o", "s3://nobucket/a"],
    ):
        assert main(arguments) == 2
        assert "s3://nobucket/a cannot be looked into: there is no such bucket" in capsys.readouterr().err
    assert main(["info", f"{bucket}/nothing"]) == 2
    assert f"{bucket}/nothing does not exist" in capsys.readouterr().err


# Requests


def many_chunks(path: Path, n: int = 60, shards: tuple[int, ...] | None = None) -> Path:
    """A cohort of one case with ``n`` chunks of scores, of which every third was written, as of votes every fourth."""
    scores = np.zeros((4 * n, 4, 4), dtype=np.float16)
    votes = np.zeros_like(scores, dtype=np.uint8)
    for i in range(0, n, 3):
        scores[4 * i : 4 * i + 4] = 0.5
    for i in range(0, n, 4):
        votes[4 * i : 4 * i + 4] = 1
    writer = CohortWriter(path, ["c"])
    writer.write_case(Case("c", scores, raters=("r",), votes=votes))
    for name, values in (("probability", scores), ("votes", votes)):
        layout: Any = {"shape": scores.shape, "chunks": (4, 4, 4), "shards": shards, "dtype": values.dtype}
        zarr.create_array(str(path / "c" / name), overwrite=True, dimension_names=("z", "y", "x"), **layout)[:] = values
    writer.finish()
    return path


def test_accumulate_asks_once_for_each_chunk(bucket: str, server: Any, tmp_path: Path) -> None:
    path = many_chunks(tmp_path / "c.zarr")
    remote = tt.open_cohort(upload(path, f"{bucket}/c.zarr"))
    server.counted.reset()
    server.counted.delay = 0.05
    assert tt.accumulate(remote, workers=1) == tt.accumulate(tt.open_cohort(path))
    made = server.counted.made
    metadata = 3
    assert made["GET"] == 20 + 15 + metadata
    assert made["LIST"] <= 5
    assert set(made) == {"GET", "LIST"}
    assert server.counted.failed == []
    assert 8 < server.counted.most <= REQUESTS


def test_shards_are_asked_for_once(bucket: str, server: Any, tmp_path: Path) -> None:
    path = many_chunks(tmp_path / "c.zarr", shards=(60, 4, 4))  # 4 shards of 15 chunks
    remote = tt.open_cohort(upload(path, f"{bucket}/c.zarr"))
    server.counted.reset()
    assert tt.accumulate(remote, workers=1) == tt.accumulate(tt.open_cohort(path))
    # An index when chunks are listed and one when they are read, and the chunks of a shard in one piece.
    assert server.counted.made["GET"] <= 3 + 8 * 3
    assert server.counted.failed == []


def test_apply_writes_several_chunks_at_a_time(bucket: str, server: Any, tmp_path: Path) -> None:
    path = many_chunks(tmp_path / "c.zarr")
    fitted = tt.fit(tt.accumulate(tt.open_cohort(path)), "isotonic")
    remote = tt.open_cohort(upload(path, f"{bucket}/c.zarr"))
    server.counted.reset()
    server.counted.delay = 0.05
    tt.apply(remote, fitted, f"{bucket}/o.zarr", workers=1)
    assert server.counted.failed == []
    assert server.counted.most > 8
    # The lock; metadata of root and case twice, of two arrays (one copied); votes are copied, scores written.
    assert server.counted.made["PUT"] == 1 + 2 + 2 + 2 + 20 + 15
    tt.apply(tt.open_cohort(path), fitted, tmp_path / "o.zarr")
    assert tree(open_folder(f"{bucket}/o.zarr")) == tree(open_folder(tmp_path / "o.zarr"))


def test_any_array_is_read_as_it_is(bucket: str, server: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((2, 9, 6, 5)) * (rng.random((2, 9, 6, 5)) > 0.8)).astype(np.float16)
    values[:, :4] = 0
    for number, options in enumerate(
        (
            {"chunks": (1, 4, 4, 4)},
            {"chunks": (2, 2, 2, 2), "shards": (2, 4, 8, 8)},
            {"chunks": (1, 4, 4, 4), "chunk_key_encoding": {"name": "v2", "separator": "."}},
            {"chunks": (1, 4, 4, 4), "chunk_key_encoding": {"name": "v2", "separator": "/"}},
            {"chunks": (1, 4, 4, 4), "chunk_key_encoding": {"name": "default", "separator": "."}},
        )
    ):
        path, url = tmp_path / f"{number}", f"{bucket}/{number}"
        settings: Any = options
        zarr.create_array(str(path), shape=values.shape, dtype=values.dtype, **settings)[:] = values
        upload(path, url)
        array, here = open_array(url), open_array(path)
        np.testing.assert_array_equal(array.read_all(), values)
        np.testing.assert_array_equal(array.written(), here.written())
        scratch = Scratch()
        boxes = [np.s_[0:2, 1:9, 3:6, 2:5], np.s_[1:2, 5:9, 0:6, 0:5], np.s_[0:1, 0:3, 0:3, 0:3]]
        array.expect(boxes, scratch)
        for box in (*boxes[::-1], *boxes):  # in another order, and more often than expected
            out = np.empty(values[box].shape, dtype=values.dtype)
            array.read(box, out, scratch)
            np.testing.assert_array_equal(out, values[box])
        out = np.empty(values[boxes[0]].shape, dtype=values.dtype)
        array.read(boxes[0], out, Scratch())  # of which nothing was expected
        np.testing.assert_array_equal(out, values[boxes[0]])
        scratch.forget()


class Slow:
    """A folder of files that count how many of them are read at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = self.read_bytes = 0

    def read(self, key: str, *, limit: int | None = None) -> bytes:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.01)
        with self.lock:
            self.now -= 1
            self.read_bytes += int(key)
        return b""


def test_what_is_ahead_is_bounded() -> None:
    folder: Any = Slow()
    ahead = Ahead()
    for n in range(200):
        ahead.expect(n, folder, "1", 1)
    for n in range(200):
        assert ahead.take(n) == (True, b"")
    assert 8 < folder.most <= REQUESTS
    assert ahead.take(0) == (False, None)
    folder.read_bytes = 0
    for n in range(20):
        ahead.expect(n, folder, str(BYTES // 4), BYTES // 4)
    ahead.take(0)
    threading.Event().wait(0.2)
    assert folder.read_bytes <= 5 * BYTES // 4
    for n in range(1, 20):
        assert ahead.take(n) == (True, b"")


def test_looking_for_the_largest_values_reads_ahead(bucket: str, server: Any, tmp_path: Path) -> None:
    remote = tt.open_cohort(upload(many_chunks(tmp_path / "c.zarr"), f"{bucket}/c.zarr"))["c"]
    server.counted.reset()
    server.counted.delay = 0.05
    assert list(_largest_values(remote.parts["votes"])) == [1] * 15
    assert server.counted.most > 8


# Faults


def test_what_came_damaged_with_other_chunks_is_fetched_again(
    bucket: str, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = many_chunks(tmp_path / "c.zarr", shards=(60, 4, 4))
    remote = tt.open_cohort(upload(path, f"{bucket}/c.zarr"))["c"].probability
    load, damaged = ahead_module._Fetch.load, [True]

    def once_damaged(fetch: Any) -> bytes | None:
        data = load(fetch)
        assert data is not None
        return bytes(len(data)) if damaged and damaged.pop() else data

    monkeypatch.setattr(ahead_module._Fetch, "load", once_damaged)
    np.testing.assert_array_equal(remote.read_all(), tt.open_cohort(path)["c"].probability.read_all())
    assert damaged == []


def test_a_server_that_fails_twice_is_asked_again(bucket: str, server: Any, tmp_path: Path) -> None:
    path = many_chunks(tmp_path / "c.zarr")
    remote = tt.open_cohort(upload(path, f"{bucket}/c.zarr"))
    server.counted.reset()
    server.counted.matching = lambda kind, path: kind == "GET" and "/c/" in path
    server.counted.faults = ["500 Internal Server Error"] * 2
    assert tt.accumulate(remote) == tt.accumulate(tt.open_cohort(path))
    assert server.counted.faults == []


def test_a_server_that_goes_away_is_named_and_the_run_resumed(bucket: str, server: Any, tmp_path: Path) -> None:
    path = many_chunks(tmp_path / "c.zarr")
    cohort = tt.open_cohort(path)
    fitted = tt.fit(tt.accumulate(cohort), "isotonic")
    remote = tt.open_cohort(upload(path, f"{bucket}/c.zarr"))
    server.counted.reset()
    server.counted.matching = lambda kind, path: "/c/" in path
    server.counted.gone_after = 10
    with pytest.raises(StoreError, match=f"{bucket}/c.zarr/c/(probability|votes)/c/.* cannot be read: ") as caught:
        tt.accumulate(remote)
    assert "Traceback" not in str(caught.value)
    server.counted.reset()
    server.counted.matching = lambda kind, path: kind == "PUT" and "/o.zarr/c/probability/c/" in path
    server.counted.gone_after = 7
    with pytest.raises(WorkError, match=f"{bucket}/o.zarr cannot be written: ") as failed:
        tt.apply(cohort, fitted, f"{bucket}/o.zarr")
    assert "--resume" in str(failed.value)
    server.counted.reset()
    with pytest.raises(StoreError, match="incomplete"):
        tt.open_cohort(f"{bucket}/o.zarr")
    tt.apply(cohort, fitted, f"{bucket}/o.zarr", resume=True)
    tt.apply(cohort, fitted, tmp_path / "o.zarr")
    assert tree(open_folder(f"{bucket}/o.zarr")) == tree(open_folder(tmp_path / "o.zarr"))


def test_a_write_that_fails_is_raised_before_the_task_ends(bucket: str, server: Any) -> None:
    array = create_array(f"{bucket}/a", (8, 4, 4), np.uint8, chunks=(4, 4, 4))
    scratch = Scratch()
    server.counted.faults = ["403 Forbidden"]
    array.write_chunk((0, 0, 0), np.ones((4, 4, 4), np.uint8), scratch)
    array.write_chunk((1, 0, 0), np.ones((4, 4, 4), np.uint8), scratch)
    with pytest.raises(OSError, match="access is denied"):
        scratch.forget()
    scratch.forget()
    assert len(array.written()) == 1


# https


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Serve a folder over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield lambda: f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_store_over_http_is_only_read(web: Callable[[], str], tmp_path: Path) -> None:
    path = many_chunks(tmp_path / "c.zarr", 12)
    here, there = tt.open_cohort(path), tt.open_cohort(f"{web()}/c.zarr")
    assert there.names == here.names
    assert tt.accumulate(there) == tt.accumulate(here)
    np.testing.assert_array_equal(there["c"].read().probability, here["c"].read().probability)
    statistics = tt.accumulate(there, path=tmp_path / "c.stats")
    assert tt.accumulate(there, path=tmp_path / "c.stats", resume=True) == statistics
    before = fingerprint(there)
    assert cost_of(there["c"]).stored_bytes is None
    with pytest.raises(RequestError, match="cannot be listed"):
        tt.apply(there, tt.fit(statistics), tmp_path / "o.zarr")
    metadata = path / "c" / "votes" / "zarr.json"
    metadata.write_text(f"{metadata.read_text()} ")
    assert fingerprint(there) != before
    (path / "c" / "zarr.json").unlink()
    with pytest.raises(StoreError, match="case c is missing"):
        fingerprint(there)
    with pytest.raises(RequestError, match="https is only read"):
        new_folder(f"{web()}/new")
    with pytest.raises(OSError, match="https is only read"):
        there.folder.write("a", b"")
    with pytest.raises(RequestError, match="not a Zarr v3 store"):
        tt.open_cohort(f"{web()}/nothing")
