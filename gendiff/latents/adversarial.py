r"""An adversarial loss: a codec draws details that a network which tells reconstructions y from states x believes.

    D's own    (max(0, 1 - D(x)) + max(0, 1 + D(y))) / 2, a mean over patches      hinge, Lim & Ye 2017
    codec's    -w lambda D(y),   lambda = |grad_L rec| / (|grad_L D(y)| + 1e-6)    Esser et al. 2021, eqs. 6 and 7

rec is the loss of the reconstruction, L the last layer of the decoder: both losses move it alike where w is 1. D looks
at patches (Isola et al. 2017): it is convolutional, its norms act on each site by itself, and no sample of a batch
changes what it says of another.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.errors import NOT_NEGATIVE, POSITIVE, Range, at_least, check
from gendiff.nn.attention import RMSNorm

LARGEST = 1e4
"""Of lambda."""


@dataclass(frozen=True)
class Adversarial:
    """How a codec is trained against a discriminator of patches.

    Args:
        weight: Of its loss, beside the adaptive one; 0 for none.
        start: The step from which it counts, and the discriminator trains.
        width: Channels of the discriminator's first layer; each further one has twice as many, 8 times at most.
        layers: That halve the sites.
        lr: Of the discriminator's own AdamW, which warms up and falls as the codec's does.
        betas: Of that.
    """

    weight: float = 0.0
    start: int = 1000
    width: int = 64
    layers: int = 3
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.9)

    def __post_init__(self) -> None:
        check(
            self, weight=NOT_NEGATIVE, start=at_least(0), width=at_least(1), layers=at_least(1), lr=POSITIVE,
            betas=Range(0, 1, "[)"),
        )  # fmt: skip

    def discriminator(self, dims: int, channels: int, seed: int) -> PatchDiscriminator | None:
        """A new discriminator of states with so many axes of sites and channels, None where it counts for nothing. It
        is made with a seed of its own, and leaves the generators as they were.
        """
        if not self.weight:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return PatchDiscriminator(dims, channels, self.width, self.layers)


class PatchDiscriminator(nn.Module):
    """Says of each patch of a state how real it looks.

    Args:
        dims: Axes of sites, 1 or 2.
        channels: Of a state.
        width: Channels of the first layer.
        layers: That halve the sites.
    """

    def __init__(self, dims: int, channels: int, width: int, layers: int) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d)[dims - 1]
        widths = [channels, *(width * min(2**k, 8) for k in range(layers))]
        self.halving = nn.ModuleList(
            convolution(fine, coarse, 3, stride=2, padding=1) for fine, coarse in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(RMSNorm(coarse) for coarse in widths[2:])
        self.wide = convolution(widths[-1], widths[-1], 3, padding=1)
        self.last = convolution(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """States [B, C, *sites] to [B, *sites / 2^layers], rounded up; positive is real."""
        h = F.leaky_relu(self.halving[0](x), 0.2)
        for halve, norm in zip(list(self.halving)[1:], self.norms, strict=True):
            h = F.leaky_relu(norm(halve(h).movedim(1, -1)).movedim(-1, 1), 0.2)
        return self.last(F.leaky_relu(self.wide(h), 0.2))[:, 0]


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss of what it says of states and of reconstructions, [B, ...] each: [B]."""
    return (F.relu(1 - real).flatten(1).mean(1) + F.relu(1 + made).flatten(1).mean(1)) / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, layer: Tensor) -> Tensor:
    """lambda, without a gradient, of two losses (scalars), by their gradients in the weights of the last layer."""
    a, b = (torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial))
    return (a / (b + 1e-6)).clamp_max(LARGEST).detach()
