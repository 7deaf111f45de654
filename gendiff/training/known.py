r"""What a denoiser is shown of the clean state while it learns, so that it can be asked for the rest.

    x_t <- where(keep, x0, x_t)

A sample is then drawn from p(rest | known) by showing what is known, clean, at every time: conditioning by training
("amortised", Didi et al. 2023; Watson et al. 2023), beside replacement and particles, which ask it of a denoiser that
never saw the like (`guidance.given`: `Given(..., shown=True)` for this way). Classes tell by themselves what is known,
since masked ones are a class of their own; of points and rotations the network has to be told by a condition.

To add a way: subclass `Known`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import SHARE, check
from gendiff.random import Noise
from gendiff.spaces import Product, State


class Known(ABC):
    """Draws what is known of the samples of a batch."""

    @abstractmethod
    def __call__(self, space: Any, x0: State, noise: Noise) -> dict[str, Tensor]:
        """By part, of those of which anything is known: bool [B], or [B, *sites]."""


@dataclass(frozen=True)
class KnownParts(Known):
    """Whole parts of a bundle, in a share of the samples.

    Args:
        parts: Their names.
        share: In which share of the samples.
    """

    parts: tuple[str, ...]
    share: float = 0.3

    def __post_init__(self) -> None:
        check(self, share=SHARE)

    def __call__(self, space: Any, x0: State, noise: Noise) -> dict[str, Tensor]:
        keep = noise.fork(f"known {','.join(self.parts)}").uniform((len(noise.index),)) < self.share
        return dict.fromkeys(self.parts, keep)


def shown(ways: tuple[Known, ...], space: Any, x0: State, x: State, noise: Noise) -> State:
    """x_t with what any of the ways draws shown as it is clean."""
    assert isinstance(space, Product)
    for way in ways:
        drawn = way(space, x0, noise)
        first = next(iter(x.values()))
        none = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        x = space.where({name: drawn.get(name, none) for name in x}, x0, x)
    return x
