"""Things that are made when they are asked for, from an index and a decoder, so that a set may be larger than memory.

    pictures = Lazy(names, Kept(partial(open_picture, folder)))

`Kept` remembers what it made while there is room: a small set is decoded once, a large one whenever it is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOM = 2**25
"""Bytes that a `Kept` remembers."""


def pieces(value: Any) -> Iterator[bytes | memoryview]:
    """What a value consists of, as bytes: the numbers of its arrays with their types and shapes, and all else as text.

    Equal pieces are equal values, for arrays, numbers, texts, and dataclasses, objects, mappings and lists of them.
    """
    if isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)};".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype.str} {value.shape};".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{key!r}:".encode()
            yield from pieces(item)
    elif isinstance(value, list | tuple):
        yield f"{len(value)},".encode()
        for item in value:
            yield from pieces(item)
    elif dataclasses.is_dataclass(value) or (hasattr(value, "__dict__") and not isinstance(value, type)):
        fields = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else list(vars(value))
        yield f"{type(value).__qualname__}({len(fields)}".encode()
        for name in fields:
            yield f"{name}=".encode()
            yield from pieces(getattr(value, name))
    else:
        yield f"{value!r};".encode()


def digest(value: Any) -> str:
    """SHA-256 of what a value consists of, in hexadecimal."""
    total = hashlib.sha256()
    for piece in pieces(value):
        total.update(piece)
    return total.hexdigest()


class Kept:
    """A function of a key that remembers what it made while there is room; copies in other processes begin empty.

    Args:
        make: From a key to a thing; nobody may change the thing.
        most: Bytes that are remembered.
    """

    def __init__(self, make: Callable[[Any], Any], most: int = ROOM) -> None:
        self.make, self.most = make, most
        self.held: dict[Hashable, Any] = {}
        self.room = most

    def __call__(self, key: Any) -> Any:
        if key in self.held:
            return self.held[key]
        return self.keep(key, self.make(key))

    def keep(self, key: Any, made: Any) -> Any:
        """What was made of a key elsewhere, remembered if there is room."""
        size = sum(len(piece) for piece in pieces(made)) if self.room > 0 else 1
        if size <= self.room:
            self.held[key] = made
            self.room -= size
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.make, self.most)


class Lazy(Sequence[Any]):
    """A sequence whose i-th item is make(keys[i]), made when it is asked for."""

    def __init__(self, keys: Sequence[Any], make: Callable[[Any], Any]) -> None:
        self.keys, self.make = keys, make

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        return Lazy(self.keys[index], self.make) if isinstance(index, slice) else self.make(self.keys[index])
