r"""A convolutional autoencoder of grids, residual to a linear one.

    h = settle(A x + e(x))          A [latent, patch], e a network that starts at zero
    x = B h + d(h)                  B [patch, latent], d likewise

x is cut into patches of `stride` sites along each axis. A and B may be set to the principal components of patches
(`begin`), so that training starts from the best linear codec of its size; e and d are residual convolutions whose ways
down and up have shortcuts by folding sites into channels (Chen et al. 2025, DC-AE). Norms act on each site by itself
and there is no attention: what a latent says reaches `margin` latents far, and a picture may be coded in tiles.

Its latents are whitened after training (see `whitening`), inside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.errors import RequestError
from gendiff.latents.bottlenecks import KL, Bottleneck
from gendiff.latents.whitening import Whitened
from gendiff.nn.attention import RMSNorm
from gendiff.nn.embeddings import whole
from gendiff.random import Noise


def fold(x: Tensor, by: int) -> Tensor:
    """Sites into channels: [B, C, *sites] to [B, C by^dims, *sites / by]; the place in a patch varies fastest."""
    for axis in range(2, x.ndim):  # the folded place goes behind the channels
        x = x.unflatten(axis, (-1, by)).movedim(axis + 1, 2).flatten(1, 2)
    return x


def unfold(x: Tensor, by: int) -> Tensor:
    """`fold` undone."""
    for axis in reversed(range(2, x.ndim)):
        x = x.unflatten(1, (-1, by)).movedim(2, axis + 1).flatten(axis, axis + 1)
    return x


def convolution(dims: int, inputs: int, outputs: int, kernel: int = 3, *, zero: bool = False) -> nn.Conv1d | nn.Conv2d:
    """A convolution that keeps the number of sites."""
    made = (nn.Conv1d, nn.Conv2d)[dims - 1](inputs, outputs, kernel, padding=kernel // 2)
    if zero:
        nn.init.zeros_(made.weight)
        assert made.bias is not None
        nn.init.zeros_(made.bias)
    return made


class Residual(nn.Module):
    """x + W2 silu(conv(norm(x))), the norm of each site by itself; the identity at the start."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.wide = convolution(dims, width, width)
        self.back = convolution(dims, width, width, 1, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, *sites] to the same."""
        return x + self.back(F.silu(self.wide(self.norm(x.movedim(1, -1)).movedim(-1, 1))))


class Down(nn.Module):
    """Half the sites: a convolution of what is folded, beside the mean of groups of its channels."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.folded = inputs * 2**dims
        self.outputs = outputs if self.folded % outputs == 0 else 0  # without whole groups there is no shortcut
        self.conv = convolution(dims, self.folded, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, *sites] to [B, outputs, *sites / 2]."""
        x = fold(x, 2)
        y = self.conv(x)
        return y + x.unflatten(1, (self.outputs, -1)).mean(2) if self.outputs else y


class Up(nn.Module):
    """Twice the sites: a convolution that is unfolded, beside the channels repeated."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        unfolded = outputs * 2**dims
        self.repeat = unfolded // inputs if unfolded % inputs == 0 else 0
        self.conv = convolution(dims, inputs, unfolded, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, *sites] to [B, outputs, 2 sites]."""
        y = self.conv(x)
        return unfold(y + x.repeat_interleave(self.repeat, 1) if self.repeat else y, 2)


class Autoencoder(Whitened):
    """A codec's network.

    Args:
        dims: 1 for sequences [B, C, L], 2 for pictures [B, C, H, W].
        channels: of a state.
        latent: channels of a latent.
        stride: sites to a latent along each axis: a power of 2 times the finest level's patch.
        widths: channels of each level, finest first; every level halves the sites, the last has a latent's.
        blocks: residual blocks of each level of the encoder.
        deep: the same of the decoder, which has more to make up.
        bottleneck: between the two.
    """

    analysis: nn.Conv1d | nn.Conv2d
    synthesis: nn.Conv1d | nn.Conv2d

    def __init__(
        self,
        dims: int,
        *,
        channels: int,
        latent: int = 8,
        stride: int = 8,
        widths: Sequence[int] = (96, 160),
        blocks: int = 2,
        deep: int = 3,
        bottleneck: Bottleneck | None = None,
    ) -> None:
        if dims not in (1, 2):
            raise RequestError(f"Autoencoder(dims={dims})", "1 (sequences) or 2 (pictures)")
        whole("Autoencoder", channels=channels, latent=latent, stride=stride, widths=widths, blocks=blocks, deep=deep)
        levels = len(widths) - 1
        if not widths or stride % 2**levels:
            raise RequestError(
                f"Autoencoder(stride={stride}, widths={tuple(widths)})",
                f"a multiple of {2 ** max(levels, 0)} as stride: every level but the first halves the sites",
                f"widths={tuple(widths)[: max(1, stride.bit_length() - 1)]}",
            )
        super().__init__(dims, latent, stride)
        self.patch = stride // 2**levels
        self.bottleneck = bottleneck or KL()
        if not self.bottleneck.serves(latent):
            raise RequestError(f"{self.bottleneck!r} before {latent} latent channels", "one level for each", "latent=6")
        outputs, inner = self.bottleneck.outputs(latent), channels * self.patch**dims
        self.analysis = convolution(dims, channels * stride**dims, latent, 1)
        self.synthesis = convolution(dims, latent, channels * stride**dims, 1)

        def stack(width: int, count: int) -> Iterator[nn.Module]:
            return (Residual(dims, width) for _ in range(count))

        down: list[nn.Module] = [convolution(dims, inner, widths[0], 1), *stack(widths[0], blocks)]
        for fine, coarse in itertools.pairwise(widths):
            down += [Down(dims, fine, coarse), *stack(coarse, blocks)]
        up: list[nn.Module] = [convolution(dims, latent, widths[-1], 1), *stack(widths[-1], deep)]
        for coarse, fine in itertools.pairwise(reversed(widths)):
            up += [Up(dims, coarse, fine), *stack(fine, deep)]
        self.down = nn.Sequential(*down, convolution(dims, widths[-1], outputs, 1, zero=True))
        self.up = nn.Sequential(*up, convolution(dims, widths[0], inner, 1, zero=True))
        # A block reaches one site far: on level k, counted from the finest, that is patch 2^k sites of x.
        self.margin = math.ceil(deep * self.patch * (2 ** (levels + 1) - 1) / stride)

    def raw(self, x: Tensor) -> Tensor:
        """What the encoder gives the bottleneck, [B, outputs, *latent sites], of x whose sites fit the stride."""
        linear, rest = self.analysis(fold(x, self.stride)), self.down(fold(x, self.patch))
        missing = rest.shape[1] - linear.shape[1]  # of the log-variances
        return rest + (torch.cat([linear, torch.zeros_like(rest[:, :missing])], 1) if missing else linear)

    def expand(self, h: Tensor) -> Tensor:
        """What the decoder makes of latents as the bottleneck gave them, [B, C, *sites]."""
        return unfold(self.synthesis(h), self.stride) + unfold(self.up(h), self.patch)

    def settled(self, x: Tensor) -> Tensor:
        """What the bottleneck makes of states [B, C, *sites] whose sites fit the stride, without noise."""
        return self.bottleneck.settle(self.raw(x))

    def forward(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """In training: x [B, C, *sites] to its reconstruction, and the bottleneck's loss [B]."""
        z, loss = self.bottleneck.draw(self.raw(x), noise)
        return self.expand(z), loss

    @property
    def last(self) -> Tensor:
        """The weights of the decoder's last layer."""
        return self.up[-1].weight  # type: ignore[return-value]

    def patches(self, x: Tensor) -> Tensor:
        """The patches of x [B, C, *sites], end to end: [n, channels stride^dims]."""
        return fold(self.padded(x), self.stride).movedim(1, -1).flatten(0, -2)

    @torch.no_grad()
    def begin(self, patches: Tensor) -> None:
        """Sets the linear parts to the principal components of `patches`, with latents of mean 0 and deviation 1."""
        wide = patches.double()
        mean = wide.mean(0)
        scatter = (wide - mean).T @ (wide - mean) / len(wide)
        values, vectors = torch.linalg.eigh(scatter)
        kept = values.flip(0)[: self.latent].clamp_min(1e-12)
        basis = torch.zeros(len(mean), self.latent, dtype=mean.dtype)  # there may be fewer components than latents
        basis[:, : len(kept)] = vectors.flip(1)[:, : self.latent]
        scale = torch.ones(self.latent, dtype=mean.dtype)
        scale[: len(kept)] = kept.sqrt()
        ones = [1] * self.dims
        assert self.analysis.bias is not None
        assert self.synthesis.bias is not None
        self.analysis.weight.copy_((basis / scale).T.reshape(self.latent, -1, *ones))
        self.analysis.bias.copy_(-(mean @ (basis / scale)))
        self.synthesis.weight.copy_((basis * scale).reshape(-1, self.latent, *ones))
        self.synthesis.bias.copy_(mean)
