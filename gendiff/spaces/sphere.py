r"""Unit vectors in R^D, with ambient vectors orthogonal to the point as tangents.

exp(x, v) = cos|v| x + sin|v| v/|v|,   log(x, y) = angle(x, y) (y - <x, y> x)/|y - <x, y> x|,   noise uniform
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.random import Noise
from gendiff.spaces.base import (
    Space,
    broadcast_mask,
    count,
)


@dataclass(frozen=True, repr=False)
class Sphere(Space):
    """Unit vectors [B, *sites, D]; tangents are ambient vectors [B, *sites, D] orthogonal to the point."""

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        n2 = (v * v).sum(-1, keepdim=True)
        small = n2 < 1e-8
        n = torch.where(small, torch.ones_like(n2), n2).sqrt()
        y = torch.where(small, 1 - n2 / 2, torch.cos(n)) * x + torch.where(small, 1 - n2 / 6, torch.sin(n) / n) * v
        return y / y.norm(dim=-1, keepdim=True).clamp_min(1e-12)  # the zeros of padding stay zero

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = (x * y).sum(-1, keepdim=True)
        u = y - cosine * x
        n2 = (u * u).sum(-1, keepdim=True)
        small = n2 < 1e-12
        n = torch.where(small, torch.ones_like(n2), n2).sqrt()
        near = torch.where(small, torch.ones_like(n), torch.atan2(n, cosine) / n) * u
        # From the opposite point all ways are shortest: take the one by the axis farthest from x.
        axis = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[x.detach().abs().argmin(-1)]
        side = self.tangent(x, axis)
        return torch.where(small & (cosine < 0), math.pi * side / side.norm(dim=-1, keepdim=True), near)

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.project(noise.normal(like.shape, like.dtype))

    def project(self, x: Tensor) -> Tensor:
        mask = broadcast_mask(self.mask, x)
        if mask is not None:
            x = torch.where(mask, x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[0])
        return x / x.norm(dim=-1, keepdim=True)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - (x * v).sum(-1, keepdim=True) * x

    def carry(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """a n + (v - a r) w/sin w: n the direction from x to y, r that of arrival, w the angle between, a = <v, r>."""
        u = self.log(x, y)
        w2 = (u * u).sum(-1, keepdim=True)
        small = w2 < 1e-12
        w = torch.where(small, torch.ones_like(w2), w2).sqrt()
        n = u / w
        r = torch.cos(w) * n - torch.sin(w) * x
        a = (v * r).sum(-1, keepdim=True)
        return torch.where(small, self.tangent(x, v), a * n + (v - a * r) * (w / torch.sin(w)))

    def dim(self, like: Tensor) -> Tensor:
        return count(like[..., 0], self.mask, 1) * (like.shape[-1] - 1)

    def log_random(self, x: Tensor) -> Tensor:
        half = x.shape[-1] / 2
        area = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
        return (-area * count(x[..., 0], self.mask, 1)).to(x)
