"""Folders behind URLs, by obstore: s3://, gs://, az:// and, only to be read, https://.

Credentials, endpoint and region come from the environment as obstore reads it: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, AWS_SKIP_SIGNATURE (no
credentials: a public bucket), and their counterparts GOOGLE_* and AZURE_*.

A request ends after `TIMEOUT` seconds, `CONNECT` of them to connect, and is tried `TRIES` times: after about a minute
and a half without an answer, reading or writing fails. What else fails on the way is asked for again by `retry.again`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from twintrack_core.errors import RequestError, WorkError
from twintrack_core.storage.folder import Entry, Folder, by_parts, check_key, check_name

TIMEOUT = 30.0
CONNECT = 5.0
TRIES = 3

_PIECE = 16 << 20  # larger files come in pieces, since each has the whole of the time
_PAGE = 1000
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_VARIABLES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
_ALLOWED = "Allowed: a folder on this machine, s3://BUCKET/..., gs://BUCKET/..., az://CONTAINER/... or https://HOST/..."
# What the environment may say of the client, which options given here would take the place of.
_CLIENT = ("allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate", "proxy_excludes")


class RemoteError(OSError):
    """What a server or the network refused; the arguments are those of `OSError`."""

    @property
    def transient(self) -> bool:
        """Whether reading again may help: what timed out has been tried often enough."""
        return self.errno == errno.EIO


def open_remote(url: str) -> RemoteFolder:
    """Return the folder at a URL; see `open_folder`."""
    parts = urllib.parse.urlsplit(url)
    scheme, host = parts.scheme.lower(), parts.netloc
    if scheme not in {*_VARIABLES, "http", "https"} or not host or (scheme == "http" and not _is_local(parts)):
        raise RequestError(f"{url} cannot be opened.", _ALLOWED)
    if parts.query or parts.fragment or "@" in host:
        raise RequestError(
            f"{scheme}://{host.rpartition('@')[2]}{parts.path} has a query, a fragment or a password in its URL.",
            "Allowed: URLs without; credentials come from the environment.",
        )
    inside = urllib.parse.unquote(parts.path) if scheme.startswith("http") else parts.path
    inside = inside.strip("/")
    if inside:
        check_key(inside, url)
    folder = RemoteFolder(url.rstrip("/"), f"{scheme}://{host}", inside)
    _obstore()
    return folder


def _is_local(parts: urllib.parse.SplitResult) -> bool:
    return parts.hostname in _LOOPBACK


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise WorkError("Reading s3:// needs obstore: pip install 'twintrack-core[remote]'") from error
    return obstore


def _environment(prefix: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((key, value) for key, value in os.environ.items() if key.upper().startswith(prefix)))


@functools.lru_cache(maxsize=16)
def _connect(root: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """Make obstore's store of a bucket or host, once for each environment."""
    _obstore()
    from obstore.store import from_url

    scheme = root.partition(":")[0]
    options: dict[str, Any] = {"timeout": timedelta(seconds=TIMEOUT), "connect_timeout": timedelta(seconds=CONNECT)}
    prefix = _VARIABLES.get(scheme, "")
    named = {key.upper(): value for key, value in environment}
    for name in _CLIENT:
        if value := named.get(prefix + name.upper()) if prefix else None:
            options[name] = value.lower() in ("1", "true", "yes") if name.startswith("allow") else value
    if scheme == "http":
        options["allow_http"] = True
    retry: Any = {
        "max_retries": TRIES - 1,
        "retry_timeout": timedelta(seconds=TIMEOUT * TRIES),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
    }
    made: Any = from_url  # any of its overloads
    return made(root, client_options=options, retry_config=retry)


class RemoteFile:
    """A file behind a URL; each reading is a request, of the same version or none."""

    def __init__(self, folder: RemoteFolder, key: str, meta: Any, start: int, known: bytes) -> None:
        self._folder, self._key, self._start, self._known = folder, key, start, known
        self.size: int = meta["size"]
        self.version: tuple[object, ...] = (meta.get("e_tag"), self.size, str(meta.get("last_modified")))

    def read(self, length: int, offset: int) -> bytes:
        """Read ``length`` bytes from ``offset`` on; fewer if the file ends before."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self._start <= offset and offset + length <= self._start + len(self._known):
            return self._known[offset - self._start :][:length]
        return self._folder.read_range(self._key, offset, length) or b""

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class RemoteFolder:
    """A folder behind a URL; see `Folder`.

    Attributes
    ----------
    url
        As the user named it, and what was joined since.
    root
        Scheme, and bucket or host.
    inside
        Key of the folder in the bucket.
    """

    url: str
    root: str
    inside: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.url.rpartition("/")[2]

    @property
    def local(self) -> Path | None:
        """None: it is nowhere on this machine."""
        return None

    @property
    def _listed(self) -> bool:
        """Whether the server can list files, and takes any."""
        return not self.root.startswith("http")

    @property
    def _store(self) -> Any:
        return _connect(self.root, _environment(_VARIABLES.get(self.root.partition(":")[0], "-")))

    def __truediv__(self, name: str) -> RemoteFolder:
        check_name(name, self)
        return RemoteFolder(f"{self.url}/{name}", self.root, self._place(name))

    def _place(self, key: str) -> str:
        return f"{self.inside}/{key}" if self.inside and key else self.inside or key

    def exists(self) -> bool:
        """Whether anything is there: a file below it. True over https, where that cannot be told."""
        if not self._listed:
            return True
        try:
            with self._failing(""):
                return any(_obstore().list(self._store, prefix=self.inside or None, chunk_size=1))
        except RemoteError as error:
            if error.errno in (errno.ENOENT, errno.EACCES):
                allowed = "Allowed: a bucket that there is, and that the environment's credentials are for."
                raise RequestError(f"{self} cannot be looked into: {error.strerror}.", allowed) from error
            raise WorkError(f"{self} cannot be looked into: {error.strerror}.", None, "Try again later.") from error

    def has(self, key: str) -> bool:
        """Whether there is such a file."""
        with self._failing(key):
            try:
                _obstore().head(self._store, self._place(key))
            except FileNotFoundError as error:
                _require_bucket(error)
                return False
            return True

    def read(self, key: str, *, limit: int | None = None) -> bytes | None:
        """Read a file; see `Folder.read`."""
        with self._failing(key):
            try:
                found = _obstore().get(self._store, self._place(key))
            except FileNotFoundError as error:
                _require_bucket(error)
                return None
            size = found.meta["size"]
            if limit is not None and size > limit:
                raise OSError(errno.EFBIG, f"it has more than {limit} bytes", f"{self}/{key}")
            if size <= _PIECE or not self._listed:
                return bytes(found.bytes())
        pieces = [self.read_range(key, start, min(_PIECE, size - start)) or b"" for start in range(0, size, _PIECE)]
        return b"".join(pieces)

    def read_range(self, key: str, offset: int, length: int) -> bytes | None:
        """Read some bytes of a file, which has them; None where there is no file."""
        with self._failing(key):
            try:
                return bytes(_obstore().get_range(self._store, self._place(key), start=offset, length=length))
            except FileNotFoundError as error:
                _require_bucket(error)
                return None

    def open(self, key: str, *, head: int = 0, tail: int = 0) -> RemoteFile | None:
        """Open a file; see `Folder.open`."""
        with self._failing(key):
            try:
                if not (head or tail):
                    return RemoteFile(self, key, _obstore().head(self._store, self._place(key)), 0, b"")
                options: Any = {"range": (0, head) if head else {"suffix": tail}}
                found = _obstore().get(self._store, self._place(key), options=options)
                return RemoteFile(self, key, found.meta, found.range[0], bytes(found.bytes()))
            except FileNotFoundError as error:
                _require_bucket(error)
                return None

    def names(self) -> frozenset[str] | None:
        """Names of what is directly in it; None over https."""
        if not self._listed:
            return None
        with self._failing(""):
            found = _obstore().list_with_delimiter(self._store, self.inside or None)
            paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
            return frozenset(path.rpartition("/")[2] for path in paths)

    def keys(self, below: str = "") -> list[str] | None:
        """Keys of all files below a folder in it; None over https."""
        return [key for key, _ in self._entries(below)] if self._listed else None

    def files(self, below: str = "") -> list[Entry]:
        """All files below a folder in it, sorted by the parts of their keys."""
        if not self._listed:
            raise OSError(errno.ENOTSUP, "files cannot be listed over https; copy the store first", str(self))
        return by_parts(self._entries(below))

    def _entries(self, below: str) -> Iterator[Entry]:
        skip = len(self.inside) + 1 if self.inside else 0
        with self._failing(below):
            for page in _obstore().list(self._store, prefix=self._place(below) or None, chunk_size=_PAGE):
                for item in page:
                    yield Entry(item["path"][skip:], item["size"])

    def write(self, key: str, data: bytes) -> None:
        """Write a file, whole or not at all: a server keeps nothing of one that did not come whole."""
        self._put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write a file unless there is one; say whether it was written."""
        return self._put(key, data, mode="create") is not None

    def _put(self, key: str, data: bytes, **options: Any) -> dict[str, Any] | None:
        """Write a file; None if a condition for it is not met."""
        if not self._listed:
            raise OSError(errno.EROFS, "https is only read", f"{self}/{key}")
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self._require_lease()
        with self._failing(key):
            try:
                found: dict[str, Any] = _obstore().put(
                    self._store, self._place(key), data, use_multipart=len(data) > _PIECE and not options, **options
                )
            except (AlreadyExistsError, PreconditionError):
                return None
            return found

    def remove(self, key: str = "") -> None:
        """Remove a file, or a folder and everything below it."""
        self._require_lease()
        with self._failing(key):
            paths = [self._place(found) for found, _ in self._entries(key)]
            if key:
                paths.append(self._place(key))
            if paths:
                _obstore().delete(self._store, paths)

    def sweep(self, *, deep: bool = True) -> None:
        """Nothing is left of a file that was not written whole."""

    def lock(self) -> AbstractContextManager[Callable[[], None]]:
        """Keep other runs from writing here; see `Folder.lock`."""
        from twintrack_core.storage.lease import leased

        return leased(self)

    def _require_lease(self) -> None:
        from twintrack_core.storage.lease import require_lease

        require_lease(self)

    def lies_in(self, other: Folder) -> bool:
        """Whether it is the other one, or somewhere below it."""
        return (
            isinstance(other, RemoteFolder)
            and self.root == other.root
            and f"{self.inside}/".startswith(f"{other.inside}/" if other.inside else "")
        )

    def copy_from(self, source: RemoteFolder, key: str) -> None:
        """Copy a file within a bucket, of which nothing comes by here."""
        self._require_lease()
        with self._failing(key):
            _obstore().copy(self._store, source._place(key), self._place(key))

    @contextlib.contextmanager
    def _failing(self, key: str) -> Iterator[None]:
        """Turn what obstore raises into a `RemoteError`."""
        from obstore.exceptions import BaseError

        try:
            yield
        except RemoteError:
            raise
        except (BaseError, FileNotFoundError, PermissionError, TimeoutError, ConnectionError) as error:
            raise _converted(error, f"{self}/{key}" if key else str(self)) from error


def _require_bucket(error: FileNotFoundError) -> None:
    """Raise what says that there is no bucket, not only no file."""
    if "NoSuchBucket" in str(error):
        raise error


def _converted(error: Exception, place: str) -> RemoteError:
    text = str(error)
    said, _, details = text.partition("\n\nDebug source")
    if "NoSuchBucket" in text:
        return RemoteError(errno.ENOENT, "there is no such bucket", place)
    if isinstance(error, FileNotFoundError):
        return RemoteError(errno.ENOENT, "it does not exist", place)
    status = re.search(r"non-2xx status code: (\d+[A-Za-z ]*)", text)
    if isinstance(error, PermissionError) or type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError"):
        return RemoteError(errno.EACCES, "access is denied; the credentials come from the environment", place)
    if status and status[1].startswith(("401", "403")):
        return RemoteError(errno.EACCES, "access is denied; the credentials come from the environment", place)
    if "kind: Timeout" in details or "timed out" in text:
        return RemoteError(errno.ETIMEDOUT, f"timed out, {TRIES} tries of {TIMEOUT:g} s", place)
    if "kind: Connect" in details:
        return RemoteError(errno.ECONNREFUSED, f"the server cannot be reached, {TRIES} tries", place)
    if status:
        return RemoteError(errno.EIO, f"the server answered {status[1].strip()}", place)
    first = said.splitlines()[0] if said else type(error).__name__
    return RemoteError(errno.EIO, f"{first:.200}", place)
