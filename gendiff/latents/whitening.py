r"""The network of a codec, whatever it is made of, with latents of mean 0 and covariance 1 on both of its sides.

    encode   z = W (h(x) - m)              h what `settled` makes of states
    decode   x = g(W^-1 z + m)             g what `expand` makes of it

m and W W^T = Cov(h)^-1 are measured by `whiten`, once h and g stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Whitened(nn.Module):
    """A codec's network: `settled` and `expand` of a subclass, between which latents are whitened.

    Args:
        dims: Axes of sites.
        latent: Channels of a latent.
        stride: Sites to a latent along each axis.

    Attributes:
        margin: How many latents far the decoder looks beyond those of a tile; None where it looks at all of them.
    """

    mean: Tensor
    whitening: Tensor
    colouring: Tensor
    margin: int | None = None

    def __init__(self, dims: int, latent: int, stride: int) -> None:
        super().__init__()
        self.dims, self.latent, self.stride = dims, latent, stride
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("whitening", torch.eye(latent))
        self.register_buffer("colouring", torch.eye(latent))

    def settled(self, x: Tensor) -> Tensor:
        """Latents h [B, latent, *latent sites], not whitened, of states x [B, C, *sites] whose sites fit the stride."""
        raise NotImplementedError

    def expand(self, h: Tensor) -> Tensor:
        """What the decoder makes of latents as `settled` gives them, [B, C, *sites]."""
        raise NotImplementedError

    def latent_sites(self, sites: Sequence[int]) -> tuple[int, ...]:
        """The sites of latents of states with these."""
        return tuple(-(-n // self.stride) for n in sites)

    def padded(self, x: Tensor) -> Tensor:
        """x [B, C, *sites] with its last sites repeated up to a multiple of the stride."""
        short = [-n % self.stride for n in x.shape[2:]]
        pad = [n for missing in reversed(short) for n in (0, missing)]
        return F.pad(x, pad, mode="replicate") if any(short) else x

    def encode(self, x: Tensor) -> Tensor:
        """States [B, C, *sites] to whitened latents [B, latent, *sites / stride], rounded up."""
        return self.mixed(self.whitening, self.settled(self.padded(x)) - self.column(self.mean))

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Whitened latents to states [B, C, *sites], a multiple of the stride.

        Args:
            z: [B, latent, *latent sites].
            tile: Latents along each axis to decode at a time, beside a margin; the result is that of the whole.
        """
        h = self.mixed(self.colouring, z) + self.column(self.mean)
        if tile is None or self.margin is None:
            return self.expand(h)
        return tiled(self.expand, h, tile, self.margin, self.stride)

    def column(self, values: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * self.dims)

    def mixed(self, matrix: Tensor, h: Tensor) -> Tensor:
        """A matrix on the channels of every site."""
        return torch.einsum("ij,bj...->bi...", matrix.to(h.dtype), h)

    @torch.no_grad()
    def whiten(self, latents: Iterable[Tensor]) -> None:
        """Measures mean and covariance of latents [B, latent, *sites] as `encode` gives them now, and from then on
        `encode` gives them with mean 0 and covariance 1, and `decode` takes such.
        """
        self.set_moments(*moments(latents))

    @torch.no_grad()
    def set_moments(self, mean: Tensor, covariance: Tensor) -> None:
        """`whiten` by the mean and the covariance of latents as `encode` gives them now, float64 on the host; of the
        covariance the lower triangle is read.
        """
        values, vectors = torch.linalg.eigh(covariance)
        deviation = values.clamp_min(1e-8 * float(values.max())).sqrt()
        old = self.colouring.double().cpu()
        colour, white = vectors * deviation @ vectors.T, vectors / deviation @ vectors.T
        self.mean += (old @ mean).to(self.mean)
        self.colouring.copy_(old @ colour)
        self.whitening.copy_(white @ self.whitening.double().cpu())


def moments(latents: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean [latent] and covariance [latent, latent] over all sites of latents [B, latent, *sites], in float64."""
    count, total, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for z in latents:
        rows = z.movedim(1, -1).flatten(0, -2).double().cpu()
        count, total, square = count + len(rows), total + rows.sum(0), square + rows.T @ rows
    mean = total / count
    return mean, square / count - torch.outer(mean, mean)


def tiled(f: Callable[[Tensor], Tensor], h: Tensor, tile: int, margin: int, stride: int) -> Tensor:
    """f(h) [B, C, *stride sites], from tiles of so many sites beside a margin, equal to the whole where f reaches no
    further than the margin.
    """
    sites = h.shape[2:]
    out: Tensor | None = None
    for corner in itertools.product(*(range(0, n, tile) for n in sites)):
        ends = [min(a + tile, n) for a, n in zip(corner, sites, strict=True)]
        first = [max(a - margin, 0) for a in corner]
        last = [min(b + margin, n) for b, n in zip(ends, sites, strict=True)]
        part = f(h[(..., *(slice(a, b) for a, b in zip(first, last, strict=True)))])
        if out is None:
            out = part.new_empty(*part.shape[:2], *(stride * n for n in sites))
        inner = [slice(stride * (a - c), stride * (b - c)) for a, b, c in zip(corner, ends, first, strict=True)]
        out[(..., *(slice(stride * a, stride * b) for a, b in zip(corner, ends, strict=True)))] = part[(..., *inner)]
    assert out is not None
    return out
