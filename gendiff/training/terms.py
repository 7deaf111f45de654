r"""Auxiliary losses: named terms beside the denoising loss, each with a weight and a window in t.

    loss = denoising + sum_k w_k 1[low_k <= t <= high_k] l_k(x0_hat, x0, t, side)

A term sees the predicted clean state and the network's *side outputs*: numbers that a network gives beside its
prediction (how long symbols last, a distogram), which only losses and plans read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import NOT_NEGATIVE, check, refuse


@dataclass(frozen=True)
class Term:
    """How an auxiliary loss counts.

    Args:
        weight: Its factor; 0 is never computed.
        window: The times at which it counts, both ends included; of a bundle with a time by part, all of them. None is
            always.
    """

    weight: float = 1.0
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check(self, weight=NOT_NEGATIVE)
        if self.window is not None and not self.window[0] <= self.window[1]:
            refuse(self, "window", "a lower and an upper time")

    def at(self, t: Any, like: Tensor) -> Tensor:
        """The factor of each sample, [B] as `like`, at times float64 [B], or by part."""
        low, high = self.window or (-math.inf, math.inf)
        inside = torch.ones_like(like, dtype=torch.bool)
        for part in leaves_of(t):
            inside = inside & ((part >= low) & (part <= high)).to(like.device)
        return torch.where(inside, self.weight, 0.0).to(like)


@dataclass(frozen=True)
class Auxiliary:
    """An auxiliary loss.

    Args:
        loss: f(x0_hat, x0, t, side=side, **cond) -> [B]; `side` holds the network's side outputs by name.
        term: How it counts where a recipe says nothing.
    """

    loss: Callable[..., Tensor]
    term: Term = field(default_factory=Term)

    def __post_init__(self) -> None:
        check(self)


def leaves_of(t: Any) -> list[Any]:
    """The times of all parts."""
    return [leaf for part in t.values() for leaf in leaves_of(part)] if isinstance(t, Mapping) else [t]
