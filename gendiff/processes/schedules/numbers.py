"""Every formula once, for Python floats, float64 tensors and numbers that carry their slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Time = Any
"""A float, or a float64 tensor."""


class Floats:
    """The functions of `math`, with the limits that torch takes."""

    sqrt, exp, cos, sin, tan, expm1 = math.sqrt, math.exp, math.cos, math.sin, math.tan, math.expm1
    atan2, log1p = math.atan2, math.log1p

    @staticmethod
    def log(x: float) -> float:
        return math.log(x) if x > 0 else -math.inf

    @staticmethod
    def clip(x: float, low: float, high: float) -> float:
        return min(max(x, low), high)

    @staticmethod
    def select(yes: bool, a: float, b: float) -> float:
        return a if yes else b


class Tensors:
    """The same functions on tensors."""

    sqrt, exp, cos, sin, tan, expm1 = torch.sqrt, torch.exp, torch.cos, torch.sin, torch.tan, torch.expm1
    atan2, log1p, log, clip = torch.atan2, torch.log1p, torch.log, torch.clamp

    @staticmethod
    def select(yes: Tensor, a: Time, b: Time) -> Tensor:
        return torch.where(yes, a, b)


@dataclass(frozen=True)
class Dual:
    """A number and its slope d/dt, floats or tensors: arithmetic by the rules of calculus, exact to rounding."""

    value: Any
    slope: Any

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    def __add__(self, other: Any) -> Dual:
        other = dual(other)
        return Dual(self.value + other.value, self.slope + other.slope)

    def __sub__(self, other: Any) -> Dual:
        return self + (-dual(other))

    def __rsub__(self, other: Any) -> Dual:
        return dual(other) + (-self)

    def __mul__(self, other: Any) -> Dual:
        other = dual(other)
        return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)

    def __truediv__(self, other: Any) -> Dual:
        other = dual(other)
        ratio = self.value / other.value
        return Dual(ratio, (self.slope - ratio * other.slope) / other.value)

    def __rtruediv__(self, other: Any) -> Dual:
        return dual(other) / self

    def __pow__(self, power: float) -> Dual:
        return Dual(self.value**power, power * self.value ** (power - 1) * self.slope)

    __radd__, __rmul__ = __add__, __mul__


def dual(x: Any) -> Dual:
    """A Dual; constants have slope 0."""
    return x if isinstance(x, Dual) else Dual(x, 0.0)


class Duals:
    """The same functions on numbers that carry their slope."""

    @staticmethod
    def sqrt(x: Dual) -> Dual:
        m = maths(x.value)
        root = m.sqrt(x.value)
        none = root == 0  # only where x underflows
        return Dual(root, m.select(none, x.value, x.slope / (2 * m.select(none, root + 1, root))))

    @staticmethod
    def exp(x: Dual) -> Dual:
        value = maths(x.value).exp(x.value)
        return Dual(value, value * x.slope)

    @staticmethod
    def expm1(x: Dual) -> Dual:
        m = maths(x.value)
        return Dual(m.expm1(x.value), m.exp(x.value) * x.slope)

    @staticmethod
    def log(x: Dual) -> Dual:
        return Dual(maths(x.value).log(x.value), x.slope / x.value)

    @staticmethod
    def log1p(x: Dual) -> Dual:
        return Dual(maths(x.value).log1p(x.value), x.slope / (1 + x.value))

    @staticmethod
    def cos(x: Dual) -> Dual:
        m = maths(x.value)
        return Dual(m.cos(x.value), -m.sin(x.value) * x.slope)

    @staticmethod
    def sin(x: Dual) -> Dual:
        m = maths(x.value)
        return Dual(m.sin(x.value), m.cos(x.value) * x.slope)

    @staticmethod
    def clip(x: Dual, low: float, high: float) -> Dual:
        m = maths(x.value)
        inside = (x.value >= low) & (x.value <= high)
        return Dual(m.clip(x.value, low, high), m.select(inside, x.slope, x.value * 0))


def maths(t: Time) -> Any:
    """The namespace of functions for this kind of number."""
    if isinstance(t, Tensor):
        return Tensors
    return Duals if isinstance(t, Dual) else Floats


def exp_capped(m: Any, x: Time) -> Time:
    """exp without overflow: log-SNRs of +-inf give exactly 0 or a huge finite number."""
    return m.exp(m.clip(x, -math.inf, 700.0))
