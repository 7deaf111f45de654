"""Shards of a prepared store (see `prepared`): what a record is, how a shard is made, in whichever process.

8 bytes     the length of the header, little-endian
header      JSON: of each example its key, its record's size and digest and what is known of it (`Fact`); the
            layouts of records; what was rejected
records     one after the other: the arrays of a state and of what is asked of it

A shard's name is its number and the first 16 digits of the SHA-256 of its bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gendiff.config import parse_json
from gendiff.domain import Domain, Examples
from gendiff.errors import DataError, GendiffError
from gendiff.lazy import digest
from gendiff.modelfile import write_whole

from .data import encoded, one_thread
from .folder import written

ROOM = "a folder with room; what is done is kept, and preparing goes on from there"
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
Layout = list[list[Any]]  # of each array of a record: its names from outside in, type, shape


def pack(value: Any, path: list[str], layout: Layout, out: bytearray) -> None:
    """Appends the arrays of a nested dict to a record, each from a multiple of 16 bytes on."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            pack(part, [*path, name], layout, out)
        return
    layout.append([path, str(value.dtype).removeprefix("torch."), list(value.shape)])
    out += value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    out += bytes(-len(out) % 16)


def unpack(layout: Layout, record: bytearray) -> dict[str, Any]:
    """The nested dict that `pack` was given."""
    whole, at, found = torch.frombuffer(record, dtype=torch.uint8), 0, {}
    for path, dtype, shape in layout:
        size = prod(shape) * DTYPES[dtype].itemsize
        place = found
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = whole[at : at + size].view(DTYPES[dtype]).view(shape)
        at += size + -size % 16
    return found


class Shard:
    """A shard's header, and its records when they are asked for.

    Raises:
        DataError: For a file that is not whole, which it names.
    """

    fix = "Prepare again, with the same line: it alone is made again"

    def __init__(self, path: Path) -> None:
        self.path: Path | str = path
        try:
            size = path.stat().st_size
            with self.open() as file:
                length = int.from_bytes(file.read(8), "little")
                text = file.read(length if 8 + length <= size else 0)
        except OSError as error:
            raise self.broken(f"cannot be read ({error.strerror})") from error
        self.parse(text)
        if self.size != size:
            raise self.broken(f"has {size:,} bytes of {self.size:,}")

    def parse(self, text: bytes) -> None:
        """Takes what the header says."""
        try:
            header = parse_json(text.decode("utf8"), str(self.path), longest=len(text))
            self.items: list[dict[str, Any]] = header["items"]
            self.layouts: list[Layout] = header["layouts"]
            self.rejected: list[tuple[int, str, str]] = header["rejected"]
            self.first = 8 + len(text)
            self.size = self.first + sum(item["size"] for item in self.items)
        except (ValueError, KeyError, TypeError, GendiffError) as error:
            raise self.broken("cannot be read (no header)") from error

    def open(self) -> BinaryIO:
        """Its file."""
        assert isinstance(self.path, Path)
        return self.path.open("rb", buffering=0)

    def broken(self, why: str) -> DataError:
        return DataError(f"The shard {self.path} {why}", "a whole file", self.fix)

    def record(self, at: int, size: int, known: str) -> bytearray:
        """The record of `size` bytes at a place.

        Raises:
            DataError: If it has changed since it was written.
        """
        record = bytearray(size)
        try:
            with self.open() as file:
                file.seek(self.first + at)
                got = file.readinto(record)  # type: ignore[attr-defined]
        except OSError as error:
            raise self.broken(f"cannot be read ({error.strerror})") from error
        if got != size or hashlib.sha256(record).hexdigest() != known:
            raise self.broken(f"is damaged at byte {self.first + at:,}")
        return record


def header_of(path: Path) -> bytes:
    """The header of a shard, with its length before it."""
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(int.from_bytes(length, "little"))


@dataclass(frozen=True)
class Job:
    """A shard to make, by whichever process.

    Attributes:
        store: Where.
        number: Of the shard.
        first: The number of its first example.
        domain: Encodes.
        examples: Of this shard.
        encoding: A digest of how they are encoded.
        before: The shards that were there at the beginning, with their times of change.
    """

    store: Path
    number: int
    first: int
    domain: Domain
    examples: Examples
    encoding: str
    before: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Done:
    """What became of a job: the shard's name, its examples, those that were there, the shards found damaged."""

    name: str
    count: int
    kept: int
    damaged: tuple[str, ...]


@lru_cache(maxsize=2)
def records(
    store: Path, before: tuple[tuple[str, int], ...]
) -> tuple[dict[str, tuple[Shard, dict[str, Any], int]], list[str]]:
    """The records of some shards by their keys with their places, and what is wrong with shards that cannot be read."""
    found, damaged = {}, []
    for name, _ in before:
        try:
            shard, at = Shard(store / "shards" / name), 0
        except DataError as error:
            damaged.append(error.got)
            continue
        for item in shard.items:
            found[item["key"]] = shard, item, at
            at += item["size"]
    return found, damaged


def make(job: Job) -> Done:
    """Encodes the examples of a job, or takes them over, and writes them as a shard."""
    known, damaged = records(job.store, job.before)
    items, layouts, rejected, told, kept = [], [], [], list(damaged), 0
    out: list[bytearray] = []  # joined once: a growing array would leave a hole wherever it was
    for i, name in enumerate(job.examples.names):
        try:
            example = job.examples[i]
            said = digest([job.encoding, example.artifact, dict(example.cond), example.weight])
            item, layout, record = None, [], bytearray()
            if said in known:
                shard, old, at = known[said]
                try:
                    record = shard.record(at, old["size"], old["digest"])
                    item, layout, kept = dict(old), shard.layouts[old["layout"]], kept + 1
                except DataError as error:
                    told.append(error.got)
            if item is None:
                with one_thread():
                    state, asked, fact = encoded(job.domain, example)
                pack({"state": state, "asked": asked}, [], layout, record)
                item = {
                    "key": said, "digest": hashlib.sha256(record).hexdigest(), "size": len(record),
                    "fact": [fact.bits, fact.moments, fact.said, fact.shapes, fact.weight, fact.length],
                }  # fmt: skip
        except (GendiffError, OSError) as error:
            why = error.got if isinstance(error, GendiffError) else f"not readable ({error.strerror})"
            rejected.append((job.first + i, name or f"example {job.first + i}", why))
            continue
        if layout not in layouts:
            layouts.append(layout)
        items.append({**item, "name": name, "layout": layouts.index(layout)})
        out.append(record)
    header = json.dumps({"items": items, "layouts": layouts, "rejected": rejected}, sort_keys=True).encode()
    content = b"".join([len(header).to_bytes(8, "little"), header, *out])
    name = f"{job.number:06}-{hashlib.sha256(content).hexdigest()[:16]}"
    path = job.store / "shards" / name
    if not (path.exists() and path.read_bytes() == content):
        with written(path, ROOM):
            write_whole(path, content)
    return Done(name, len(items), kept, tuple(told))
