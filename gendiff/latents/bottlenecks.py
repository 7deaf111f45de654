r"""What is done to a latent between encoder and decoder, so that what the decoder sees has a bounded content.

    KL      z = mu + s eps,  loss = (mu^2 + s^2 - ln s^2 - 1) / 2 a number       Kingma & Welling 2014, Rombach 2022
    FSQ     z_i = round(f(h_i)), f onto the L_i levels of channel i               Mentzer et al. 2023

A bottleneck sees latents by channel [B, C, *sites]. In training it draws noise; afterwards it is a function.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.errors import NOT_NEGATIVE, POSITIVE, Range, check, refuse
from gendiff.random import Noise


class Bottleneck(ABC):
    """What stands between encoder and decoder; a frozen dataclass."""

    def outputs(self, channels: int) -> int:
        """Channels that the encoder gives for latents of so many."""
        return channels

    def serves(self, channels: int) -> bool:
        """Whether it can stand before so many latent channels; any, by default."""
        return True

    @abstractmethod
    def draw(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """In training: latents [B, C, *sites] from the encoder's outputs, and the loss of each sample, [B]."""

    @abstractmethod
    def settle(self, h: Tensor) -> Tensor:
        """Afterwards: the latents without noise."""


@dataclass(frozen=True)
class KL(Bottleneck):
    """Gaussian latents, held near the standard normal ones by their Kullback-Leibler divergence.

    Args:
        weight: Of the divergence, in nats a latent number, against the reconstruction's loss.
        std: Of the latents' noise, the same for all; None for a number that the encoder gives for each.
    """

    weight: float = 1e-4
    std: float | None = None

    def __post_init__(self) -> None:
        check(self, weight=NOT_NEGATIVE)
        if self.std is not None:
            check(self, std=POSITIVE)

    def outputs(self, channels: int) -> int:
        return channels if self.std is not None else 2 * channels

    def parts(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        if self.std is not None:
            return h, torch.full_like(h, 2 * math.log(self.std))
        mean, logvar = h.chunk(2, 1)
        return mean, 20 * torch.tanh(logvar / 20)

    def draw(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        mean, logvar = self.parts(h)
        z = mean + (logvar / 2).exp() * noise.normal(mean.shape, mean.dtype)
        divergence = (mean.square() + logvar.exp() - logvar - 1) / 2
        return z, self.weight * divergence.flatten(1).mean(1)

    def settle(self, h: Tensor) -> Tensor:
        return self.parts(h)[0]


@dataclass(frozen=True)
class FSQ(Bottleneck):
    """Latents of which every channel takes one of a few levels, -1 to 1; gradients pass the rounding unchanged.

    Args:
        levels: Of each channel.
    """

    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)

    def __post_init__(self) -> None:
        check(self, levels=Range(2, 256))
        if not self.levels:
            refuse(self, "levels", "a number of levels for each channel")

    def serves(self, channels: int) -> bool:
        return channels == len(self.levels)

    def level(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The bounded outputs in units of levels, and half the number of steps between the outer levels."""
        shape = (1, -1, *[1] * (h.ndim - 2))
        half = (torch.tensor(self.levels, dtype=h.dtype, device=h.device) - 1).view(shape) / 2
        return half * torch.tanh(h), half

    def draw(self, h: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        bounded, half = self.level(h)
        exact = (bounded + half).round() - half  # levels lie at -half, -half + 1, ..., half
        return (bounded + (exact - bounded).detach()) / half, h.new_zeros(len(h))

    def settle(self, h: Tensor) -> Tensor:
        bounded, half = self.level(h)
        return ((bounded + half).round() - half) / half
