"""A class, by name or number; the number after the last class is "nothing asked"."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.conditions.base import Batched, Condition, distinct
from gendiff.errors import RequestError, check, nearest
from gendiff.evaluation import Measure, measures
from gendiff.files import composed
from gendiff.nn.embeddings import LabelEmbedding


@dataclass(frozen=True)
class Label(Condition):
    """One of some classes.

    Args:
        classes: Their names, in the order of their numbers.
    """

    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self)
        distinct(self, "classes")

    def encode(self, value: Any) -> Tensor:
        value = value.item() if isinstance(value, Tensor | np.generic) else value
        return torch.tensor(self.number(value))

    def number(self, value: Any) -> int:
        """The number of a class given by name or number; of None that of nothing asked.

        Raises:
            RequestError: With the nearest class.
        """
        classes = self.classes
        if value is None:
            return len(classes)
        if isinstance(value, str) and (same := self.same(value)) is not None:
            return self.numbers[same]
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes):
            return value
        listed = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise RequestError(
            f"{value!r} is not a class", f"one of {listed}, or 0 to {len(classes) - 1}.{nearest(value, classes)}"
        )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of every class."""
        return {name: i for i, name in enumerate(self.classes)}

    @cached_property
    def lower(self) -> dict[str, str]:
        """The first class of each name in lower case, its letters composed with their accents."""
        return {composed(name).lower(): name for name in reversed(self.classes)}

    def same(self, text: str) -> str | None:
        """The class name that a text is, in its own or another case, and in any form of Unicode."""
        return text if text in self.numbers else self.lower.get(composed(text).lower())

    def drop(self, batch: Batched, gone: Tensor) -> Tensor:
        assert isinstance(batch, Tensor)
        return torch.where(gone, len(self.classes), batch)

    def embedder(self, width: int) -> nn.Module:
        return LabelEmbedding(len(self.classes), width)

    def audit(self, values: Sequence[Any]) -> list[str]:
        said = super().audit(values)
        counts = Counter(self.number(value) for value in values if value is not None)
        unused = [name for k, name in enumerate(self.classes) if not counts[k]]
        few = f"nothing to learn from: {', '.join(unused[:8])}{', ...' if len(unused) > 8 else ''}"
        return said + ([few] if unused and counts else [])

    def agreement(self, name: str) -> list[Measure]:
        """The share of samples that are of the class asked for."""
        return [measures.share(f"{name} as asked", self.agrees, better="higher")]

    def agrees(self, pair: tuple[Any, Any]) -> bool:
        """Whether what was found is the class asked for."""
        asked, found = pair
        return self.number(asked) == self.number(found)

    @property
    def rows(self) -> tuple[str, ...]:
        return self.classes

    def turn(self) -> Sequence[str]:
        return self.classes

    def read(self, text: str) -> Any:
        """What is written stands for the class of that name, whatever else it could mean ("1", "none", "dog,cat").

        Only where no class has the name is a comma a list, `none` nothing, and a whole number the number of a class.
        """
        if self.same(text) is not None:
            return self.word(text)
        items = next(csv.reader([text], skipinitialspace=True), [""]) or [""]
        return [self.word(item) for item in items] if len(items) > 1 else self.word(items[0])

    def word(self, text: str) -> Any:
        """The class of this name; else None for "none", a number where no class is named by one, or the text."""
        same = self.same(text)
        if same is not None:
            return same
        if text.lower() == "none":
            return None
        whole = text.isascii() and text.isdigit() and not any(name.strip().isdigit() for name in self.classes)
        return int(text) if whole else text

    def words(self, value: Any) -> str:
        return self.classes[value] if isinstance(value, int) and value < len(self.classes) else super().words(value)

    def describe(self) -> str:
        listed = ", ".join(self.classes[:24])
        return f"one of {listed}{f', ... ({len(self.classes)} classes)' if len(self.classes) > 24 else ''}"
