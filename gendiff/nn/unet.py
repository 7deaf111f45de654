"""U-Net for pictures [B, C, H, W] and for sequences [B, C, L], with masks.

Residual blocks (see `residual`) keep the resolution (Dhariwal & Nichol 2021). Each level holds some of them on the way
down and as many on the way up, which also see the activations of the way down. A sequence is treated as a picture of
height one, so both share all code and the channels-last kernels. With a mask, padded sites are zeroed before every
convolution and left out of the norms: padding changes no real site. Where attention stands, sites also attend to the
tokens of what is asked; a field of what is asked joins the input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.errors import RequestError
from gendiff.nn.attention import Attention, CrossAttention
from gendiff.nn.embeddings import About, Conditioning, Embeds, beside, pooled_field, share, whole
from gendiff.nn.residual import MaskedGroupNorm, ResidualBlock, hide, zero


class GridAttention(nn.Module):
    """Residual self-attention between the sites of a picture or a sequence."""

    def __init__(self, channels: int, *, head_width: int = 32) -> None:
        super().__init__()
        self.norm = MaskedGroupNorm(channels)
        self.attention = Attention(channels, max(1, channels // head_width), zero=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, C, H, W], mask [B, 1, H, W], to [B, C, H, W]."""
        h = self.norm(x, mask).flatten(2).transpose(1, 2)
        real = None if mask is None else mask.flatten(1) > 0
        y = self.attention(h, mask=real).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + y.contiguous(memory_format=torch.channels_last)


class GridCrossAttention(nn.Module):
    """Residual attention of the sites of a picture or a sequence to tokens."""

    def __init__(self, channels: int, context: int, *, head_width: int = 32) -> None:
        super().__init__()
        self.norm = MaskedGroupNorm(channels)
        self.attention = CrossAttention(channels, max(1, channels // head_width), context)

    def forward(self, x: Tensor, mask: Tensor | None, about: About) -> Tensor:
        """x [B, C, H, W] to [B, C, H, W]."""
        assert about.tokens is not None
        h = self.norm(x, mask).flatten(2).transpose(1, 2)
        y = self.attention(h, about.tokens, about.mask).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + y.contiguous(memory_format=torch.channels_last)


class Stage(nn.Module):
    """A residual block and, where asked for, attention to other sites and to tokens."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        condition: int,
        kernel: tuple[int, int],
        dropout: float,
        attend: bool,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, condition=condition, kernel=kernel, dropout=dropout)
        self.attention = GridAttention(outputs) if attend else None
        self.cross = GridCrossAttention(outputs, context) if context else None

    def forward(self, x: Tensor, about: About, mask: Tensor | None) -> Tensor:
        """As `ResidualBlock`, with what is asked."""
        x = self.block(x, about.vector, mask)
        x = x if self.attention is None else self.attention(x, mask)
        return x if self.cross is None else self.cross(x, mask, about)


class UNet(nn.Module):
    """U-Net, f(x, t, mask=None, **cond) with the sites of x in the last axes. The output starts at zero.

    Any size is accepted: sites missing to a multiple of `stride` are padded, masked, and cut off again.

    Args:
        dims: 1 for sequences [B, C, L], 2 for pictures [B, C, H, W].
        in_channels: of x.
        out_channels: of the result.
        channels: of each level; every level halves the resolution of the one before.
        blocks: residual blocks of each level, on each way.
        attention: per level, whether its blocks attend over all sites.
        conditions: what may be asked, by name; tokens are attended to where `attention` is, and in the middle.
        patch: pixels or frames folded into channels at the door, along each axis; 2 halves the cost.
        dropout: inside the residual blocks.
        time_scale: multiplies the time before it is embedded.
        previous: whether it is told the prediction before, which joins the input (self-conditioning).
        jumps: whether it is told the time to jump to (few steps).
        guided: whether it is told a guidance scale.
    """

    def __init__(
        self,
        dims: int,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 128, 128),
        blocks: int = 2,
        attention: Sequence[bool] = (False, False, True),
        conditions: Mapping[str, Embeds] | None = None,
        patch: int = 1,
        dropout: float = 0.0,
        time_scale: float = 1.0,
        previous: bool = False,
        jumps: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.takes_previous, self.takes_to, self.takes_guidance = previous, jumps, guided
        if dims not in (1, 2):
            raise RequestError(f"UNet(dims={dims})", "1 (sequences) or 2 (pictures)")
        whole("UNet", blocks=blocks, patch=patch, in_channels=in_channels, out_channels=out_channels, channels=channels)
        share("UNet", dropout=dropout)
        if len(attention) != len(channels) or not channels or blocks < 1:
            raise RequestError(
                f"UNet(channels={tuple(channels)}, attention={tuple(attention)}, blocks={blocks})",
                "one entry of attention per level, at least one level and one block",
                f"attention={tuple(i == len(channels) - 1 for i in range(len(channels)))}",
            )
        self.dims, self.blocks, self.levels, self.channels = dims, blocks, len(channels), tuple(channels)
        self.patch = (patch if dims == 2 else 1, patch)
        self.halve = (2 if dims == 2 else 1, 2)
        kernel = (3 if dims == 2 else 1, 3)
        padding = (kernel[0] // 2, kernel[1] // 2)
        pixels = self.patch[0] * self.patch[1]
        width = 4 * channels[0]
        self.stride = patch * 2 ** (len(channels) - 1)
        self.conditioning = Conditioning(width, conditions, time_scale=time_scale, jumps=jumps, guided=guided)
        self.into = nn.Conv2d((1 + previous) * in_channels * pixels, channels[0], kernel, padding=padding)
        self.field = nn.Linear(width, channels[0]) if self.conditioning.gives("field") else None
        context = width if self.conditioning.gives("tokens") else 0

        def stage(inputs: int, outputs: int, attend: bool, cross: bool = False) -> Stage:
            return Stage(
                inputs, outputs, condition=width, kernel=kernel, dropout=dropout, attend=attend,
                context=context if attend or cross else 0,
            )  # fmt: skip

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        now = channels[0]
        for level, (count, attend) in enumerate(zip(channels, attention, strict=True)):
            if level:
                self.shrink.append(nn.Conv2d(now, count, kernel, stride=self.halve, padding=padding))
                self.grow.append(nn.Conv2d(count, now, 1))
            self.down.extend(stage(count, count, attend) for _ in range(blocks))
            self.up.extend(stage(2 * count, count, attend) for _ in range(blocks))
            now = count
        self.middle = nn.ModuleList((stage(now, now, attention[-1], True), stage(now, now, False)))
        self.norm = MaskedGroupNorm(channels[0])
        self.out = nn.Conv2d(channels[0], out_channels * pixels, kernel, padding=padding)
        zero(self.out)

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

        `control`, of the shapes of `features`, is added to what the way up sees; `to` [B] is the time to jump to,
        `guidance` [B] a scale.
        """
        inputs, about, real, field = self._inputs(x, t, mask, previous, cond, to, guidance)
        height, width = (1, *x.shape[2:]) if self.dims == 1 else x.shape[2:]
        y = self._run(hide(inputs, real), about, real, field, control)[:, :, :height, :width]
        y = hide(y, real if real is None else real[:, :, :height, :width])
        return (y[:, :, 0] if self.dims == 1 else y).to(x.dtype)

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
        """What the way up sees, of the same inputs: each stage of the way down, then the middle, [B, C, H, W] each."""
        inputs, about, real, field = self._inputs(x, t, mask, previous, cond, to, guidance)
        h, seen, _ = self._down(hide(inputs, real), about, real, field)
        return [*(stage for level in seen for stage in level), h]

    def as_side(self) -> nn.ModuleList:
        """Gives up what `features` does not use; a layer, zero at the start, for each of its tensors."""
        del self.up, self.grow, self.norm, self.out
        levels = [count for count in self.channels for _ in range(self.blocks)]
        joints = nn.ModuleList(nn.Conv2d(count, count, 1) for count in (*levels, self.channels[-1]))
        for joint in joints:
            zero(joint)
        return joints.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def _inputs(
        self,
        x: Tensor,
        t: Tensor,
        mask: Tensor | None,
        previous: Tensor | None,
        cond: Mapping[str, Any],
        to: Tensor | None,
        guidance: Tensor | None,
    ) -> tuple[Tensor, About, Tensor | None, Tensor | None]:
        """A picture [B, C, H, W] of sizes that are multiples of the stride, what the network is told, which pixels are
        real [B, 1, H, W], and the field [B, C, H / p, W / q].
        """
        x = beside(x, previous) if self.takes_previous else x
        about = self.conditioning(t, cond, self.dims, to, guidance)
        about = about._replace(vector=F.silu(about.vector))
        dtype, field = x.dtype, None
        if self.field is not None and about.field is not None:
            sites, patch = x.shape[2:], self.patch[2 - self.dims :]
            stride = [self.stride] * self.dims
            pooled = pooled_field(about.field, mask, sites, patch, stride)
            field = self.field(pooled.movedim(1, -1)).movedim(-1, 1)
            field = field[:, :, None] if self.dims == 1 else field
        if self.dims == 1:
            x, mask = x[:, :, None], None if mask is None else mask[:, None]
        (height, width), real = x.shape[2:], None if mask is None else mask[:, None].to(dtype)
        short = (-height % (self.stride if self.dims == 2 else 1), -width % self.stride)
        if any(short):
            real = torch.ones_like(x[:, :1]) if real is None else real
            x, real = F.pad(x, (0, short[1], 0, short[0])), F.pad(real, (0, short[1], 0, short[0]))
        return x, about, real, field

    def _down(
        self, x: Tensor, c: About, mask: Tensor | None, field: Tensor | None
    ) -> tuple[Tensor, list[list[Tensor]], list[Tensor | None]]:
        """The way down and the middle: the middle's result, by level the stages' results, and the masks."""
        masks = [mask if mask is None else mask[:, :, :: self.patch[0], :: self.patch[1]]]
        h = self.into(_fold(x, self.patch).contiguous(memory_format=torch.channels_last))
        h = h if field is None else h + field.to(h.dtype)
        seen: list[list[Tensor]] = []
        for level in range(self.levels):
            if level:
                above = masks[-1]
                h = self.shrink[level - 1](hide(h, above))
                masks.append(above if above is None else above[:, :, :: self.halve[0], :: self.halve[1]])
            seen.append([])
            for stage in self.down[level * self.blocks : (level + 1) * self.blocks]:
                h = stage(h, c, masks[-1])
                seen[-1].append(h)
        for stage in self.middle:
            h = stage(h, c, masks[-1])
        return h, seen, masks

    def _run(
        self,
        x: Tensor,
        c: About,
        mask: Tensor | None,
        field: Tensor | None,
        control: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The network on pictures whose sizes are multiples of the stride."""
        h, seen, masks = self._down(x, c, mask, field)
        if control is not None:
            more = iter(control)
            seen = [[stage + next(more).to(stage.dtype) for stage in level] for level in seen]
            h = h + next(more).to(h.dtype)
        for level in reversed(range(self.levels)):
            for stage in self.up[level * self.blocks : (level + 1) * self.blocks]:
                h = stage(torch.cat((h, seen[level].pop()), dim=1), c, masks[level])
            if level:
                h = self.grow[level - 1](h)
                h = h.repeat_interleave(2, 3) if self.dims == 1 else F.interpolate(h, scale_factor=2.0)
        h = hide(F.silu(self.norm(h, masks[0])), masks[0])
        return _unfold(self.out(h), self.patch)


def _fold(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """[B, C, H, W] to [B, C p q, H / p, W / q]."""
    if patch == (1, 1):
        return x
    x = x.unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
    return x.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _unfold(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """The inverse of `_fold`."""
    if patch == (1, 1):
        return x
    x = x.unflatten(1, (-1, patch[0], patch[1])).permute(0, 1, 4, 2, 5, 3)
    return x.flatten(4).flatten(2, 3)
