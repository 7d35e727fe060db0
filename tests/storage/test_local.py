"""Folders on this machine: files whole or absent, lists in one order, nothing behind links, no waiting for FIFOs."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twintrack_core.errors import RequestError, StoreError
from twintrack_core.storage import Entry, copy_files, new_folder, open_folder
from twintrack_core.storage import local as local_module
from twintrack_core.storage.local import LocalFolder


def make(root: Path, *keys: str) -> LocalFolder:
    root.mkdir(parents=True, exist_ok=True)
    folder = open_folder(root)
    assert isinstance(folder, LocalFolder)
    for key in keys:
        folder.write(key, key.encode())
    return folder


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("a/b", "a/b"),
        ("./a//b/", "a/b"),
        (".", "."),
        ("", "."),
        ("/", "/"),
        (Path("x"), "x"),
        ("file:///a%20b/c", "/a b/c"),
    ],
)
def test_a_folder_is_called_as_it_was_named(place: str | Path, text: str) -> None:
    folder = open_folder(place)
    assert str(folder) == text
    assert str(folder / "z") == str(Path(text) / "z")
    assert (folder / "z").name == "z"
    assert folder.local == Path(text)
    assert open_folder(folder) is folder
    assert pickle.loads(pickle.dumps(folder / "z")) == folder / "z"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "..\\x", "a\0"])
def test_only_single_names_are_joined(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be the name of a file or folder"):
        _ = open_folder(tmp_path) / name


def test_keys_do_not_leave_the_folder_they_are_written_to(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be the name"):
        open_folder(tmp_path / "a").write("x/../../b", b"")
    assert not list(tmp_path.iterdir())


def test_files_are_listed_in_one_order(tmp_path: Path) -> None:
    keys = ["a/b", "a/b.x/c", "a/c/10", "a/c/9", "a.x", "zarr.json", "b/é"]
    folder = make(tmp_path, *keys)
    (tmp_path / "empty").mkdir()
    ordered = sorted(keys, key=lambda key: key.split("/"))
    assert folder.files() == [Entry(key, len(key.encode())) for key in ordered]
    assert [key for key, _ in folder.files("a/c")] == ["a/c/10", "a/c/9"]
    assert sorted(folder.keys("a")) == ["a/b", "a/b.x/c", "a/c/10", "a/c/9"]
    assert (folder.keys("nowhere"), folder.files("zarr.json")) == ([], [])
    assert folder.names() == {"a", "a.x", "b", "zarr.json", "empty"}
    assert (folder / "nowhere").names() == frozenset()


def test_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    folder = make(tmp_path, "a/b")
    assert (folder.exists(), (folder / "a").exists(), (folder / "b").exists()) == (True, True, False)
    assert (folder.has("a/b"), folder.has("a"), folder.has("b"), folder.has("a/b/c")) == (True, False, False, False)
    assert (folder.read("a/b"), folder.read("a"), folder.read("x"), folder.read("a/b/c")) == (b"a/b", None, None, None)
    assert folder.open("a") is None
    with pytest.raises(OSError, match="it has more than 2 bytes") as caught:
        folder.read("a/b", limit=2)
    assert caught.value.filename == str(tmp_path / "a/b")
    file = folder.open("a/b")
    assert file is not None
    with file:
        assert (file.size, file.read(2, 1), file.read(9, 1)) == (3, b"/b", b"/b")


def test_nothing_is_there_twice(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert folder.create("a/b", b"1")
    assert not folder.create("a/b", b"2")
    assert folder.read("a/b") == b"1"
    with pytest.raises(RequestError, match="exists already"):
        new_folder(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        new_folder(tmp_path / "x" / "y")
    assert new_folder(tmp_path / "x") == open_folder(tmp_path / "x")


def test_removing(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", "a/b", "a/c/d", "e")
    for key in ("a/b", "a/c", "nowhere", "e"):
        folder.remove(key)
    assert folder.keys() == []
    (folder / "a").remove()
    assert folder.names() == frozenset()
    folder.remove()
    assert not folder.exists()


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "x")
    folder = make(tmp_path / "s", "a/b")
    (tmp_path / "s" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    folder.remove("a")
    assert (tmp_path / "elsewhere" / "x").exists()


def test_sweeping_takes_what_is_not_whole(tmp_path: Path) -> None:
    folder = make(tmp_path, "a.1.partial", "b/c.2.partial", "b/d", "partial")
    folder.sweep(deep=False)
    assert sorted(folder.keys()) == ["b/c.2.partial", "b/d", "partial"]
    folder.sweep()
    assert sorted(folder.keys()) == ["b/d", "partial"]


def test_copying_takes_what_is_whole_and_not_there(tmp_path: Path) -> None:
    source = make(tmp_path / "source", "a/b", "c", "a/d.7.partial")
    target = make(tmp_path / "target", "x")
    target.write("c", b"mine")
    copy_files(source, target)
    assert {key: target.read(key) for key, _ in target.files()} == {"a/b": b"a/b", "c": b"mine", "x": b"x"}
    copy_files(source, open_folder(tmp_path / "new"))
    assert sorted(open_folder(tmp_path / "new").keys() or ()) == ["a/b", "c"]
    with pytest.raises(FileNotFoundError):
        copy_files(source, open_folder(tmp_path / "removed" / "new"))
    assert not (tmp_path / "removed").exists()


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
def test_nothing_behind_a_link_is_seen(tmp_path: Path, place: str) -> None:
    make(tmp_path / "made", "a/b/c")
    (tmp_path / "made").rename(tmp_path / "real")  # what was no link is not looked at again
    (tmp_path / "real" / place).rename(tmp_path / "elsewhere")
    (tmp_path / "real" / place).symlink_to(tmp_path / "elsewhere")
    folder = open_folder(tmp_path / "real")
    work: list[Callable[[], object]] = [
        lambda: folder.read("a/b/c"),
        lambda: folder.has("a/b/c"),
        lambda: folder.open("a/b/c"),
        folder.files,
        folder.keys,
        lambda: folder.keys("a/b"),
        lambda: copy_files(folder, open_folder(tmp_path / "copy")),
    ]
    if place != "a/b/c":
        work.append(lambda: folder.write("a/b/c", b""))
        work.append(lambda: folder.remove("a/b/c"))
    for one in work:
        with pytest.raises(StoreError, match=f"real/{place} is a symbolic link"):
            one()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert open_folder(tmp_path / "link").names() == frozenset({"a"})


def test_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        folder = open_folder(tmp_path)
        for key in ("fifo", "socket"):
            with pytest.raises(OSError, match="neither a file nor a folder"):
                folder.read(key)
        with pytest.raises(StoreError, match="symbolic link"):
            folder.read("device")
        (tmp_path / "device").unlink()
        with pytest.raises(OSError, match="neither a file nor a folder"):
            folder.keys()


def test_where_a_folder_lies(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", "a/b")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    assert (folder / "a").lies_in(folder)
    assert folder.lies_in(open_folder(tmp_path / "link"))
    assert not folder.lies_in(folder / "a")


# Files whole or absent


class FullDisk(io.FileIO):
    """A file that takes ten bytes and then no more."""

    def write(self, data: Any) -> int:
        if self.tell():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(data)[:10])


class SlowDisk(io.FileIO):
    """A file that takes ten bytes at a time."""

    def write(self, data: Any) -> int:
        return super().write(bytes(data)[:10])


def open_as(kind: type[io.FileIO]) -> Callable[..., io.FileIO]:
    return lambda path, mode, buffering: kind(path, mode)


def test_a_file_is_written_whole_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "open", open_as(SlowDisk), raising=False)
    file = tmp_path / "new" / "folder" / "file"
    open_folder(tmp_path).write(str(file.relative_to(tmp_path)), bytes(range(256)))
    assert file.read_bytes() == bytes(range(256))
    open_folder(tmp_path).write(str(file.relative_to(tmp_path)), b"")
    assert file.read_bytes() == b""
    assert [p.name for p in file.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    file = tmp_path / "file"
    if before is not None:
        file.write_bytes(before)
    monkeypatch.setattr(local_module, "open", open_as(FullDisk), raising=False)
    with pytest.raises(OSError, match="No space left"):
        open_folder(tmp_path).write(str(file.relative_to(tmp_path)), bytes(100))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if before is None else {"file": before})


def test_a_full_disk_leaves_no_part_of_a_file_in_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "open", open_as(FullDisk), raising=False)
    with pytest.raises(OSError, match="No space left"):
        open_folder(tmp_path).write("new/file", bytes(100))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failed_renaming_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(source: str, target: str) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        open_folder(tmp_path).write("file", b"data")
    assert list(tmp_path.iterdir()) == []


def test_what_was_swept_away_before_it_was_whole_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, times = os.replace, [1]

    def swept(source: str, target: str) -> None:
        while times:
            times.pop()
            Path(source).unlink()
            break
        replace(source, target)

    monkeypatch.setattr(os, "replace", swept)
    folder = open_folder(tmp_path)
    folder.write("a", b"data")
    assert folder.read("a") == b"data"
    times.extend((1, 1))
    with pytest.raises(FileNotFoundError):
        folder.write("b", b"data")
    assert [place.name for place in tmp_path.iterdir()] == ["a"]


def test_what_was_removed_is_not_made_anew_for_what_lies_below_it(tmp_path: Path) -> None:
    folder = make(tmp_path / "case" / "probability", "zarr.json", "c/0/0")
    shutil.rmtree(tmp_path / "case")
    with pytest.raises(FileNotFoundError):
        folder.write("c/0/1", b"")
    assert not (tmp_path / "case").exists()
    folder.write("zarr.json", b"")
    folder.write("c/0/1", b"")
    assert sorted(folder.keys()) == ["c/0/1", "zarr.json"]


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        open_folder(tmp_path).write("file/chunk", b"data")


def test_a_limit_on_file_sizes_leaves_nothing(tmp_path: Path) -> None:
    script = f"""
import resource
from twintrack_core.storage import open_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = open_folder({str(tmp_path)!r})
folder.write("small", bytes(1000))
try:
    folder.write("large", bytes(1001))
except OSError as error:
    print(error.strerror)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "File too large\n"
    assert [p.name for p in tmp_path.iterdir()] == ["small"]
