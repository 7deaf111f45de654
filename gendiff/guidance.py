r"""Guidance is mixing: a guided denoiser is a denoiser.

Classifier-free guidance (Ho & Salimans 2022), on any space,

    x0 = lerp(D(x, t), D(x, t, cond), w)       w = 1 is off, w > 1 moves beyond the conditional prediction

Both branches go through the network in one batch. Autoguidance (Karras et al. 2024) is the same with a weaker model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise
from gendiff.processes import Process
from gendiff.spaces import State, map_state


def stack(a: Any, b: Any) -> Any:
    """Two batches as one; None and other shared values pass."""
    if isinstance(a, Tensor):
        return torch.cat([a, b])
    if isinstance(a, dict):
        return {name: stack(a[name], b[name]) for name in a}
    return a


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance.

    Args:
        denoiser: Trained with and without conditions.
        scale: w; a number, [B], or a number by part of a bundle.
        without: The conditions with nothing asked for, from the full ones (labels at their "none").
    """

    denoiser: Denoise
    scale: Any
    without: Callable[[dict[str, Any]], dict[str, Any]]

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        none = self.without(cond)
        time = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        both = self.denoiser(map_state(lambda part: torch.cat([part, part]), x), time, **stack(cond, none))
        n = next(iter(x.values())).shape[0] if isinstance(x, dict) else x.shape[0]
        full, free = map_state(lambda part: part[:n], both), map_state(lambda part: part[n:], both)
        space = self.process.masked(cond.get("mask")).space
        return space.lerp(free, full, self.scale)


@dataclass(frozen=True)
class Corrected:
    """A denoiser whose predictions are made to obey what is known of every clean state.

    Args:
        denoiser: Whose predictions.
        correct: f(x0, t, **cond) -> x0: clipping to a range, moving apart what overlaps.
    """

    denoiser: Denoise
    correct: Callable[..., State]

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        x0 = self.correct(self.denoiser(x, t, **cond), t, **cond)
        return self.process.masked(cond.get("mask")).space.project(x0)


@dataclass(frozen=True)
class Autoguided:
    """Autoguidance: away from a weaker model of the same data.

    Args:
        denoiser: The better model.
        weaker: The worse one (smaller, or an earlier checkpoint).
        scale: w; 1 is off.
    """

    denoiser: Denoise
    weaker: Denoise
    scale: Any

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        space = self.process.masked(cond.get("mask")).space
        return space.lerp(self.weaker(x, t, **cond), self.denoiser(x, t, **cond), self.scale)
