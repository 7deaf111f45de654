"""A prepared store at a URL: what it holds is read at once, its shards are fetched whole when one is first needed.

    store.json, headers-DIGEST     read when the store is opened: all that is known of its examples
    shards/NUMBER-DIGEST           fetched into GENDIFF_CACHE/shards, ~/.cache/gendiff/shards by default

The name of a shard holds a digest of its content: whatever arrives otherwise is fetched once more, then refused, and
processes, runs and stores share one cache. A shard appears there whole or not at all; one process fetches it, others
that need it wait for that one. Beyond its room the cache lets go what was not used for longest. A file that is open
outlives that, so that a read needs no lock.

The order of batches is known beforehand: threads fetch the shards of the next ones (`look_ahead`).
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, TypeVar

from gendiff.config import check_type, parse_json
from gendiff.errors import DataError, GendiffError
from gendiff.files import cache_folder

from .folder import FULL, fcntl, written
from .shards import Shard

T = TypeVar("T")
CACHE_GB = 16.0
PAUSES = (0.5, 2.0, 8.0)  # seconds before another try
AHEAD, THREADS = 16, 4  # batches whose shards are asked for early, and by how many threads
STALE = 3600.0  # seconds after which a part is nobody's
NAME = re.compile("[0-9]{6,}-[0-9a-f]{16}")
COPY = "Copy the whole store there: store.json, its headers file, shards/"


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL: s3://bucket/store, https://..., of whatever fsspec knows."""
    return "://" in str(path)


def local_path(path: str | Path) -> Path | None:
    """The local folder that a path or a file:// URL names; None for another URL."""
    if not is_url(path):
        return Path(path).expanduser()
    return Path(str(path).removeprefix("file://")) if str(path).startswith("file://") else None


def refused(url: str, error: Exception) -> GendiffError:
    """What is said of a URL that cannot be read."""
    protocol, status = url.partition("://")[0], getattr(error, "status", None)
    if isinstance(error, ImportError):
        return DataError(f"{url} needs a package ({error})", "one that reads this kind of URL", "pip install it")
    if isinstance(error, FileNotFoundError):
        return DataError(f"{url} is not there", "a prepared store", COPY)
    if isinstance(error, PermissionError) or status in (401, 403):
        fix = f"Give credentials where the library for {protocol}:// looks for them: its environment variables or files"
        return DataError(f"{url} may not be read ({error or type(error).__name__})", "permission to read", fix)
    if isinstance(error, ValueError):
        return DataError(f"{url} cannot be read ({error})", "a URL that fsspec knows: s3://, gs://, https://, file://")
    return DataError(f"{url} cannot be read ({type(error).__name__}: {error})", "an answer", "Resume when it is there")


def reach(url: str, act: Callable[[Any, str], T]) -> T:
    """What an action gives for the file system and path of a URL, tried again where the connection may have failed.

    Raises:
        DataError: If it cannot be read, saying why.
    """
    from fsspec.core import url_to_fs

    for pause in (*PAUSES, None):
        try:
            return act(*url_to_fs(url))  # of this process and thread: fsspec keeps them apart
        except Exception as error:  # each storage raises its own kinds
            if getattr(error, "errno", None) in FULL:
                raise
            hopeless = isinstance(error, FileNotFoundError | PermissionError | ImportError | ValueError)
            if pause is None or hopeless or getattr(error, "status", None) in (401, 403):
                raise refused(url, error) from error
        time.sleep(pause)
    raise AssertionError


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One thread of one process at a time, where files can be locked."""
    with path.open("ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class Cache:
    """The shards of a store at a URL, kept in a folder of this machine while there is room.

    Attributes:
        url: The store's.
        folder: Where they are kept, by name; with those of other stores.
        room: Bytes that the folder may hold, beside what is just being fetched.
    """

    url: str
    folder: Path
    room: float

    def open(self, name: str) -> BinaryIO:
        """A shard, fetched if it is not there.

        Raises:
            DataError: If it cannot be fetched, or is another than it was.
            RunError: If there is no room for it on the disk.
        """
        path = self.folder / name
        try:
            file = path.open("rb", buffering=0)
        except OSError:
            with written(self.folder, "a folder with room", "GENDIFF_CACHE=FOLDER"):
                self.folder.mkdir(parents=True, exist_ok=True)
                with alone(self.folder / f".lock-{name[-2:]}"):
                    try:
                        return path.open("rb", buffering=0)  # another has fetched it meanwhile
                    except FileNotFoundError:
                        return self.fetch(path)
        with suppress(OSError):  # another process has let it go since
            os.utime(path)
        return file

    def fetch(self, path: Path) -> BinaryIO:
        """A shard from its URL, open; the file in the cache may go again at any time."""
        url = f"{self.url}/shards/{path.name}"
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            for _ in range(2):
                reach(url, lambda system, source: system.get_file(source, str(part)))
                with part.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                if content[:16] == path.name[-16:]:
                    file = part.open("rb", buffering=0)  # before others can let it go
                    part.replace(path)
                    self.make_room(path.name)
                    return file
        finally:
            part.unlink(missing_ok=True)
        raise DataError(f"{url} arrived twice with other content than its name says", "an undamaged shard", COPY)

    def forget(self, name: str) -> bool:
        """Lets a shard go; whether it was there."""
        try:
            (self.folder / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def make_room(self, keep: str) -> None:
        """Lets go what was not used for longest, until the rest fits, and parts of processes that died."""
        held = []
        for entry in os.scandir(self.folder):
            with suppress(OSError):  # another process was faster
                stat = entry.stat()
                if not entry.name.startswith("."):
                    held.append((stat.st_mtime_ns, entry.name, stat.st_size))
                elif entry.name.endswith(".part") and time.time() - stat.st_mtime > STALE:
                    Path(entry.path).unlink()
        excess = sum(size for *_, size in held) - self.room
        for _, name, size in sorted(held):
            if excess > 0 and name != keep:
                self.forget(name)
                excess -= size


class Fetched(Shard):
    """A shard of a store at a URL: its header, and its records from the cache."""

    fix = COPY

    def __init__(self, cache: Cache, name: str, header: bytes) -> None:
        self.path, self.cache, self.name = f"{cache.url}/shards/{name}", cache, name
        self.parse(header)

    def open(self) -> BinaryIO:
        return self.cache.open(self.name)

    def record(self, at: int, size: int, known: str) -> bytearray:
        try:
            return super().record(at, size, known)
        except DataError:
            if not self.cache.forget(self.name):
                raise
            return super().record(at, size, known)  # fetched again: the disk has lost it


def open_store(url: str, room: float) -> tuple[dict[str, Any], Callable[[], list[Shard]]]:
    """The index of a store at a URL, and what reads the headers of its shards.

    Raises:
        DataError: If it cannot be read, or is no store.
    """
    url = url.rstrip("/")
    text = reach(f"{url}/store.json", lambda system, path: system.cat_file(path))
    try:
        index = parse_json(text.decode("utf8"), f"{url}/store.json")
    except UnicodeDecodeError as error:
        raise DataError(f"{url}/store.json is not text", "a JSON file that gendiff wrote", COPY) from error
    check_type(index, Mapping, f"{url}/store.json")
    cache = Cache(url, cache_folder() / "shards", room)
    return index, lambda: shards_of(index, cache)


def shards_of(index: Mapping[str, Any], cache: Cache) -> list[Shard]:
    """The shards that an index lists, from the file of their headers."""
    name, url = str(index.get("headers", "")), cache.url
    if not re.fullmatch("headers-[0-9a-f]{16}", name) or not all(map(NAME.fullmatch, index["shards"])):
        fix = "Prepare it again with the same line, which takes over what is there, and copy it"
        raise DataError(f"The store {url} has no file of headers", "one, to be read from afar", fix)
    text = reach(f"{url}/{name}", lambda system, path: system.cat_file(path))
    if hashlib.sha256(text).hexdigest()[:16] != name[-16:]:
        raise DataError(f"{url}/{name} is damaged", "an undamaged file", COPY)
    shards, at = [], 0
    for one in index["shards"]:
        end = at + 8 + int.from_bytes(text[at : at + 8], "little")
        shards.append(Fetched(cache, one, text[at + 8 : end]))
        at = end
    return shards


def look_ahead(stream: Iterable[T], cache: Cache, needs: Callable[[T], Mapping[str, int]], whole: int) -> Iterator[T]:
    """The batches of a stream, whose shards are fetched by threads some batches earlier.

    Args:
        stream: Batches.
        cache: Of their shards.
        needs: The shards of a batch, with their bytes.
        whole: Bytes of all shards; where there is no room for them, as many are asked for early as fill half the cache.
    """
    jobs: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
    held: deque[tuple[T, int]] = deque()
    given = 0  # batches that were handed out: what those before the last needed is not fetched early any more

    def serve() -> None:
        while (job := jobs.get()) is not None:
            if job[0] >= given - 1:
                with suppress(GendiffError, OSError):  # whoever needs it says so
                    cache.open(job[1]).close()

    for _ in range(THREADS):
        threading.Thread(target=serve, daemon=True).start()
    try:
        for number, batch in enumerate(stream):
            wanted = needs(batch)
            size = sum(wanted.values())
            if whole > cache.room and size + sum(asked for _, asked in held) > cache.room / 2:
                wanted, size = {}, 0
            for name in wanted:
                jobs.put((number, name))
            held.append((batch, size))
            if len(held) > AHEAD:
                given += 1
                yield held.popleft()[0]
        while held:
            given += 1
            yield held.popleft()[0]
    finally:
        given = 1 << 62
        for _ in range(THREADS):
            jobs.put(None)
