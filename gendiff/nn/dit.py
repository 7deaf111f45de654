"""Diffusion transformer (Peebles & Xie 2023, arXiv:2212.09748) on pictures and on sequences.

A block is steered by the condition c (the time and what is asked) through six vectors, all zero at the start
("adaLN-zero"), so that the block begins as the identity:

    x <- x + g1 * Attention((1 + s1) * LN(x) + b1)
    x <- x + g2 * MLP((1 + s2) * LN(x) + b2)         with (b1, s1, g1, b2, s2, g2) = W silu(c)

Between the two, sites attend to the tokens of what is asked, if any: x <- x + CrossAttention(LN(x), tokens), zero at
the start too. A field of what is asked joins the patches, site by site.

With `refine`, convolutions at the resolution of the sites add to what the patches give, so that patches agree across
their borders (see `residual.Refiner`); they add zero at the start.

Pictures are cut into patches of p x p pixels, sequences into p frames; positions are rotary (relative), so a
trained network accepts other sizes. Without positions and `refine` a DiT commutes with every permutation of its
patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.errors import RequestError
from gendiff.nn.attention import Attention, CrossAttention, Rotary, grid_positions
from gendiff.nn.embeddings import About, Conditioning, Embeds, beside, pooled_field, share, whole
from gendiff.nn.residual import Refiner, zero

ROTARY = Rotary()


class AdaptiveBlock(nn.Module):
    """A transformer block steered by a condition (adaLN-zero).

    Args:
        width: of a token.
        heads: of the attention.
        condition: width of the condition.
        expand: width of the MLP over the width of a token.
        context: width of the tokens it attends to; 0 for none.
    """

    def __init__(
        self, width: int, heads: int, *, condition: int, expand: int = 4, dropout: float = 0.0, context: int = 0
    ) -> None:
        super().__init__()
        self.width = width
        self.attention = Attention(width, heads)
        self.cross = CrossAttention(width, heads, context) if context else None
        self.mlp = nn.Sequential(
            nn.Linear(width, expand * width),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            nn.Linear(expand * width, width),
        )
        self.steer = zero(nn.Linear(condition, 6 * width))

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        angles: Tensor | None = None,
        tokens: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Tokens x [B, N, width] and condition c [B, condition] to [B, N, width]; the rest as in `Attention`.

        Args:
            tokens: what is asked, [B, L, context], of a block with a context.
            known: bool [B, L], which of them are real.
        """
        b1, s1, g1, b2, s2, g2 = self.steer(F.silu(c))[:, None].chunk(6, dim=-1)
        h = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + s1) + b1
        x = x + g1 * self.attention(h, mask=mask, bias=bias, angles=angles)
        if self.cross is not None and tokens is not None:
            x = x + self.cross(F.layer_norm(x, (self.width,), eps=1e-6), tokens, known)
        h = F.layer_norm(x, (self.width,), eps=1e-6) * (1 + s2) + b2
        return x + g2 * self.mlp(h)


class DiT(nn.Module):
    """Diffusion transformer, f(x, t, mask=None, **cond) with the sites of x in the last axes.

    Args:
        dims: 1 for sequences [B, C, L], 2 for pictures [B, C, H, W].
        in_channels: of x.
        out_channels: of the result.
        patch: pixels or frames per token along each axis.
        width: of a token.
        depth: number of blocks.
        heads: of each attention.
        conditions: what may be asked, by name.
        positions: `Rotary()`, or None for a network that does not know where a patch lies.
        dropout: inside the MLPs.
        time_scale: multiplies the time before it is embedded.
        previous: whether it is told the prediction before, which joins the input (self-conditioning).
        refine: channels of the convolutions after the patches; 0 for none.
        jumps: whether it is told the time to jump to (few steps).
        guided: whether it is told a guidance scale.
    """

    def __init__(
        self,
        dims: int,
        *,
        in_channels: int,
        out_channels: int,
        patch: int = 2,
        width: int = 256,
        depth: int = 8,
        heads: int = 4,
        conditions: Mapping[str, Embeds] | None = None,
        positions: Rotary | None = ROTARY,
        dropout: float = 0.0,
        time_scale: float = 1.0,
        previous: bool = False,
        refine: int = 0,
        jumps: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.takes_previous, self.takes_to, self.takes_guidance = previous, jumps, guided
        if dims not in (1, 2):
            raise RequestError(f"DiT(dims={dims})", "1 (sequences) or 2 (pictures)")
        whole(
            "DiT",
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            in_channels=in_channels,
            out_channels=out_channels,
        )
        whole("DiT", least=0, refine=refine)
        share("DiT", dropout=dropout)
        self.dims, self.patch, self.positions, self.out_channels = dims, patch, positions, out_channels
        self.head_width, self.side_depth = width // heads, (depth + 1) // 2
        pixels = patch**dims
        self.conditioning = Conditioning(width, conditions, time_scale=time_scale, jumps=jumps, guided=guided)
        self.into = nn.Linear((1 + previous) * in_channels * pixels, width)
        self.field = nn.Linear(width, width) if self.conditioning.gives("field") else None
        context = width if self.conditioning.gives("tokens") else 0
        self.blocks = nn.ModuleList(
            AdaptiveBlock(width, heads, condition=width, dropout=dropout, context=context) for _ in range(depth)
        )
        self.width = width
        self.steer = zero(nn.Linear(width, 2 * width))
        self.out = zero(nn.Linear(width, out_channels * pixels))
        self.finer = nn.Linear(width, refine * pixels) if refine else None
        inputs = (1 + previous) * in_channels
        self.refiner = Refiner(dims, inputs, refine, out_channels, condition=width) if refine else None

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t, for the condition "embedded"."""
        return self.conditioning.embed(cond)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        control: Sequence[Tensor] | None = None,
        to: Tensor | None = None,
        guidance: Tensor | None = None,
        **cond: Any,
    ) -> Tensor:
        """x [B, C, *sites], t [B], mask bool [B, *sites], conditions by name, to [B, out_channels, *sites].

        `control`, of the shapes of `features`, is added to the results of the first blocks; `to` [B] is the time to
        jump to, `guidance` [B] a scale.
        """
        x = beside(x, previous) if self.takes_previous else x
        told = self._inputs(x, t, mask, cond, to, guidance)
        h = self._blocks(told, control)
        b, s = self.steer(F.silu(told.about.vector))[:, None].chunk(2, dim=-1)
        h = F.layer_norm(h, (self.width,), eps=1e-6) * (1 + s) + b
        y = self._placed(self.out(h), told.grid, x)
        if self.refiner is not None and self.finer is not None:
            seen = x if told.mask is None else x * told.mask[:, None]
            y = y + self.refiner(seen, self._placed(self.finer(h), told.grid, x), told.about.vector, told.mask)
        y = y if told.mask is None else y * told.mask[:, None]
        return y.to(x.dtype)

    def features(
        self,
        x: Tensor,
        t: Tensor,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        to: Tensor | None = None,
        guidance: Tensor | None = None,
        **cond: Any,
    ) -> list[Tensor]:
        """What the first half of the blocks makes of the same inputs, [B, N, width] each."""
        seen: list[Tensor] = []
        x = beside(x, previous) if self.takes_previous else x
        self._blocks(self._inputs(x, t, mask, cond, to, guidance), seen=seen)
        return seen[: self.side_depth]

    def as_side(self) -> nn.ModuleList:
        """Gives up what `features` does not use; a layer, zero at the start, for each of its tensors."""
        self.blocks = self.blocks[: self.side_depth]
        del self.steer, self.out, self.finer, self.refiner
        joints = nn.ModuleList(nn.Linear(self.width, self.width) for _ in self.blocks)
        return zero(joints)

    def _placed(self, y: Tensor, grid: list[int], like: Tensor) -> Tensor:
        """Patches [B, N, C * patch ** dims] put together and cut to the sites of `like`."""
        y = _paste(y, grid, self.patch)
        for axis, n in enumerate(like.shape[2:], start=2):
            y = y.narrow(axis, 0, n)
        return y

    def _inputs(
        self,
        x: Tensor,
        t: Tensor,
        mask: Tensor | None,
        cond: Mapping[str, Any],
        to: Tensor | None,
        guidance: Tensor | None,
    ) -> Told:
        """Patches as tokens, and what their blocks are told."""
        about = self.conditioning(t, cond, self.dims, to, guidance)
        sites, p = x.shape[2:], self.patch
        short = [-n % p for n in sites]
        if mask is None and any(short):
            mask = torch.ones_like(x[:, 0], dtype=torch.bool)
        real = None
        if mask is not None:
            x = x * mask[:, None]
            real = _cut(_extend(mask[:, None], short), p).any(-1)
        x = _extend(x, short)
        grid = [n // p for n in x.shape[2:]]
        h = self.into(_cut(x, p))
        angles = None
        if self.positions is not None:
            angles = self.positions.angles(grid_positions(*grid, like=x), self.head_width)
        if self.field is not None and about.field is not None:
            h = h + self.field(pooled_field(about.field.to(h.dtype), mask, sites, (p,) * self.dims).flatten(2).mT)
        return Told(h, about, mask, real, angles, grid)

    def _blocks(self, told: Told, control: Sequence[Tensor] | None = None, seen: list[Tensor] | None = None) -> Tensor:
        """The result of the last block; that of each is appended to `seen`."""
        h, about = told.h, told.about
        for i, block in enumerate(self.blocks):
            h = block(h, about.vector, mask=told.real, angles=told.angles, tokens=about.tokens, known=about.mask)
            if control is not None and i < len(control):
                h = h + control[i].to(h.dtype)
            if seen is not None:
                seen.append(h)
        return h


class Told(NamedTuple):
    """What the blocks of a DiT are told.

    Attributes:
        h: the patches, [B, N, width].
        about: the time and what is asked.
        mask: bool [B, *sites], which sites are real, or None for all.
        real: bool [B, N], which patches are, or None for all.
        angles: [N, d // 2], where they lie, or None.
        grid: patches along each axis.
    """

    h: Tensor
    about: About
    mask: Tensor | None
    real: Tensor | None
    angles: Tensor | None
    grid: list[int]


def _extend(x: Tensor, short: list[int]) -> Tensor:
    """Zeros appended to the site axes, `short` per axis."""
    return F.pad(x, [n for s in reversed(short) for n in (0, s)]) if any(short) else x


def _cut(x: Tensor, p: int) -> Tensor:
    """[B, C, *sites] to patches [B, N, C * p ** dims]."""
    if x.ndim == 3:
        return x.unflatten(2, (-1, p)).permute(0, 2, 1, 3).flatten(2)
    return x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _paste(y: Tensor, grid: list[int], p: int) -> Tensor:
    """Patches [B, N, C * p ** dims] to [B, C, *sites]: the inverse of `_cut`."""
    if len(grid) == 1:
        return y.unflatten(2, (-1, p)).permute(0, 2, 1, 3).flatten(2)
    y = y.unflatten(1, (grid[0], grid[1])).unflatten(3, (-1, p, p))
    return y.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
