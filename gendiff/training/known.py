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

import torch
from torch import Tensor

from gendiff.errors import SHARE, check
from gendiff.processes import Joint
from gendiff.random import Noise
from gendiff.spaces import State


class Known(ABC):
    """Draws what is known of the samples of a batch."""

    @abstractmethod
    def __call__(self, process: Joint, x0: State, noise: Noise) -> dict[str, tuple[Tensor, Tensor]]:
        """By part, of those of which anything is known: where, bool [B] or [B, *sites], and what is shown there."""


@dataclass(frozen=True)
class KnownParts(Known):
    """Whole parts of a bundle, in a share of the samples.

    Args:
        parts: Their names.
        share: In which share of the samples.
        level: The time at which they are shown, near 0: a little noise keeps a network from reading what real data
            say to the last digit, and designs do not (0.02 A to 0.2 A of ProteinMPNN, Dauparas et al. 2022).
    """

    parts: tuple[str, ...]
    share: float = 0.3
    level: float = 0.0

    def __post_init__(self) -> None:
        check(self, share=SHARE, level=SHARE)

    def __call__(self, process: Joint, x0: State, noise: Noise) -> dict[str, tuple[Tensor, Tensor]]:
        own = noise.fork(f"known {','.join(self.parts)}")
        keep, found = own.uniform((len(own.index),)) < self.share, {}
        for name in self.parts:
            clean = x0[name]
            found[name] = keep, process.parts[name].noise(clean, self.level, own.fork(name)) if self.level else clean
        return found


def shown(ways: tuple[Known, ...], process: Joint, x0: State, x: State, noise: Noise) -> State:
    """x_t with what any of the ways draws shown as it is clean."""
    for way in ways:
        for name, (keep, seen) in way(process, x0, noise).items():
            x = {**x, name: torch.where(per_site(keep, x[name]), seen, x[name])}
    return x


def per_site(keep: Tensor, x: Tensor) -> Tensor:
    """bool [B, ...] with axes of one element for those that x has more."""
    return keep.view(*keep.shape, *[1] * (x.ndim - keep.ndim))
