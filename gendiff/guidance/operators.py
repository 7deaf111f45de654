r"""What was measured of a clean state: y = A x0 + noise.

A linear operator and its adjoint obey <A x, y> = <x, A^T y>, sample by sample. Axes count from the batch axis, 0.
An operator may differ from sample to sample: the fields that it names in `by_sample` are then [B, ...].

    Mask(keep)             A x = keep x                                   its own adjoint
    Average(factor, axes)  means over blocks of `factor` along each axis  A^T repeats and divides
    Blur(kernel, axes)     convolution along each axis, zeros outside     A^T convolves with the kernel reversed
    Matrix(rows)           A x = rows vec(x), [M, D] or [B, M, D]         A^T y = rows^T y
    Differences(keep)      the kept sites less their mean: a shape wherever it stands; its own adjoint
    Chain(f, g, ...)       f first                                        adjoints in reverse
    Magnitudes(size, hop)  |STFT|, not linear: for DPS alone
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gendiff.denoisers import shared_rows
from gendiff.errors import POSITIVE, SamplerError, at_least, check
from gendiff.spaces import broadcast_mask


class Operator(ABC):
    """Anything that can be measured, differentiable in x. Its tensors are moved to the device of the samples."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """y [B, ...] of x [B, ...]."""

    @property
    def by_sample(self) -> tuple[str, ...]:
        """The names of its tensors that belong to samples, [B or 1, ...]; the others hold for all."""
        return ()

    def select(self, rows: Any, device: torch.device | None = None) -> Self:
        """The operator of some of the samples, on a device."""
        if isinstance(rows, Tensor):
            device = rows.device
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                value = shared_rows(value, rows, device) if name in self.by_sample else value.to(device=device)
            elif isinstance(value, tuple) and any(isinstance(part, Operator) for part in value):
                value = tuple(part.select(rows, device) if isinstance(part, Operator) else part for part in value)
            object.__setattr__(twin, name, value)
        return twin


class LinearOperator(Operator):
    """A linear operator."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Its __call__ is given nothing but tensors of floating point."""
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.__call__ = of_numbers(vars(cls)["__call__"])  # type: ignore[method-assign]

    @abstractmethod
    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        """A^T y, in the shape of `like` [B, ...]."""


def of_numbers(call: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """The same method, refusing bundles and classes: <A x, y> has a meaning for numbers alone."""

    @functools.wraps(call)
    def checked(self: Any, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.is_floating_point():
            return call(self, x)
        found = f"classes ({x.dtype})" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        parts = f", one part of a bundle ({', '.join(x)})" if isinstance(x, Mapping) else ""
        fix = f"Measurement(..., part={next(iter(x), '')!r})" if isinstance(x, Mapping) else ""
        raise SamplerError(f"{type(self).__name__} got {found}", f"a tensor of floating point{parts}", fix)

    return checked


@dataclass(frozen=True)
class Mask(LinearOperator):
    """The values where `keep` is True, zeros elsewhere.

    Args:
        keep: bool [B or 1, *sites], or what broadcasts to the state.
    """

    keep: Tensor

    def __post_init__(self) -> None:
        boolean(self)

    @property
    def by_sample(self) -> tuple[str, ...]:
        return ("keep",)

    def __call__(self, x: Tensor) -> Tensor:
        fitting(self.keep, x, "Mask")
        return torch.where(broadcast_mask(self.keep, x), x, 0.0)  # type: ignore[arg-type]

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        return self(y)


def boolean(owner: Any) -> None:
    """Refuses an owner whose `keep` is no tensor of booleans, nor a dict of these by part."""
    for keep in owner.keep.values() if isinstance(owner.keep, Mapping) else [owner.keep]:
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            kind = keep.dtype if isinstance(keep, Tensor) else type(keep).__name__
            expected = "a tensor of booleans, True where known"
            raise SamplerError(f"{type(owner).__name__} got keep of {kind}", expected, "keep > 0")


def fitting(keep: Any, x: Any, name: str) -> None:
    """Refuses a mask that does not broadcast to a state [B, *sites, ...] from its first axis on.

    Raises:
        SamplerError: With both shapes.
    """
    pairs = zip(keep.shape, x.shape, strict=False)
    if keep.ndim > x.ndim or any(a not in (1, b) for a, b in pairs):
        raise SamplerError(
            f"{name} got keep of shape {list(keep.shape)} for samples of shape {list(x.shape)}",
            "[B or 1, *sites], each axis that of the samples or 1",
            f"torch.ones({[1, *x.shape[1:]]}, dtype=torch.bool)",
        )


@dataclass(frozen=True)
class Differences(LinearOperator):
    """The kept sites [B, N, D] less their mean, zeros elsewhere: all that is known of a shape without a place.

    Args:
        keep: bool [B or 1, N].
    """

    keep: Tensor

    def __post_init__(self) -> None:
        boolean(self)

    @property
    def by_sample(self) -> tuple[str, ...]:
        return ("keep",)

    def __call__(self, x: Tensor) -> Tensor:
        fitting(self.keep, x[..., 0], "Differences")
        keep = self.keep.reshape(*self.keep.shape, *(1,) * (x.ndim - self.keep.ndim))
        n = keep.sum(1, keepdim=True).clamp_min(1)
        return torch.where(keep, x - torch.where(keep, x, 0.0).sum(1, keepdim=True) / n, 0.0)

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        return self(y)


@dataclass(frozen=True)
class Matrix(LinearOperator):
    """A dense matrix on the flattened state.

    Args:
        rows: [M, D], D the numbers of one sample; or [B or 1, M, D], a matrix for each sample.
    """

    rows: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Tensor) or self.rows.ndim not in (2, 3):
            raise SamplerError(
                f"Matrix got rows {list(getattr(self.rows, 'shape', [self.rows]))}", "a tensor [M, D] or [B, M, D]"
            )

    @property
    def by_sample(self) -> tuple[str, ...]:
        return ("rows",) if self.rows.ndim == 3 else ()

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        if self.rows.shape[-1] != flat.shape[1] or (self.rows.ndim == 3 and len(self.rows) not in (1, len(x))):
            raise SamplerError(
                f"Matrix of shape {list(self.rows.shape)} met states of shape {list(x.shape)}",
                f"[M, {flat.shape[1]}], or [{len(x)}, M, {flat.shape[1]}]",
            )
        return (flat[:, None] * self.rows.to(x)).sum(-1)

    def adjoint(self, y: Tensor, like: Tensor) -> Tensor:
        return (y[:, :, None] * self.rows.to(y)).sum(1).reshape(like.shape)


@dataclass(frozen=True)
class Average(LinearOperator):
    """Downsampling by the mean over blocks.

    Args:
        factor: The block's length along each axis; it divides that axis.
        axes: Which axes.
    """

    factor: int = 2
    axes: tuple[int, ...] = (-2, -1)

    def __post_init__(self) -> None:
        check(self, factor=at_least(1))

    def __call__(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            a = axis % x.ndim
            if x.shape[a] % self.factor:
                raise SamplerError(
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
        check(self)
        if len(self.kernel) % 2 == 0:
            raise SamplerError(f"Blur got a kernel of {len(self.kernel)} weights", "an odd number, around its centre")

    @staticmethod
    def gaussian(sigma: float, axes: tuple[int, ...] = (-2, -1)) -> Blur:
        """A Gaussian kernel of standard deviation sigma, in sites, cut at 3 sigma."""
        if sigma not in POSITIVE:
            raise SamplerError(f"Blur.gaussian got sigma={sigma!r}", str(POSITIVE), "Blur.gaussian(1.0)")
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
    """Linear operators one after the other, the first first."""

    def __init__(self, *operators: LinearOperator) -> None:
        for operator in operators:
            if not isinstance(operator, LinearOperator):
                raise SamplerError(f"Chain got {operator!r}", "linear operators", "Chain(Blur(kernel), Average(4))")
        self.operators = operators

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.operators == other.operators

    def __hash__(self) -> int:
        return hash(self.operators)

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

    def __post_init__(self) -> None:
        check(self, size=at_least(1), hop=at_least(1))

    def __call__(self, x: Tensor) -> Tensor:
        window = torch.hann_window(self.size, dtype=x.dtype, device=x.device)
        z = torch.stft(
            x.flatten(1), self.size, self.hop, window=window, center=True, pad_mode="constant", return_complex=True
        )
        return (z.real**2 + z.imag**2 + torch.finfo(x.dtype).eps).sqrt()
