"""Files of strangers, opened within bounds: arrays, tables and archives.

A file announces sizes before it delivers anything: the shape of an array, the length of a member, the bytes that a
stream unpacks to. Every size is checked before memory is asked for, against

    allowance(bytes on disk) = max(256 MiB, 200 x bytes on disk),

which real data stay below (text and masks pack to a hundredth at most) and a bomb does not. Whatever is wrong with a
file is a DataError: no parser's own exception leaves this module. Nothing is unpickled.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import hashlib
import io
import json
import lzma
import math
import os
import re
import struct
import tarfile
import tokenize
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from gendiff.errors import DataError, GendiffError, nearest

LEAST, RATIO = 2**28, 200  # bytes a small file may unpack to; bytes per byte on disk for a large one
BROKEN = (
    OSError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, SyntaxError, RuntimeError,
    MemoryError, AttributeError, zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile, tarfile.TarError,
    tokenize.TokenError, csv.Error,
)  # fmt: skip
ROWS, MEMBERS = 5_000_000, 2_000_000  # of a table, of an archive


SEALED: ContextVar[bool] = ContextVar("sealed", default=False)


@contextlib.contextmanager
def sealed() -> Iterator[None]:
    """While a model file is loaded: `unsealed` refuses to look at data, whose place a stranger may have written."""
    token = SEALED.set(True)
    try:
        yield
    finally:
        SEALED.reset(token)


def unsealed(path: str | Path) -> Path:
    """The path, which a source is about to open.

    Raises:
        DataError: While a model file is being loaded.
    """
    if SEALED.get():
        raise DataError(
            f"A model file that is being loaded asks for the data in {str(path)!r}",
            "a file that knows all that its model needs: a fitted domain, with the classes of its source",
        )
    return Path(path)


def content(path: Path, limit: int, what: str, refuse: Callable[..., GendiffError]) -> bytes:
    """What a file of text holds, unpacked if it is gzipped whatever its name; at most `limit` bytes are taken from it.

    Args:
        path: The file.
        limit: Of bytes, unpacked.
        what: What is expected, "a PDB or mmCIF file".
        refuse: Makes the error, of the path, the reason, what is expected, and perhaps a fix.

    Raises:
        GendiffError: That of `refuse`: no such file, one that cannot be read or unpacked, too long, empty.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            raw = (gzip.GzipFile(fileobj=file) if packed else file).read(limit + 1)
    except FileNotFoundError:
        raise refuse(path, "there is no such file", what) from None
    except (OSError, EOFError, zlib.error) as error:
        raise refuse(path, f"it cannot be read ({error})", "a plain or gzipped file") from error
    if len(raw) > limit:
        size = f"more than {limit / 2**20:.0f} MiB" + (" after unpacking" if packed else "")
        raise refuse(path, size, f"{what}, not an archive", f"load(path, limit={4 * limit})")
    if not raw or raw.isspace():
        raise refuse(path, "the file is empty", what)
    return raw


def data_root(root: str | Path | None = None) -> Path:
    """The folder of data sets: the argument, else the variable GENDIFF_DATA, else ./data."""
    return Path(root or os.environ.get("GENDIFF_DATA") or "data")


def pinned_folder(path: str | Path, holds: str = "config.json") -> Path | None:
    """A folder that a model names: from here, below the data folder, or there by its own name; None if nowhere.

    Raises:
        DataError: While a model file is being loaded.
    """
    here = unsealed(path).expanduser()
    places = [here, data_root() / here, data_root() / here.name]
    return next((place for place in places if (place / holds).is_file()), None)


FOLDERS: dict[tuple[Any, ...], str] = {}


def folder_digest(home: Path, patterns: Collection[str]) -> str:
    """SHA-256 of a folder's files of these patterns, by name, size and bytes: hex.

    They are read again only when one of them was written.
    """
    files = sorted({path for pattern in patterns for path in home.glob(pattern) if path.is_file()})
    facts = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = (home, *facts)
    if key not in FOLDERS:
        out = hashlib.sha256()
        for path, size, _ in facts:
            out.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                while part := file.read(2**22):
                    out.update(part)
        FOLDERS[key] = out.hexdigest()
    return FOLDERS[key]


def cache_folder() -> Path:
    """Where what can be made or fetched again is kept: GENDIFF_CACHE, else ~/.cache/gendiff."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gendiff")
    return Path(os.environ.get("GENDIFF_CACHE") or own).expanduser()


def allowance(size: int) -> int:
    """Bytes that a file of `size` bytes may unpack to."""
    return max(LEAST, RATIO * size)


@contextlib.contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turns whatever a parser raises into a DataError that names the file and `what` was expected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers written by old programs: the array is checked all the same
            yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}", what) from error
    except BROKEN as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path}: not readable ({text[0][:200]})", what) from error


def header_of(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array whose .npy header lies at the file's place."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise DataError(f"{name}: the array format {version}", "version 1.0 or 2.0 of NumPy's format")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{name}: an array of Python objects", "numbers or text", "They would have to be unpickled")
    if any(not isinstance(n, int) or n < 0 for n in shape):
        raise DataError(f"{name}: an array of shape {shape}", "lengths of zero or more")
    return shape, dtype


def read_array(file: IO[bytes], size: int, limit: int, name: str) -> np.ndarray:
    """The array in an .npy file of `size` bytes, of at most `limit`; its header must announce just what follows."""
    start = file.tell()
    shape, dtype = header_of(file, name)
    announced, held = math.prod(shape) * dtype.itemsize, size - (file.tell() - start)
    if announced > limit:
        raise DataError(f"{name} announces {announced:,} bytes", f"at most {limit:,} for a file of its size")
    if announced != held:
        raise DataError(f"{name} announces {announced:,} bytes, and {held:,} follow", "as many as its shape holds")
    file.seek(start)
    return np.lib.format.read_array(file, allow_pickle=False)


class Arrays:
    """The arrays of an .npz file, each read when asked for: `with open_arrays(path) as z: x = z["x"]`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        infos = [i for i in archive.infolist() if i.filename.endswith(".npy")]
        self.infos = {i.filename.removesuffix(".npy"): i for i in infos}
        if len(infos) > 10_000 or len(self.infos) < len(infos):
            raise DataError(f"{path}: {len(infos)} arrays with {len(self.infos)} names", "arrays of different names")
        self.limit = allowance(path.stat().st_size)
        total = sum(i.file_size for i in infos)
        if total > self.limit:
            raise DataError(f"{path} unpacks to {total:,} bytes", f"at most {self.limit:,} for a file of its size")

    def __enter__(self) -> Arrays:
        return self

    def __exit__(self, *error: object) -> None:
        self.archive.close()

    def __contains__(self, key: object) -> bool:
        return key in self.infos

    def get(self, key: str) -> np.ndarray | None:
        """An array, or None where there is none of this name."""
        return None if key not in self.infos else self[key]

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.infos:
            raise DataError(
                f"{self.path}: no array {key!r}", f"it has {', '.join(self.infos) or 'none'}.{nearest(key, self.infos)}"
            )
        with reading(self.path, "an undamaged .npz file"), self.archive.open(self.infos[key]) as file:
            return read_array(file, self.infos[key].file_size, self.limit, f"{self.path}: {key}")

    def mapped(self, key: str) -> np.ndarray:
        """An array that stays on the disk, if it lies there unpacked, as `numpy.savez` writes it; else the array.

        Raises:
            DataError: As for the array; its bytes are read once, to be checked.
        """
        info = self.infos.get(key)
        if info is None or info.compress_type != zipfile.ZIP_STORED or not info.file_size:
            return self[key]
        with reading(self.path, "an undamaged .npz file"):
            with self.archive.open(info) as file:
                shape, dtype = header_of(file, f"{self.path}: {key}")
                first = file.tell()
                if math.prod(shape) * dtype.itemsize != info.file_size - first or not math.prod(shape):
                    return self[key]
                file.seek(0)
                fortran = b"'fortran_order': True" in file.read(first)
                while file.read(2**20):  # to its end, where it is checked
                    pass
            with self.path.open("rb") as raw:
                raw.seek(info.header_offset + 26)
                names = sum(struct.unpack("<HH", raw.read(4)))
            at = info.header_offset + 30 + names + first
            return np.memmap(self.path, dtype, "r", at, shape, "F" if fortran else "C")

    def shape(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape and type of an array, from its header alone."""
        if key not in self.infos:
            self[key]
        with reading(self.path, "an undamaged .npz file"), self.archive.open(self.infos[key]) as file:
            return header_of(file, f"{self.path}: {key}")


def open_arrays(path: str | Path) -> Arrays:
    """An .npz file.

    Raises:
        DataError: not a .npz file, damaged, or one that unpacks to more than its `allowance`.
    """
    path = Path(path)
    with reading(path, "a NumPy .npz file without pickles"):
        return Arrays(path, zipfile.ZipFile(path))


Stamp = tuple[int, int]


def stamp(path: str | Path) -> Stamp:
    """A file's size in bytes and its time of change in nanoseconds."""
    facts = Path(path).stat()
    return facts.st_size, facts.st_mtime_ns


def check_stamp(path: str | Path, known: Stamp) -> None:
    """Refuses a file that has changed since it was looked at."""
    with reading(path, "the file that was there before"):
        now = stamp(path)
    if now != known:
        raise DataError(f"{path} has changed since it was looked at", "the same file", "Begin again")


def load_array(path: str | Path) -> np.ndarray:
    """The array of an .npy file.

    Raises:
        DataError: not an .npy file, damaged, cut, with Python objects in it, or larger than it says.
    """
    with reading(path, "a NumPy .npy file without pickles"), Path(path).open("rb") as file:
        size = Path(path).stat().st_size
        return read_array(file, size, size, str(path))


def composed(text: str) -> str:
    """A text with every letter and its accents as one sign (NFC), as most systems write it; others write them apart."""
    return unicodedata.normalize("NFC", text)


def spellings(path: str) -> list[str]:
    """A path as it is written, and with its accents composed and apart: files have names in either form."""
    return list(dict.fromkeys((path, composed(path), unicodedata.normalize("NFD", path))))


def listed_name(path: str, folder: Path, table: Path) -> str:
    """A path in a table as a name below `folder`: from there, from the table's own place, or absolute; with either
    slash, and in any form of Unicode. One that leads to no file in the folder stays as it is.
    """
    own = path.strip()
    for text in dict.fromkeys((*spellings(own), *spellings(own.replace("\\", "/")))):
        for place in (folder, table.parent):
            file = Path(os.path.normpath(place.absolute() / text))
            if file.is_file() and file.is_relative_to(folder.absolute()):
                return file.relative_to(folder.absolute()).as_posix()
    return PurePosixPath(path.strip()).as_posix()


def read_text(path: str | Path, limit: int = 2**16) -> tuple[str, str]:
    """A short text, and what is odd about how it is written: UTF-8, with or without its mark, else Windows' cp1252.

    Raises:
        DataError: For a file that cannot be read, of more than `limit` bytes, or in neither.
    """
    path = Path(path)
    with reading(path, "a text in UTF-8"):
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DataError(f"{path} has more than {limit:,} bytes", "a short text")
        text, odd = decoded(data, path)
        return text.strip(), odd


def decoded(data: bytes, path: Path) -> tuple[str, str]:
    """A text, and what is odd about how it is written: UTF-8, with or without its mark, else Windows' cp1252."""
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return data.decode("cp1252"), f"{path.name} is not UTF-8, and was read as cp1252"


def read_lines(path: str | Path, notes: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSON file of lines (JSONL); empty lines are none. What is odd joins the notes.

    Raises:
        DataError: no such file, no lines, or one (which is named) that is no JSON object.
    """
    path = Path(path)
    with reading(path, "a JSON object on every line"):
        text, odd = decoded(path.read_bytes(), path)
        notes += [odd] if odd else []
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is no JSON ({error})", "a JSON object on every line") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number} is {line[:60]!r}", "a JSON object on every line")
            rows.append(row)
            if len(rows) > ROWS:
                raise DataError(f"{path} has more than {ROWS:,} rows", "a smaller table")
        if not rows:
            raise DataError(f"{path} has no rows", "a JSON object on every line")
        return rows


def read_rows(path: str | Path, notes: list[str] | None = None) -> list[dict[str, str]]:
    """The rows of a CSV table in UTF-8, each by the names of the first line, which may also be separated by semicolons
    or tabs, as spreadsheets of many countries write them. Rows of empty fields are none. Where there are notes to join,
    cp1252 is read as well, and noted.

    Raises:
        DataError: no such file, no rows, not UTF-8 text, columns that share a name or have none, or a row (which is
            named) with more or fewer fields than there are columns.
    """
    path = Path(path)
    with reading(path, "a table (CSV, UTF-8) with a line of names and a line for each item"):
        data = path.read_bytes()
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path} is UTF-16", "text in UTF-8", 'Save it as "CSV UTF-8"')
        text, odd = decoded(data, path)
        if odd and notes is None:
            raise DataError(f"{path} is not UTF-8", "text in UTF-8")
        if odd and notes is not None:
            notes.append(odd)
        if "\0" in text:
            raise DataError(f"{path} holds zero bytes", "text in UTF-8")
        told = re.match(r"sep=(.)\r?\n", text)  # by which Excel is told
        text = text[told.end() :] if told else text
        first = re.split(r"[\r\n]", text, maxsplit=1)[0]
        between = told[1] if told else "," if "," in first else max(";\t", key=first.count)
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True)
        names = [composed(name.strip()) for name in next(lines, [])]
        if not any(names) or len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise DataError(f"{path} has the columns {names!r}", "different names of columns in the first line")
        rows = []
        for row in lines:
            if not any(row):
                continue
            if len(row) != len(names):
                got = f"{path}, line {lines.line_num}: {len(row)} fields"
                raise DataError(got, f"{len(names)}: {', '.join(names)}")
            rows.append(dict(zip(names, row, strict=True)))
            if len(rows) > ROWS:
                raise DataError(f"{path} has more than {ROWS:,} rows", "a smaller table")
        if not rows:
            raise DataError(f"{path} has no rows", "a line of names and a line for each item")
        return rows


class Bounded:
    """A file that is being unpacked, of which no more than `limit` bytes are given."""

    def __init__(self, file: IO[bytes], limit: int, name: str) -> None:
        self.file, self.limit, self.name = file, limit, name
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        left = self.limit - self.file.tell()
        data = self.file.read(left + 1 if count < 0 else min(count, max(left, 0) + 1))
        if len(data) > left:
            raise DataError(f"{self.name} unpacks to more than {self.limit:,} bytes", "less, for a file of its size")
        return data


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive, plain or packed by gzip, bzip2 or xz."""
    limit = allowance(path.stat().st_size)
    with path.open("rb") as file:
        magic = file.read(6)
    packed = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}.get(magic[:2], open)
    with packed(path, "rb") as raw:
        bounded: Any = Bounded(raw, limit, str(path))
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            yield archive


def folder_files(home: Path, suffixes: Collection[str], left: list[tuple[str, str]], others: list[str]) -> list[str]:
    """The names of all files below a folder with one of these suffixes, sorted.

    What is neither a file nor a folder of its own goes into `left` with the reason: links that lead nowhere or to a
    folder (which could lead in circles), pipes and devices. Files of other kinds go into `others`.
    """
    found = []
    for file in sorted(home.rglob("*")):
        name = file.relative_to(home).as_posix()
        if file.is_file():
            (found if file.suffix.lower() in suffixes else others).append(name)
        elif file.is_symlink():
            left.append((name, "a link to a folder, not followed" if file.is_dir() else "a link that leads nowhere"))
        elif not file.is_dir():
            left.append((name, "a device or pipe, not a file"))
    return sorted(found)


def archive_members(
    path: str | Path, suffixes: Collection[str], left: list[tuple[str, str]], others: list[str]
) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file with one of these suffixes in a tar archive (compressed or not), in its order.

    What cannot be used goes into `left` with the reason: links, devices, a name that came before or that points
    outside of the archive, a member of more bytes than are there. Files of other kinds go into `others`.

    Raises:
        DataError: not a tar archive, damaged, or one that unpacks to more than its `allowance`.
    """
    path = Path(path)
    with reading(path, "a tar archive, compressed or not"):
        limit, used, seen = allowance(path.stat().st_size), 0, set()
        with open_archive(path) as archive:
            for number, member in enumerate(archive):
                if number > MEMBERS:
                    raise DataError(f"{path} has more than {MEMBERS:,} members", "a smaller archive")
                used += 512 + max(member.size, 0)
                if member.size < 0 or used > limit or member.issparse():
                    what = "a sparse file" if member.issparse() else f"{used:,} bytes and more"
                    raise DataError(f"{path} unpacks to {what}", f"files of at most {limit:,} bytes in all")
                if member.isdir():
                    continue
                name = PurePosixPath(member.name).as_posix()
                if not member.isfile():
                    kind = "a link" if member.issym() or member.islnk() else "a device or pipe"
                    left.append((name, f"{kind}, not a file"))
                elif PurePosixPath(name).suffix.lower() not in suffixes:
                    others.append(name)
                elif name.startswith("/") or ".." in PurePosixPath(name).parts:
                    left.append((name, "a name that leads out of the archive"))
                elif name in seen:
                    left.append((name, "a second file of this name"))
                else:
                    seen.add(name)
                    file = archive.extractfile(member)
                    data = b"" if file is None else file.read()
                    if len(data) < member.size:
                        raise DataError(f"{path} ends inside of {name}", "a complete archive", "Copy it again")
                    yield name, data
            archive.fileobj.seek(archive.offset)  # type: ignore[union-attr]
            end = archive.fileobj.read(512)  # type: ignore[union-attr]
            if any(end) or 0 < len(end) < 512:  # what Python's reader takes for the end of the archive, silently
                raise DataError(
                    f"{path} is damaged or cut at byte {archive.offset:,}", "a complete archive", "Copy it again"
                )
            if not end:
                left.append((path.name, "the archive lacks the mark of its end: it may be cut"))
