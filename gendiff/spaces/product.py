r"""Bundles of named parts, each in its own space: exp, log and noise part by part, distances added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from gendiff.errors import SamplerError, named_parts
from gendiff.random import Noise
from gendiff.spaces.base import (
    Space,
    State,
    Weight,
)
from gendiff.spaces.sites import ELEMENTS


def kinds_of(space: Space, x: State) -> Any:
    """The kind of sites of a state, or of each part of a bundle."""
    return space.sites if not isinstance(x, Mapping) or isinstance(space.sites, Mapping) else dict.fromkeys(x, ELEMENTS)


class Product(Space):
    """A bundle of named parts, each in its own space.

    Args:
        parts: name to space, as keywords: `Product(pos=Centered(), rot=SO3())`.
    """

    parts: dict[str, Space]

    def __new__(cls, *args: Any, **named: Any) -> Self:
        """A new object: without this torch.compile hands the defaults of a dataclass's fields to __init__, as parts."""
        return object.__new__(cls)

    def __init__(self, parts: Mapping[str, Space] | None = None, /, **named: Space) -> None:
        object.__setattr__(self, "mask", None)
        found = named_parts("Product", Space, parts, named, "Product(pos=Centered(), rot=SO3())")
        object.__setattr__(self, "parts", found)

    def __repr__(self) -> str:
        return f"Product({', '.join(f'{name}={part!r}' for name, part in self.parts.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(self.parts))

    def each(self, f: Callable[[str, Space], Any]) -> dict[str, Any]:
        """f(name, space) for every part."""
        return {name: f(name, space) for name, space in self.parts.items()}

    @property
    def sites(self) -> dict[str, Any]:  # type: ignore[override]
        """The kind of sites of every part."""
        return self.each(lambda name, space: space.sites)

    def spread(self, keep: Any) -> Any:
        if isinstance(keep, Mapping) or all(kind == ELEMENTS for kind in self.sites.values()):
            return keep
        return self.each(lambda name, space: space.sites.mask(keep))

    def masked(self, mask: Any) -> Product:
        """One mask of elements for all parts, or a dict of them by part."""
        pick = mask.get if isinstance(mask, Mapping) else lambda _: mask
        return Product(self.each(lambda name, space: space.masked(pick(name))))

    def exp(self, x: State, v: State) -> State:
        return self.each(lambda name, space: space.exp(x[name], v[name]))

    def log(self, x: State, y: State) -> State:
        return self.each(lambda name, space: space.log(x[name], y[name]))

    def random(self, like: State, noise: Noise) -> State:
        return self.each(lambda name, space: space.random(like[name], noise.fork(name)))

    def project(self, x: State) -> State:
        return self.each(lambda name, space: space.project(x[name]))

    def tangent(self, x: State, v: State) -> State:
        return self.each(lambda name, space: space.tangent(x[name], v[name]))

    def dim(self, like: State) -> Tensor:
        return torch.stack(list(self.each(lambda name, space: space.dim(like[name])).values())).sum(0)

    def log_random(self, x: State) -> Tensor:
        return torch.stack(list(self.each(lambda name, space: space.log_random(x[name])).values())).sum(0)

    def scale(self, v: State, w: Weight) -> State:
        pick = w.__getitem__ if isinstance(w, Mapping) else lambda _: w
        return self.each(lambda name, space: space.scale(v[name], pick(name)))

    def carry(self, x: State, y: State, v: State) -> State:
        return self.each(lambda name, space: space.carry(x[name], y[name], v[name]))

    def require(self, what: str, x: State, y: State) -> None:
        if not isinstance(y, Mapping) or not self.parts.keys() <= y.keys():
            got = f"the parts {', '.join(map(repr, y))}" if isinstance(y, Mapping) else f"a {type(y).__name__}"
            raise SamplerError(f"{what} {got}", f"a dict of the parts {', '.join(map(repr, self.parts))}")
        self.each(lambda name, space: space.require(f"{what} for the part {name!r}", x[name], y[name]))

    def norm2(self, x: State, v: State) -> Tensor:
        return torch.stack(list(self.each(lambda name, space: space.norm2(x[name], v[name])).values())).sum(0)

    def where(self, keep: Any, x: State, y: State) -> State:
        keep = self.spread(keep)
        pick = keep.__getitem__ if isinstance(keep, Mapping) else lambda _: keep
        return self.each(lambda name, space: space.where(pick(name), x[name], y[name]))
