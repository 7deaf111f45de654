r"""Flat spaces: R^n, and clouds of points without their centre of mass.

    exp(x, v) = x + v,   log(x, y) = y - x,   noise N(0, I)

`Centered` is the subspace of clouds [B, N, D] with zero mean under the mask, of dimension (N - 1) D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gendiff.random import Noise
from gendiff.spaces.base import (
    Space,
    components,
    count,
    standard,
)


@dataclass(frozen=True, repr=False)
class Euclidean(Space):
    """R^n: exp is addition, mixing is linear, noise is N(0, I)."""

    flat: ClassVar[bool] = True

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.real(noise.normal(like.shape, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        return self.real(x)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def dim(self, like: Tensor) -> Tensor:
        return count(like, self.mask, components(like, self.mask))

    def log_random(self, x: Tensor) -> Tensor:
        return standard(self, x)


@dataclass(frozen=True, repr=False)
class Centered(Space):
    """Clouds of points [B, N, D] with zero centre of mass: the subspace of dimension (N - 1) D.

    Translations are divided out by projection (Köhler et al. 2020; Hoogeboom et al. 2022, EDM): states, noise and
    predictions all lie in the subspace, under the mask.
    """

    flat: ClassVar[bool] = True

    def center(self, x: Tensor) -> Tensor:
        if self.mask is None:
            return x - x.mean(dim=-2, keepdim=True)
        real = self.mask[..., None]
        n = real.sum(dim=-2, keepdim=True).clamp_min(1)
        mean = torch.where(real, x, 0.0).sum(dim=-2, keepdim=True) / n
        return torch.where(real, x - mean, 0.0)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.center(noise.normal(like.shape, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        return self.center(x)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.center(v)

    def dim(self, like: Tensor) -> Tensor:
        sites = count(like[..., 0], self.mask, 1)
        return (sites - 1).clamp_min(0) * like.shape[-1]

    def log_random(self, x: Tensor) -> Tensor:
        return standard(self, x)
