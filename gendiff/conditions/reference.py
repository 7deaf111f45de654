"""An artifact to look at: a target chain, a reference recording, a picture whose style is meant.

    artifact --domain.encode--> state --> tokens f_1 ... f_L, one a site, or one a patch of sites
    h_0 = start or nothing, h_i = W f_i, read by a small transformer that is trained along

The artifact is of a domain, the model's own or another one's. Where states are ragged a token is `patch` sites of their
first axis, and parts on pairs of sites are left out; else a patch of a grid [C, *sites], and of what has no sites all
numbers. Classes are told as one of K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.conditions.base import Batched, Condition, unmasked
from gendiff.conditions.pretrained import padded
from gendiff.errors import GendiffError, RequestError, at_least, check, refuse
from gendiff.nn.tokens import FeatureEmbedding
from gendiff.spaces import Categorical, Product, leaves
from gendiff.spaces.sites import ELEMENTS

ENOUGH = 64
"""Tokens of a grid at most, where the patch is not said."""


@dataclass(frozen=True)
class Reference(Condition):
    """An artifact of a domain.

    Args:
        domain: The artifact's; `fit` takes its statistics from training values.
        patch: Sites of a token along each axis; 0 leaves it to `fit`.
        longest: Tokens at most; longer training values are cut, and said to be.
        layers: Of the encoder that is trained along.
        pooled: Whether a network also gets it as one vector.
        tokens: Whether it gets the tokens themselves, to attend to.
        features: Numbers of a token; `fit` finds them.
        grid: Rows and columns of tokens; `fit` finds them.
    """

    domain: Any
    patch: int = 0
    longest: int = 512
    layers: int = 2
    pooled: bool = True
    tokens: bool = True
    features: int = 0
    grid: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check(self, patch=at_least(0), longest=at_least(1), layers=at_least(0), features=at_least(0))
        if not (self.pooled or self.tokens):
            refuse(self, "tokens", "tokens, or pooled, or both")
        if isinstance(self.domain, type) or not all(hasattr(self.domain, name) for name in ("encode", "read", "fit")):
            refuse(self, "domain", "the domain of the artifact", "Reference(Images(size=32, channels=3))")

    @property
    def gives(self) -> tuple[str, ...]:
        return ("vector",) * self.pooled + ("tokens",) * self.tokens

    def encode(self, value: Any) -> dict[str, Tensor]:
        """ "features" [tokens, numbers]: no tokens where nothing is asked.

        Raises:
            RequestError: For what is none of the domain's artifacts, of another size, or too long.
        """
        found = self.told(value)
        if len(found) > self.longest:
            raise RequestError(f"a reference of {len(found)} tokens", f"at most {self.longest}")
        return {"features": found}

    def encode_example(self, value: Any) -> dict[str, Tensor]:
        """A training value, of which no more than `longest` tokens are read."""
        return {"features": self.told(value)[: self.longest]}

    def told(self, value: Any) -> Tensor:
        """The tokens of an artifact [L, F]; none of None."""
        if value is None:
            return torch.zeros(0, max(self.features, 1))
        if not self.features:
            raise RequestError(
                "a reference for a Reference() that has seen no training values",
                "one that is fitted to them",
                "domain = domain.fit_conditions(examples), as training does by itself",
            )
        found, grid = self.sites_of(value)
        if found.shape[1] != self.features or (self.grid and grid != self.grid):
            raise RequestError(
                f"a reference of {len(found)} tokens of {found.shape[1]} numbers",
                f"{math.prod(self.grid) if self.grid else 'any number'} of {self.features}, as in training",
            )
        return found

    def sites_of(self, value: Any) -> tuple[Tensor, tuple[int, ...]]:
        """The tokens of an artifact [L, F], and how they lie, where they have a fixed place.

        Raises:
            RequestError: For a path, and what is none of the domain's artifacts.
        """
        name = type(self.domain).__name__
        if isinstance(value, str | Path):
            raise RequestError(f"the reference {str(value)!r}", "an artifact", f"NAME=domain.read({str(value)!r})")
        try:
            state = self.domain.encode(value)
        except GendiffError:
            raise
        except Exception as error:
            raise RequestError(
                f"a reference of type {type(value).__name__} ({type(error).__name__}: {error})",
                f"an artifact of {name}",
            ) from error
        both = zip(leaves(state), spaces_of(self.domain.process.space), strict=True)
        parts = [as_numbers(x, own) for x, own in both if not self.domain.ragged or own.sites == ELEMENTS]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise RequestError(f"a reference of {name} with numbers that are not finite", "finite ones")
        if self.domain.ragged:
            sites = torch.cat([part.reshape(len(part), -1) for part in parts], 1)
            patch = max(self.patch, 1)
            return F.pad(sites, (0, 0, 0, -len(sites) % patch)).reshape(-1, patch * sites.shape[1]), ()
        if len(parts) > 1 or parts[0].ndim < 2:
            return torch.cat([part.flatten() for part in parts])[None], ()
        return patches(parts[0], self.patch)

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> dict[str, Tensor]:
        return padded(singles)

    def drop(self, batch: Batched, gone: Tensor) -> dict[str, Tensor]:
        return unmasked(batch, gone)

    def embedder(self, width: int) -> nn.Module:
        grid = self.grid if len(self.grid) < 3 else ()
        return FeatureEmbedding(
            max(self.features, 1), width, self.layers, pooled=self.pooled, tokens=self.tokens, grid=grid
        )

    def single(self, value: Any) -> bool:
        return not isinstance(value, list)

    def fit(self, values: Sequence[Any]) -> Self:
        known = [value for value in values if value is not None]
        if self.features or not known:
            return self
        own = replace(self, domain=self.domain.fit(known))
        found, grid = own.sites_of(known[0])
        if not self.patch and grid:
            patch = next(p for p in (2**k for k in range(20)) if math.prod(-(-n // p) for n in grid) <= ENOUGH)
            own = replace(own, patch=patch)
            found, grid = own.sites_of(known[0])
        return replace(own, patch=max(own.patch, 1), features=found.shape[1], grid=grid)

    def audit(self, values: Sequence[Any]) -> list[str]:
        missing = sum(value is None for value in values)
        if missing == len(values):
            return ["no example has it"]
        said = [f"{missing} of {len(values)} examples have none"] if missing else []
        if self.domain.ragged:
            long = sum(value is not None and len(self.told(value)) > self.longest for value in values)
            said += [f"{long} of more than {self.longest} tokens are cut"] if long else []
        return said

    def read(self, text: str) -> Any:
        """The artifact in a file, or those in files with commas between them; none is nothing asked."""
        items = [text] if Path(text).is_file() else [item.strip() for item in text.split(",")]
        found = [None if item.lower() == "none" else self.opened(item) for item in items]
        return found if len(found) > 1 else found[0]

    def opened(self, path: str) -> Any:
        """The artifact in a file, by the domain's reader.

        Raises:
            RequestError: For a file that cannot be read.
        """
        try:
            return self.domain.read(path)
        except (OSError, ValueError, EOFError) as error:
            raise RequestError(
                f"the reference {path!r} ({error})", f"a file that {type(self.domain).__name__} reads"
            ) from error

    @property
    def files(self) -> tuple[str, ...]:
        return self.domain.suffixes

    def words(self, value: Any) -> str:
        return ""

    def describe(self) -> str:
        return f"a file of {self.domain.name} ({', '.join(self.domain.suffixes)}), to look at"


def spaces_of(space: Any) -> list[Any]:
    """The spaces of a state's parts, in order."""
    return (
        [leaf for part in space.parts.values() for leaf in spaces_of(part)] if isinstance(space, Product) else [space]
    )


def as_numbers(x: Tensor, space: Any) -> Tensor:
    """A part of a state as numbers: classes as one of K."""
    if isinstance(space, Categorical) and not x.is_floating_point():
        return F.one_hot(x.long(), space.classes).float()
    return x.float()


def patches(x: Tensor, patch: int) -> tuple[Tensor, tuple[int, ...]]:
    """A grid [C, *sites] in patches, [L, C * patch ** axes], row by row, and how many lie along each axis; sites beyond
    it are 0.
    """
    patch, sites = max(patch, 1), x.shape[1:]
    x = F.pad(x, [n for size in reversed(sites) for n in (0, -size % patch)])
    grid = tuple(size // patch for size in x.shape[1:])
    x = x.reshape(len(x), *(n for size in grid for n in (size, patch)))
    axes = range(len(grid))
    x = x.permute(*(1 + 2 * i for i in axes), 0, *(2 + 2 * i for i in axes))
    return x.reshape(math.prod(grid), -1), grid
