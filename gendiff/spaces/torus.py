r"""Angles in [-pi, pi), each on its own circle.

exp(x, v) = wrap(x + v),   log(x, y) = wrap(y - x),   noise uniform
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gendiff.random import Noise
from gendiff.spaces.base import (
    Space,
    components,
    count,
)


@dataclass(frozen=True, repr=False)
class Torus(Space):
    """Angles in [-pi, pi), each on its own circle."""

    framed: ClassVar[bool] = True

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.wrap(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.wrap(y - x)

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.real(noise.uniform(like.shape, like.dtype) * (2 * math.pi) - math.pi)

    def project(self, x: Tensor) -> Tensor:
        return self.real(self.wrap(x))

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def carry(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    def dim(self, like: Tensor) -> Tensor:
        return count(like, self.mask, components(like, self.mask))

    def log_random(self, x: Tensor) -> Tensor:
        return (-math.log(2 * math.pi) * self.dim(x)).to(x)

    @staticmethod
    def wrap(x: Tensor) -> Tensor:
        return torch.remainder(x + math.pi, 2 * math.pi) - math.pi
