r"""A number in the user's unit: a pitch, a level, a count.

    z = (f(v) - mean)/std,  f = log or the identity;     vector = MLP(e(z)) where it is asked, a learned row where not

with e the cosines and sines of z at geometric frequencies, as for times. What a network sees is always near one,
whatever the unit, and whether a number is asked is told apart from every number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from gendiff.conditions.base import Batched, Condition
from gendiff.errors import FINITE, POSITIVE, RequestError, check, is_number, refuse
from gendiff.evaluation import Measure
from gendiff.nn.embeddings import NumberEmbedding


@dataclass(frozen=True)
class Number(Condition):
    """A number.

    Args:
        unit: Its name, for texts.
        transform: "log" for what is told apart by ratios (hertz), else "linear".
        mean: Of the transformed training values.
        std: Of them.
        low: The smallest training value; None until `fit` has seen them.
        high: The largest.
    """

    unit: str = ""
    transform: Literal["linear", "log"] = "linear"
    mean: float = 0.0
    std: float = 1.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        check(self, mean=FINITE, std=POSITIVE)
        given = [end for end in (self.low, self.high) if end is not None]
        if len(given) == 1 or given != sorted(given) or (self.transform == "log" and min(given, default=1) <= 0):
            refuse(self, "low", f"neither low nor high, or both in order, each {self.takes} (high={self.high!r})")

    @property
    def takes(self) -> str:
        """What its values are."""
        return (
            f"a {'positive' if self.transform == 'log' else 'finite'} number{f' of {self.unit}' if self.unit else ''}"
        )

    def encode(self, value: Any) -> Tensor:
        value = value.item() if isinstance(value, Tensor | np.generic) else value
        if value is None:
            return torch.zeros(2)
        if not is_number(value) or not math.isfinite(value) or (self.transform == "log" and value <= 0):
            raise RequestError(f"{value!r}", self.takes)
        z = torch.tensor((self.scale(float(value)) - self.mean) / self.std)
        if not z.isfinite():
            raise RequestError(f"{value!r}", f"a number near those of training, {self.mean:.4g} ± {self.std:.4g}")
        return torch.stack([z, torch.ones(())])

    def scale(self, value: float) -> float:
        """f(v)."""
        return math.log(value) if self.transform == "log" else value

    def drop(self, batch: Batched, gone: Tensor) -> Tensor:
        assert isinstance(batch, Tensor)
        return torch.where(gone[:, None], 0.0, batch)

    def embedder(self, width: int) -> nn.Module:
        return NumberEmbedding(width)

    def fit(self, values: Sequence[Any]) -> Self:
        if self.low is not None:
            return self
        for value in values:
            self.encode(value)
        known = [float(value) for value in values if value is not None]
        if not known:
            return self
        scaled = np.array([self.scale(value) for value in known])
        mean, std = float(scaled.mean()), float(scaled.std())
        std = std if std > 1e-9 * float(np.abs(scaled).max()) else 1.0
        return replace(self, mean=mean, std=std, low=min(known), high=max(known))

    def agreement(self, name: str) -> list[Measure]:
        """Spearman's correlation of asked and found numbers, and the median distance: in %, where ratios count."""
        unit = "%" if self.transform == "log" else self.unit
        return [
            Measure(f"{name}, rank correlation with the asked", ranked, better="higher", against="nothing", least=3),
            Measure(f"{name}, median error", self.median_error, unit=unit, better="lower", against="nothing"),
        ]

    def median_error(self, pairs: Sequence[tuple[float, float | None]], other: Sequence[Any] = ()) -> float:
        """The median over pairs (asked, found) of |found - asked|, or of 100 |found / asked - 1|."""
        known = told(pairs)
        gap = np.abs(known[:, 1] - known[:, 0])
        gap = 100 * gap / known[:, 0] if self.transform == "log" else gap
        return float(np.median(gap)) if len(gap) else math.nan

    def turn(self) -> Sequence[float]:
        if self.low is None or self.high is None:
            return ()
        low, high = self.scale(self.low), self.scale(self.high)
        steps = (low + (high - low) * k / 4 for k in range(5))
        return [math.exp(value) if self.transform == "log" else value for value in steps]

    def read(self, text: str) -> Any:
        items = [item.strip() for item in text.split(",")]
        try:
            numbers = [None if item.lower() == "none" else float(item) for item in items]
        except ValueError:
            raise RequestError(f"{text!r}", "a number, or several with commas between them") from None
        return numbers if len(numbers) > 1 else numbers[0]

    def words(self, value: Any) -> str:
        return f"{value:.4g}{f' {self.unit}' if self.unit else ''}" if is_number(value) else super().words(value)

    @property
    def span(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    def describe(self) -> str:
        unit = self.unit or "a number"
        return unit if self.span is None else f"{unit}, {self.span[0]:.4g} to {self.span[1]:.4g} in training"


def told(pairs: Sequence[tuple[float | None, float | None]]) -> np.ndarray:
    """The pairs of which both numbers are known and finite, [n, 2]."""
    known = np.array([(math.nan if a is None else a, math.nan if b is None else b) for a, b in pairs], dtype=np.float64)
    known = known.reshape(-1, 2)
    return known[np.isfinite(known).all(1)]


def ranked(pairs: Sequence[tuple[float | None, float | None]], other: Sequence[Any] = ()) -> float:
    """Spearman's rank correlation of pairs; NaN where all of one side are equal."""
    from scipy.stats import rankdata

    known = told(pairs)
    if len(known) < 2 or (np.ptp(known, axis=0) == 0).any():
        return math.nan
    return float(np.corrcoef(rankdata(known[:, 0]), rankdata(known[:, 1]))[0, 1])
