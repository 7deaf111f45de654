"""Attention between sites, with masks, pair biases and relative positions.

    y_i = W_o sum_j softmax_j( q_i . k_j / sqrt(d) + bias_ij + log mask_j ) v_j

q and k pass through an RMS norm of their own (QK norm), which bounds the logits and keeps bfloat16 training
stable (Henry et al. 2020, Dehghani et al. 2023). `Rotary` turns q and k by angles proportional to a site's
coordinates, so that logits depend on coordinate differences only (Su et al. 2021, eq. 15); with several axes the
head's width is divided among them. Learned positions are tokens' business: add them to x.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.errors import RequestError


@dataclass(frozen=True)
class Rotary:
    """Rotary positions: wavelengths from 2 pi to 2 pi `base` sites."""

    base: float = 100.0

    def angles(self, positions: Tensor, width: int) -> Tensor:
        """Coordinates [..., N, axes] and the width of a head to angles [..., N, width // 2]."""
        axes = positions.shape[-1]
        if width % (2 * axes):
            raise RequestError(f"a head of width {width} for {axes} axes", f"a multiple of {2 * axes}")
        count = width // (2 * axes)
        k = torch.arange(count, device=positions.device, dtype=positions.dtype)
        return (positions[..., None] * self.base ** (-k / count)).flatten(-2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the halves of x [..., N, d] into one another by angles [..., N, d // 2]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def grid_positions(*sizes: int, like: Tensor) -> Tensor:
    """Integer coordinates of a grid, [prod(sizes), len(sizes)], row-major."""
    axes = [torch.arange(n, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)) for n in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


class RMSNorm(nn.Module):
    """x / rms(x) over the last axis, times a learned weight; the mean square is taken in float32 or better."""

    def __init__(self, width: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width], in x's dtype."""
        high = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(high.square().mean(-1, keepdim=True) + self.eps)
        return (high * scale * self.weight).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, over the last two axes; a bool bias says what may be seen.

    Up to 128 sites on a CPU the formula is written out: there the fused kernel costs more than it saves.
    """
    if q.device.type != "cpu" or k.shape[-2] > 128:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else logits + bias
    return logits.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention over the sites of each sample.

    Args:
        width: of the input and the output; a multiple of heads.
        heads: number of heads.
        zero: start with a zero output, so that a residual branch begins as the identity.
    """

    def __init__(self, width: int, heads: int, *, zero: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise RequestError(f"Attention(width={width}, heads={heads})", "a width that is a multiple of heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.out = nn.Linear(width, width)
        if zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, bias: Tensor | None = None, angles: Tensor | None = None
    ) -> Tensor:
        """One round of attention.

        Args:
            x: [B, N, width].
            mask: bool [B, N], True where real. Padded sites are never attended to; their own output is 0.
            bias: [B, heads, N, N] (or broadcastable to it), added to the logits.
            angles: [N, d // 2] or [B, N, d // 2] from `Rotary.angles`, with d = width / heads.

        Returns:
            [B, N, width].
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            angles = angles[:, None] if angles.ndim == 3 else angles
            q, k = rotate(q, angles), rotate(k, angles)
        logits: Tensor | None = None if bias is None else bias.to(q.dtype)
        if mask is not None:
            # a sample without any real site attends everywhere: its output is zeroed below and never NaN
            allowed = (mask | ~mask.any(-1, keepdim=True))[:, None, None, :]
            logits = allowed if logits is None else logits.masked_fill(~allowed, float("-inf"))
        y = attend(q, k, v, logits)
        y = self.out(y.transpose(1, 2).flatten(-2))
        return y if mask is None else y * mask[..., None]


class CrossAttention(nn.Module):
    """Multi-head attention of sites to tokens; its output starts at zero.

    Args:
        width: of the sites; a multiple of heads.
        heads: number of heads.
        context: width of the tokens.
    """

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        if width % heads:
            raise RequestError(f"CrossAttention(width={width}, heads={heads})", "a width that is a multiple of heads")
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context, 2 * width)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sites x [B, N, width], tokens [B, L, context] and their mask bool [B, L] to [B, N, width].

        Tokens outside of the mask are not attended to; a sample has one inside at least.
        """
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens.to(x.dtype)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        allowed = None if mask is None else mask[:, None, None, :]
        y = attend(self.q_norm(q), self.k_norm(k), v, allowed)
        return self.out(y.transpose(1, 2).flatten(-2))
