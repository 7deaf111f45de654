r"""What was measured of a clean state: y = A x0 + noise.

A linear operator and its adjoint obey <A x, y> = <x, A^T y>, sample by sample. Axes count from the batch axis, 0.

    Mask(keep)             A x = keep x                                   its own adjoint
    Average(factor, axes)  means over blocks of `factor` along each axis  A^T repeats and divides
    Blur(kernel, axes)     convolution along each axis, zeros outside     A^T convolves with the kernel reversed
    Matrix(rows)           A x = rows vec(x)                              A^T y = rows^T y
    Differences(keep)      the kept sites less their mean: a shape wherever it stands; its own adjoint
    Chain(f, g, ...)       f first                                        adjoints in reverse
    Magnitudes(size, hop)  |STFT|, not linear: for DPS alone
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.errors import GendiffError
from gendiff.spaces import broadcast_mask


class Operator(ABC):
    """Anything that can be measured, differentiable in x."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """y [B, ...] of x [B, ...]."""


class LinearOperator(Operator):
    """A linear operator."""

    @abstractmethod
    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        """A^T y, in the shape of `like` [B, ...]."""


@dataclass(frozen=True)
class Mask(LinearOperator):
    """The values where `keep` is True, zeros elsewhere.

    Args:
        keep: bool [B or 1, *sites], or what broadcasts to the state.
    """

    keep: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(broadcast_mask(self.keep, x), x, 0.0)  # type: ignore[arg-type]

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        return self(y)


@dataclass(frozen=True)
class Differences(LinearOperator):
    """The kept sites [B, N, D] less their mean, zeros elsewhere: all that is known of a shape without a place.

    Args:
        keep: bool [B or 1, N].
    """

    keep: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        keep = self.keep[..., None]
        n = keep.sum(1, keepdim=True).clamp_min(1)
        return torch.where(keep, x - torch.where(keep, x, 0.0).sum(1, keepdim=True) / n, 0.0)

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        return self(y)


@dataclass(frozen=True)
class Matrix(LinearOperator):
    """A dense matrix on the flattened state.

    Args:
        rows: [M, D], D the numbers of one sample.
    """

    rows: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return (x.flatten(1)[:, None] * self.rows).sum(-1)

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        return (y[:, :, None] * self.rows).sum(1).reshape(like.shape)


@dataclass(frozen=True)
class Average(LinearOperator):
    """Downsampling by the mean over blocks.

    Args:
        factor: The block's length along each axis; it divides that axis.
        axes: Which axes.
    """

    factor: int = 2
    axes: tuple[int, ...] = (-2, -1)

    def __call__(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            a = axis % x.ndim
            if x.shape[a] % self.factor:
                raise GendiffError(
                    f"Average({self.factor}) met an axis of length {x.shape[a]}", f"a multiple of {self.factor}"
                )
            x = x.unflatten(a, (-1, self.factor)).mean(a + 1)
        return x

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        for axis in self.axes:
            y = y.repeat_interleave(self.factor, dim=axis) / self.factor
        return y


@dataclass(frozen=True)
class Blur(LinearOperator):
    """Convolution with one kernel along each of some axes; zeros outside.

    Args:
        kernel: An odd number of weights.
        axes: Which axes.
    """

    kernel: tuple[float, ...]
    axes: tuple[int, ...] = (-2, -1)

    def __post_init__(self) -> None:
        if len(self.kernel) % 2 == 0:
            raise GendiffError(f"Blur got a kernel of {len(self.kernel)} weights", "an odd number, around its centre")

    @staticmethod
    def gaussian(sigma: float, axes: tuple[int, ...] = (-2, -1)) -> Blur:
        """A Gaussian kernel of standard deviation sigma, in sites, cut at 3 sigma."""
        half = max(round(3 * sigma), 1)
        weights = [2.0 ** (-0.7213475204444817 * (i / sigma) ** 2) for i in range(-half, half + 1)]
        return Blur(tuple(w / sum(weights) for w in weights), axes)

    def __call__(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = convolve(x, self.kernel, axis)
        return x

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        for axis in self.axes:
            y = convolve(y, self.kernel[::-1], axis)
        return y


def convolve(x: Tensor, kernel: tuple[float, ...], axis: int) -> Tensor:
    """sum_j kernel[j] x[i + half - j] along an axis."""
    half, n = len(kernel) // 2, x.shape[axis]
    zeros = x.new_zeros([half if a == axis % x.ndim else size for a, size in enumerate(x.shape)])
    padded = torch.cat([zeros, x, zeros], dim=axis)
    terms = [w * padded.narrow(axis, 2 * half - j, n) for j, w in enumerate(kernel)]
    return torch.stack(terms).sum(0)


class Chain(LinearOperator):
    """LinearOperator operators one after the other, the first first."""

    def __init__(self, *operators: LinearOperator) -> None:
        self.operators = operators

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.operators))})"

    def __call__(self, x: Tensor) -> Tensor:
        for operator in self.operators:
            x = operator(x)
        return x

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        shapes = [like]
        for operator in self.operators[:-1]:
            shapes.append(operator(shapes[-1]))
        for operator, shape in zip(reversed(self.operators), reversed(shapes), strict=True):
            y = operator.adjoint(y, shape)
        return y


@dataclass(frozen=True)
class Magnitudes(Operator):
    """|STFT| of signals [B, T], Hann window: phases unknown. Not linear.

    Args:
        size: Samples per window.
        hop: Samples between windows.
    """

    size: int = 512
    hop: int = 128

    def __call__(self, x: Tensor) -> Tensor:
        window = torch.hann_window(self.size, dtype=x.dtype, device=x.device)
        z = torch.stft(
            x.flatten(1), self.size, self.hop, window=window, center=True, pad_mode="constant", return_complex=True
        )
        return (z.real**2 + z.imag**2 + torch.finfo(x.dtype).eps).sqrt()
