"""One thing for every site of a state: a class (`Sites`), or numbers (`Field`).

Both follow the state's own sites and are padded with them: the entry of a padded site is "nothing asked", and so is
that of a site of which nothing is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.conditions.base import Batched, Condition, distinct
from gendiff.errors import RequestError, at_least, check, nearest, refuse
from gendiff.evaluation import Measure, measures
from gendiff.nn.embeddings import FieldEmbedding, SiteEmbedding


@dataclass(frozen=True)
class Sites(Condition):
    """A class for each site along the first axis: the secondary structure of every residue.

    One sample's value is a text with a letter for each site, or a list of class names or numbers inside of a list
    with one for each sample. `free` in a text asks nothing of its site.

    Args:
        classes: Their names, in the order of their numbers.
        free: The letter of a site of which nothing is asked.
    """

    classes: tuple[str, ...] = ()
    free: str = "?"

    @property
    def gives(self) -> tuple[str, ...]:
        return ("field",)

    def __post_init__(self) -> None:
        check(self)
        distinct(self, "classes")
        if self.free in self.classes:
            refuse(self, "free", f"a letter that is none of the classes {', '.join(self.classes)}")

    def encode(self, value: Any) -> Tensor:
        if value is None:
            return torch.empty(0, dtype=torch.int64)
        if isinstance(value, Tensor | np.ndarray):
            value = value.tolist()
        if not isinstance(value, Sequence):
            raise RequestError(f"{value!r}", f"a text with a letter of {', '.join(self.classes)} for each site")
        return torch.tensor([self.number(item, i) for i, item in enumerate(value)], dtype=torch.int64)

    def number(self, item: Any, place: int) -> int:
        """The number of a site's class."""
        if item is None or item == self.free:
            return len(self.classes)
        if isinstance(item, str) and item in self.classes:
            return self.classes.index(item)
        if isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= len(self.classes):
            return item
        raise RequestError(
            f"{item!r} at site {place} is not a class",
            f"one of {', '.join(self.classes)}, or {self.free} for anything.{nearest(item, self.classes)}",
        )

    def single(self, value: Any) -> bool:
        return value is None or isinstance(value, str)

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> Tensor:
        longest = sites[0] if sites else max(1, *(len(single) for single in singles))
        out = torch.full((len(singles), longest), len(self.classes))
        for row, single in zip(out, singles, strict=True):
            row[: len(single)] = single
        return out

    def drop(self, batch: Batched, gone: Tensor) -> Tensor:
        assert isinstance(batch, Tensor)
        return torch.where(gone[:, None], len(self.classes), batch)

    def embedder(self, width: int) -> nn.Module:
        return SiteEmbedding(len(self.classes), width)

    def agreement(self, name: str) -> list[Measure]:
        """The share of sites that are of the class asked for, over all sites of which something is asked."""
        counts = {"as asked, share of sites": self.agreeing}
        counts |= {f"{one} found where asked": partial(self.agreeing, only=one) for one in self.classes}
        return [measures.share_within(f"{name} {what}", count, better="higher") for what, count in counts.items()]

    def agreeing(self, pair: tuple[Any, Any], only: str | None = None) -> tuple[int, int]:
        """How many sites agree, of how many (of the class `only`); sites beyond the shorter of both disagree."""
        asked, found = (self.encode(one) for one in pair)
        size = max(len(asked), len(found))
        padded = torch.full((2, size), -1)
        padded[0, : len(asked)], padded[1, : len(found)] = asked, found
        counted = (padded[0] >= 0) & (padded[0] < len(self.classes))
        counted &= True if only is None else padded[0] == self.classes.index(only)
        return int((counted & (padded[0] == padded[1])).sum()), int(counted.sum())

    @property
    def rows(self) -> tuple[str, ...]:
        return self.classes

    def sites(self, value: Any) -> int:
        return len(value)

    def read(self, text: str) -> Any:
        """A text, or one for each sample with commas between them; none is nothing asked."""
        items = [None if item.strip().lower() == "none" else item.strip() for item in text.split(",")]
        return items if len(items) > 1 else items[0]

    def words(self, value: Any) -> str:
        return "" if value is None else (value if isinstance(value, str) else "".join(map(str, value)))[:24]

    def describe(self) -> str:
        return f"one of {', '.join(self.classes)} for each site, {self.free} for anything, as one text"


@dataclass(frozen=True)
class Field(Condition):
    """Numbers for each site: an edge map, a curve of pitches, a smaller picture brought to size.

    One sample's value is a tensor [*sites, channels], of the scale of states (near 1); NaN asks nothing of its site.

    Args:
        channels: Numbers a site.
    """

    channels: int = 1

    @property
    def gives(self) -> tuple[str, ...]:
        return ("field",)

    def __post_init__(self) -> None:
        check(self, channels=at_least(1))

    def encode(self, value: Any) -> Tensor:
        """[*sites, channels + 1]: the last says whether the site is asked about."""
        if value is None:
            return torch.empty(0)
        if not self.single(value):
            raise RequestError(f"a field of type {type(value).__name__}", f"a tensor [*sites, {self.channels}]")
        x = torch.as_tensor(value)
        if x.ndim < 2 or x.shape[-1] != self.channels or x.is_complex():
            raise RequestError(
                f"a field of shape {list(x.shape)} of {x.dtype}", f"real numbers [*sites, {self.channels}]"
            )
        x = x.float()
        if bool(x.isinf().any()):
            raise RequestError(f"a field with {int(x.isinf().sum())} infinite values", "finite ones, or NaN for none")
        there = ~x.isnan().any(-1, keepdim=True)
        return torch.cat([torch.where(there, x, 0.0), there.float()], -1)

    def single(self, value: Any) -> bool:
        return value is None or isinstance(value, Tensor | np.ndarray)

    def fits(self, single: Any, sites: tuple[int, ...]) -> None:
        super().fits(single, sites)
        if single.ndim != len(sites) + 1:
            raise RequestError(f"a value of {single.ndim - 1} axes of sites for a sample of {len(sites)}", "as many")

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> Tensor:
        shapes = [single.shape[:-1] for single in singles if single.numel()]
        sites = sites or (tuple(max(axis) for axis in zip(*shapes, strict=True)) if shapes else (1,))
        out = torch.zeros(len(singles), *sites, self.channels + 1)
        for row, single in zip(out, singles, strict=True):
            if single.numel():
                row[tuple(slice(0, size) for size in single.shape[:-1])] = single
        return out

    def drop(self, batch: Batched, gone: Tensor) -> Tensor:
        assert isinstance(batch, Tensor)
        return torch.where(gone.view(-1, *[1] * (batch.ndim - 1)), 0.0, batch)

    def embedder(self, width: int) -> nn.Module:
        return FieldEmbedding(self.channels, width)

    def sites(self, value: Any) -> int:
        return len(value)

    def audit(self, values: Sequence[Any]) -> list[str]:
        missing = sum(value is None for value in values)
        return [f"{missing} of {len(values)} examples have none"] if missing else []

    def read(self, text: str) -> Any:
        """The tensor in a .npy file, or those in files with commas between them; none is nothing asked."""
        items = [text] if Path(text).is_file() else [item.strip() for item in text.split(",")]
        found = [None if item.lower() == "none" else tensor_in(item) for item in items]
        return found if len(found) > 1 else found[0]

    @property
    def files(self) -> tuple[str, ...]:
        return (".npy",)

    def words(self, value: Any) -> str:
        return ""

    def describe(self) -> str:
        numbers = "a number" if self.channels == 1 else f"{self.channels} numbers"
        return f"{numbers} for each site: a tensor, or a .npy file of one"


def tensor_in(path: str) -> Tensor:
    """The tensor in a .npy file, which is read no further than it goes.

    Raises:
        RequestError: For a file that is not there or holds no numbers.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.array(found, dtype=found.dtype.newbyteorder("=")))
    except (OSError, ValueError, TypeError, AttributeError, EOFError, OverflowError) as error:
        raise RequestError(
            f"the field {path!r} ({error})", "a file .npy with numbers [*sites, channels]", "numpy.save(path, array)"
        ) from None
