r"""Rotations, with body-frame rotation vectors as tangents.

    exp(R, v) = R exp(v),   log(R, S) = log(R^T S),   noise uniform by Haar's measure

exp and log of single matrices, near 0 and near pi, are in `gendiff.spaces.rotations`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gendiff.random import Noise
from gendiff.spaces import rotations
from gendiff.spaces.base import (
    Space,
    broadcast_mask,
    count,
)


@dataclass(frozen=True, repr=False)
class SO3(Space):
    """Rotations [B, *sites, 3, 3]; tangents are body-frame rotation vectors [B, *sites, 3], exp(R, v) = R exp(v)."""

    framed: ClassVar[bool] = True

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return rotations.orthonormal(x @ rotations.exp_so3(v))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return rotations.log_so3(x.mT @ y)

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.project(rotations.uniform(tuple(like.shape[:-2]), noise, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        mask = broadcast_mask(self.mask, x)
        x = rotations.orthonormal(x)
        return x if mask is None else torch.where(mask, x, torch.eye(3, dtype=x.dtype, device=x.device))

    def arrows(self, x: Tensor) -> Sequence[int]:
        return x.shape[:-1]

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def carry(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The inverse right Jacobian at w = log_x(y): v + w x v/2 + (1 - |w|/2 cot(|w|/2)) w x (w x v)/|w|^2."""
        w = self.log(x, y)
        w2 = (w * w).sum(-1, keepdim=True)
        small = w2 < 1e-3
        half = torch.where(small, torch.ones_like(w2), w2).sqrt() / 2
        near = 1 / 12 + w2 / 720 + w2 * w2 / 30240
        share = torch.where(small, near, (1 - half / torch.tan(half)) / (4 * half**2))
        turn = torch.linalg.cross(w, v)
        return v + turn / 2 + share * torch.linalg.cross(w, turn)

    def dim(self, like: Tensor) -> Tensor:
        return count(like[..., 0], self.mask, 3)

    def log_random(self, x: Tensor) -> Tensor:
        return (-math.log(8 * math.pi**2) / 3 * self.dim(x)).to(x)
