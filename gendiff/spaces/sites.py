"""Kinds of sites: what the first axis of a part counts.

A ragged state has N elements: atoms, residues, frames. Most parts have one site for each of them. A part on *pairs* has
N (N - 1)/2 sites, the pairs i < j in the order

    (0, 1), (0, 2), (1, 2), (0, 3), ...     pair (i, j) stands at j (j - 1)/2 + i

so that it is symmetric by construction, and the pairs of the first N elements are the first N (N - 1)/2 entries:
padding appends, moves no pair and changes no noise. The mask of a batch is that of its elements, bool [B, N];
`Space.masked` derives a part's own from it.

To add a kind: a frozen dataclass with the three methods. `gendiff.testing.check_domain` tries a domain that has one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.errors import DataError


class SiteKind(ABC):
    """What the sites of a part are, in terms of the N elements of a state."""

    @abstractmethod
    def count(self, n: int) -> int:
        """How many sites n elements have; appending elements appends sites."""

    @abstractmethod
    def size(self, sites: int) -> int:
        """How many elements have so many sites: `count` undone.

        Raises:
            DataError: For a number of sites that no number of elements has.
        """

    @abstractmethod
    def mask(self, mask: Tensor) -> Tensor:
        """The sites all of whose elements are in a mask of elements, bool [B, n, ...] to [B, count(n), ...]."""


@dataclass(frozen=True)
class Elements(SiteKind):
    """One site for each element."""

    def count(self, n: int) -> int:
        return n

    def size(self, sites: int) -> int:
        return sites

    def mask(self, mask: Tensor) -> Tensor:
        return mask


@dataclass(frozen=True)
class Pairs(SiteKind):
    """One site for each unordered pair of two elements; see the top of the file."""

    def count(self, n: int) -> int:
        return n * (n - 1) // 2

    def size(self, sites: int) -> int:
        n = (1 + math.isqrt(1 + 8 * sites)) // 2
        if self.count(n) != sites:
            near = [self.count(m) for m in (n, n + 1)]
            raise DataError(f"A part on pairs has {sites} entries", f"N (N - 1)/2 of them, as {near[0]} or {near[1]}")
        return n

    def mask(self, mask: Tensor) -> Tensor:
        i, j = pair_index(mask.shape[1], mask.device)
        return mask[:, i] & mask[:, j]


ELEMENTS = Elements()


def pair_index(n: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """The elements i < j of each pair of n, int64 [n (n - 1)/2] each, in the order of `Pairs`."""
    j, i = torch.tril_indices(n, n, -1, device=device)
    return i, j


def to_square(pairs: Tensor, n: int, diagonal: float = 0) -> Tensor:
    """What stands on pairs [B, n (n - 1)/2, ...] as a symmetric matrix [B, n, n, ...], with its diagonal."""
    place = torch.arange(n, device=pairs.device)
    low, high = torch.minimum(place[:, None], place), torch.maximum(place[:, None], place)
    equal = (low == high).reshape(1, n, n, *(1,) * (pairs.ndim - 2))
    if pairs.shape[1] == 0:
        return pairs.new_full((len(pairs), n, n, *pairs.shape[2:]), diagonal)
    index = torch.where(low == high, 0, high * (high - 1) // 2 + low)
    return pairs[:, index].masked_fill(equal, diagonal)


def to_pairs(square: Tensor) -> Tensor:
    """The entries i < j of a matrix [B, n, n, ...] on pairs, [B, n (n - 1)/2, ...]: `to_square` undone."""
    i, j = pair_index(square.shape[1], square.device)
    return square[:, i, j]
