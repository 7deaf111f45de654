"""Residual blocks of convolutions on pictures [B, C, H, W] and, as pictures of height one, on sequences; with masks.

A block is steered by the condition c (the time and what is asked),

    h = conv(silu(norm(x))),    x <- skip(x) + conv0(silu((1 + s) * norm(h) + b)),    (s, b) = W silu(c),

(Dhariwal & Nichol 2021; conv0 starts at zero). With a mask, padded sites are zeroed before every convolution and left
out of the norms: padding changes no real site.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

Layer = TypeVar("Layer", bound=nn.Module)


def _groups(channels: int) -> int:
    """The most groups of at least eight channels."""
    return next(g for g in range(max(1, channels // 8), 0, -1) if channels % g == 0)


class MaskedGroupNorm(nn.Module):
    """Group norm whose statistics see real sites only, with an optional scale and shift per sample."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = _groups(channels), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor | None = None, steer: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], mask [B, 1, H, W] in x's dtype, steer [B, 2 C] (scale, then shift), to [B, C, H, W]."""
        scale = shift = None
        if steer is not None:
            scale, shift = steer[:, :, None, None].chunk(2, dim=1)
        high = x.to(torch.promote_types(x.dtype, torch.float32))
        if mask is None:
            if not torch.compiler.is_compiling() and unpack_dual(high).tangent is not None:
                high = high.contiguous()  # torch's forward derivative of a group norm wants rows
            y = F.group_norm(high, self.groups, self.weight.to(high.dtype), self.bias.to(high.dtype), self.eps)
            return (y if scale is None or shift is None else torch.addcmul(shift.to(y.dtype), y, 1 + scale)).to(x.dtype)
        m = mask.to(high.dtype)[:, None]
        h = high.unflatten(1, (self.groups, -1))
        count = (m.sum((2, 3, 4), keepdim=True) * h.shape[2]).clamp_min(1)
        mean = (h * m).sum((2, 3, 4), keepdim=True) / count
        variance = ((h - mean) * m).square().sum((2, 3, 4), keepdim=True) / count
        rate = torch.rsqrt(variance + self.eps)
        a = rate.expand(-1, -1, h.shape[2], -1, -1).flatten(1, 2) * self.weight[:, None, None]
        b = self.bias[:, None, None] - mean.expand(-1, -1, h.shape[2], -1, -1).flatten(1, 2) * a
        if scale is not None and shift is not None:
            a, b = a * (1 + scale), b * (1 + scale) + shift
        return torch.addcmul(b, high, a).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two convolutions steered by the condition; the second starts at zero.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        condition: width of the condition.
        kernel: (3, 3) for pictures, (1, 3) for sequences.
    """

    def __init__(
        self, inputs: int, outputs: int, *, condition: int, kernel: tuple[int, int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.norm1 = MaskedGroupNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, padding=padding)
        self.steer = nn.Linear(condition, 2 * outputs)
        self.norm2 = MaskedGroupNorm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel, padding=padding)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        zero(self.conv2)

    def forward(self, x: Tensor, c: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, inputs, H, W], c [B, condition] after its silu, mask [B, 1, H, W], to [B, outputs, H, W]."""
        h = self.conv1(hide(F.silu(self.norm1(x, mask)), mask))
        h = F.silu(self.norm2(h, mask, self.steer(c)))
        return self.skip(x) + self.conv2(hide(self.dropout(h), mask))


class Refiner(nn.Module):
    """Residual blocks at the resolution of the sites, which correct a result made of coarser features.

        h = conv(x) + y,    h <- block(h, c) so many times,    conv0(silu(norm(h)))

    What a transformer says of patches ends at their borders; here neighbours across a border see each other, and the
    noisy input itself (cf. the last convolution of U-ViT, Bao et al. 2023, arXiv:2209.12152). conv0 starts at zero.

    Args:
        dims: 1 for sequences, 2 for pictures.
        inputs: channels of x.
        channels: of y and of the blocks.
        outputs: channels of the result.
        condition: width of the condition.
        blocks: how many.
    """

    def __init__(self, dims: int, inputs: int, channels: int, outputs: int, *, condition: int, blocks: int = 2) -> None:
        super().__init__()
        kernel, padding = ((1, 3), (0, 1)) if dims == 1 else ((3, 3), (1, 1))
        self.dims = dims
        self.into = nn.Conv2d(inputs, channels, kernel, padding=padding)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, channels, condition=condition, kernel=kernel) for _ in range(blocks)
        )
        self.norm = MaskedGroupNorm(channels)
        self.out = zero(nn.Conv2d(channels, outputs, kernel, padding=padding))

    def forward(self, x: Tensor, y: Tensor, c: Tensor, mask: Tensor | None = None) -> Tensor:
        """x [B, inputs, *sites], y [B, channels, *sites], c [B, condition], mask bool [B, *sites], to
        [B, outputs, *sites]; x is zero where the mask is not.
        """
        if self.dims == 1:
            x, y, mask = x[:, :, None], y[:, :, None], None if mask is None else mask[:, None]
        real, c = None if mask is None else mask[:, None].to(x.dtype), F.silu(c)
        h = self.into(x.contiguous(memory_format=torch.channels_last)) + y
        for block in self.blocks:
            h = block(h, c, real)
        h = self.out(hide(F.silu(self.norm(h, real)), real))
        return h[:, :, 0] if self.dims == 1 else h


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero at padded sites; x's dtype is kept."""
    return x if mask is None else x * mask.to(x.dtype)


def zero(layer: Layer) -> Layer:
    """The layer, starting at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
