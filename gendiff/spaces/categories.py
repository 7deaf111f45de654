r"""Classes, and the distributions over them.

A state is int64 [B, *sites]; a prediction of the clean state is log-probabilities [B, *sites, K]. On these the space is
flat, so mixing and guidance are geometric means:

    exp(x, v) = log softmax(x + v),   log(x, y) = log y - log x
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import refuse
from gendiff.random import Noise
from gendiff.spaces.base import Space, count, require_shape

FLOOR = -100.0


"""The logarithm of probability zero."""


@dataclass(frozen=True, repr=False)
class Categorical(Space):
    """Classes, int64 [B, *sites], and the distributions over them, as log-probabilities [B, *sites, K].

    Args:
        classes: K.
    """

    classes: int = field(default=2, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.classes, int) or self.classes < 1:
            refuse(self, "classes", "a whole number of classes, at least 1")

    def __repr__(self) -> str:
        return f"Categorical({self.told(f'classes={self.classes}')})"

    def logs(self, x: Tensor) -> Tensor:
        """Log-probabilities: of themselves, or of classes, which are certain."""
        if x.is_floating_point():
            return x.clamp_min(FLOOR)
        shown = x[..., None] == torch.arange(self.classes, device=x.device)
        return torch.where(shown, 0.0, FLOOR)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.log_softmax(self.logs(x) + v, -1)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.logs(y) - self.logs(x)

    def random(self, like: Tensor, noise: Noise) -> Tensor:
        return self.project(noise.integers(like.shape, self.classes))

    def project(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.log_softmax(x, -1)
        return x if self.mask is None else torch.where(self.mask, x, 0)

    def require(self, what: str, x: Tensor, y: Any) -> None:
        sites = x.shape[:-1] if x.is_floating_point() else x.shape
        certain = () if isinstance(y, Tensor) and y.is_floating_point() else (sites,)
        require_shape(what, y, (*sites, self.classes), *certain)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def dim(self, like: Tensor) -> Tensor:
        """Sites: one category each."""
        return count(like[..., 0] if like.is_floating_point() else like, self.mask, 1)

    def log_random(self, x: Tensor) -> Tensor:
        return -self.dim(x).to(x.device) * torch.tensor(self.classes, dtype=torch.float64, device=x.device).log()

    def total(self, per_site: Tensor) -> Tensor:
        """The sum over real sites, [B]."""
        real = per_site if self.mask is None else torch.where(self.mask, per_site, 0.0)
        return real[..., None].flatten(1).sum(1)
