r"""Inverse problems: denoisers that agree with a measurement y = A x0 + s z.

For an exact denoiser D, Tweedie gives E[x0 | x_t, y] = D + (sigma^2/alpha) grad_x log p(y | x_t). With the residual
r = y - A D(x), the Jacobian J = dD/dx (symmetric) and p(x0 | x_t) ~ N(D, V), V = (sigma^2/alpha) J exactly,

    x0 = D + V A^T (s^2 I + A V' A^T)^-1 r

and the methods are what they put for the V' of the inverse and for the V before it:

    MMPS(iterations)   V' = V, by conjugate gradients through the Jacobian      Rozet et al. 2024; exact on Gaussians
    TMPD()             A V' A^T = diag(A V A^T 1), one more product             Boys et al. 2023
    PiGDM(data_std)    V' = r^2 I, r^2 = d^2 sigma^2/(d^2 alpha^2 + sigma^2), d = data_std; x_s moves by
                       alpha_s r^2 J A^T (s^2 I + r^2 A A^T)^-1 r at every step   Song et al. 2023
    DiffPIR(weight)    V = V' = (sigma/alpha)^2/weight I: no gradient           Zhu et al. 2023
    DPS(strength)      x_s moves by -strength grad_x |r| at every step          Chung et al. 2023; for any operator

An inverse is found by conjugate gradients of a fixed number of steps, sample by sample. Here DPS moves by alpha_s
strength, and PiGDM by alpha_s where its paper writes alpha_t. Spaces are flat; of a bundle, the part that was measured
is named and the gradient moves all flat parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import (
    Denoise,
    Prediction,
    carried,
    clean,
    differentiates,
    for_samples,
    map_prediction,
    moved,
    refuse_guided_jumps,
    shared_rows,
)
from gendiff.errors import NOT_NEGATIVE, POSITIVE, SamplerError, at_least, check, nearest
from gendiff.guidance.given import Given
from gendiff.guidance.operators import Differences, LinearOperator, Mask, Operator
from gendiff.guidance.rules import own_time
from gendiff.guidance.wrappers import asked, at_hand, differentiable, finite, floored, gradients, nudged, tilted
from gendiff.processes import Gaussian, Process, schedule_of
from gendiff.spaces import Centered, State, inner, per_sample, require_shape, tensors

TINY = 1e-30
Pull = Callable[[Tensor], State]
"""w -> J^T A^T w for a w in the shape of y, in the structure of the state."""


@dataclass(frozen=True)
class Look:
    """What a method sees at one x_t.

    Attributes:
        process: Bound to the batch's mask.
        t: The time.
        x0: D(x_t), whole.
        residual: y - A D.
        pull: w -> J^T A^T w.
    """

    process: Process
    t: Any
    x0: State
    residual: Tensor
    pull: Pull

    def levels(self, part: str | None) -> tuple[Any, Any]:
        """(alpha, sigma) of a part."""
        return schedule_of(self.process, part)(own_time(self.t, part))


class Method(ABC):
    """The interface."""

    linear: bool = True
    gradient: bool = True

    @abstractmethod
    def agree(self, measured: Measurement, look: Look) -> Any:
        """The prediction that agrees with the measurement."""


@dataclass(frozen=True)
class MMPS(Method):
    """Moment matching: the covariance of p(x0 | x_t) from the denoiser's own Jacobian.

    Args:
        iterations: Of conjugate gradients; each is one backward pass.
    """

    iterations: int = 3

    def __post_init__(self) -> None:
        check(self, iterations=at_least(1))

    def agree(self, measured: Measurement, look: Look) -> State:
        gain = measured.gain(look)

        def covariance(u: Tensor) -> Tensor:
            return measured.noise**2 * u + per_sample(gain, u) * measured.apply(measured.pick(look.pull(u)))  # type: ignore[operator]

        u = conjugate(covariance, look.residual, self.iterations)
        return tilted(look.process, look.x0, look.pull(u), look.t)


@dataclass(frozen=True)
class TMPD(Method):
    """Tweedie moment projection: the diagonal of A V A^T by its row sums.

    Args:
        floor: The least variance, as a share of that of unit data; row sums may even be negative.
    """

    floor: float = 0.01

    def __post_init__(self) -> None:
        check(self, floor=POSITIVE)

    def agree(self, measured: Measurement, look: Look) -> State:
        rows = measured.apply(measured.pick(look.pull(torch.ones_like(look.residual))))
        alpha, sigma = look.levels(measured.part)
        floor = per_sample(self.floor * sigma * sigma / (alpha * alpha + sigma * sigma), rows)
        variance = torch.maximum(per_sample(measured.gain(look), rows) * rows, floor + 0 * rows)  # type: ignore[operator]
        return tilted(look.process, look.x0, look.pull(look.residual / (measured.noise**2 + variance)), look.t)


@dataclass(frozen=True)
class PiGDM(Method):
    """Pseudo-inverse guidance: an isotropic covariance, and steps weighed by r^2 as published.

    Without that weight, as a tilt of the prediction, it saturates trained networks: of the lower halves of four
    garments (shipped weights, 2M, 12 steps) it made 0.50 white, with it 0.036, as in the pictures themselves (0.035).

    Args:
        data_std: The standard deviation d of the data.
        iterations: Of conjugate gradients, without the network; one is enough where A A^T = I.
    """

    data_std: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        check(self, data_std=POSITIVE, iterations=at_least(1))

    def agree(self, measured: Measurement, look: Look) -> Prediction:
        alpha, sigma = look.levels(measured.part)
        d2 = self.data_std**2
        r2 = d2 * sigma * sigma / (d2 * alpha * alpha + sigma * sigma)
        gradient = look.pull(measured.solve(look, r2, self.iterations))
        return Prediction(nudged(look.process, look.x0, gradient, lambda leaf, t: r2, look.t), look.x0)


@dataclass(frozen=True)
class DiffPIR(Method):
    """The point nearest to the prediction that agrees with the measurement; the network is not differentiated.

    Args:
        weight: lambda, of the prediction against the measurement.
        iterations: Of conjugate gradients, without the network.
    """

    gradient = False
    weight: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        check(self, weight=POSITIVE, iterations=at_least(1))

    def agree(self, measured: Measurement, look: Look) -> State:
        alpha, sigma = look.levels(measured.part)
        v = (sigma / alpha) ** 2 / self.weight
        part = measured.pick(look.x0)
        u = measured.solve(look, v, self.iterations)
        step = per_sample(v, part) * measured.back(u, part)  # type: ignore[operator]
        x0 = {**look.x0, measured.part: part + step} if isinstance(look.x0, dict) else part + step
        return look.process.space.project(x0)


@dataclass(frozen=True)
class DPS(Method):
    """Diffusion posterior sampling: a gradient step of the residual's length, after every step.

    Args:
        strength: zeta. It sums over the steps, so it goes with their number.
    """

    linear = False
    strength: float = 1.0

    def __post_init__(self) -> None:
        check(self, strength=NOT_NEGATIVE)

    def agree(self, measured: Measurement, look: Look) -> Prediction:
        length = (look.residual**2).flatten(1).sum(1).add(TINY).sqrt()
        gradient = look.pull(look.residual / per_sample(length, look.residual))
        return Prediction(nudged(look.process, look.x0, gradient, lambda leaf, t: self.strength, look.t), look.x0)


@dataclass(frozen=True)
class Measurement:
    """A measurement; `model.sample(n, given=Measurement(Average(4), y))`.

    Args:
        operator: A.
        y: What it gave, [B or 1, ...].
        noise: The standard deviation s of the measurement's noise.
        method: How a denoiser is made to agree.
        part: Which part of a bundle was measured.
    """

    operator: Operator
    y: Tensor
    noise: float = 0.0
    method: Method = field(default_factory=MMPS)
    part: str | None = None

    def __post_init__(self) -> None:
        check(self, noise=NOT_NEGATIVE)
        if self.method.linear and not isinstance(self.operator, LinearOperator):
            raise SamplerError(
                f"{self.method!r} got the operator {self.operator!r}", "a linear one", "Measurement(..., method=DPS())"
            )

    def pick(self, x: State) -> Tensor:
        """The measured part."""
        parts = list(x) if isinstance(x, dict) else []
        if isinstance(x, dict) and self.part in x:
            return x[self.part]
        if not isinstance(x, dict) and self.part is None:
            return x
        raise SamplerError(
            f"Measurement got part={self.part!r}",
            f"one of {', '.join(map(repr, parts))}{nearest(self.part, parts)}" if parts else "no part: a single tensor",
            f"Measurement(..., part={parts[0]!r})" if parts else "Measurement(operator, y)",
        )

    def residual(self, seen: Tensor) -> Tensor:
        """y - A x0, from A x0.

        Raises:
            SamplerError: For a y of another shape, or not finite where the operator looks.
        """
        if self.y.shape[1:] != seen.shape[1:] or len(self.y) not in (1, len(seen)):
            raise SamplerError(
                f"Measurement got y of shape {list(self.y.shape)}",
                f"what {self.operator!r} makes of the samples, {list(seen.shape)}, or one for all",
                f"y of shape {[1, *seen.shape[1:]]}",
            )
        y = self.y.to(seen)
        y = self.operator(y) if isinstance(self.operator, Mask | Differences) else y  # of what is known
        finite("Measurement got y with", y, "finite numbers, wherever the operator looks", "Mask(keep & y.isfinite())")
        return y - seen

    def apply(self, part: Tensor) -> Tensor:
        """A x."""
        y = self.operator(part)
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.shape[:1] != part.shape[:1]:
            got = f"{y.dtype} of shape {list(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise SamplerError(f"{self.operator!r} gave {got}", f"{len(part)} samples of floating point")
        if at_hand(y) and bool(part.isfinite().all()):
            finite(f"{self.operator!r} gave", y, "finite numbers, where its input is finite", "")
        return y.to(part)

    def back(self, y: Tensor, part: Tensor) -> Tensor:
        """A^T y."""
        assert isinstance(self.operator, LinearOperator)
        x = self.operator.adjoint(y, part)
        require_shape(f"The adjoint of {self.operator!r} gave", x, part.shape)
        return x.to(part)

    def gain(self, look: Look) -> Any:
        """sigma^2/alpha."""
        alpha, sigma = look.levels(self.part)
        return sigma * sigma / alpha

    def solve(self, look: Look, v: Any, iterations: int) -> Tensor:
        """(s^2 I + v A A^T)^-1 r."""
        part = self.pick(look.x0)

        def covariance(u: Tensor) -> Tensor:
            return self.noise**2 * u + per_sample(v, u) * self.apply(self.back(u, part))  # type: ignore[operator]

        return conjugate(covariance, look.residual, iterations)

    def expand(self, n: int) -> Measurement:
        """The measurement of n samples, of one for all or of one for each.

        Raises:
            SamplerError: For another number.
        """
        if len(self.y) not in (1, n):
            raise SamplerError(
                f"Measurement got {len(self.y)} measurements for {n} samples",
                "one for each sample, or one for all",
                f"model.sample({len(self.y)}, given=...)",
            )
        return self

    def select(self, rows: Any, device: torch.device | None = None) -> Measurement:
        """Some of the samples, on a device; one measurement for all stays one."""
        return replace(self, operator=self.operator.select(rows, device), y=shared_rows(self.y, rows, device))


@dataclass(frozen=True)
class PosteriorMean:
    """A denoiser that agrees with a measurement, differentiable as every denoiser is.

    Args:
        denoiser: Whose predictions; differentiable, unless the method needs no gradient.
        measured: The measurement, of as many samples as the batch, or of one.
    """

    denoiser: Denoise
    measured: Measurement

    def __post_init__(self) -> None:
        check(self)

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def select(self, rows: Any) -> PosteriorMean:
        """The same for some of the samples."""
        return PosteriorMean(for_samples(self.denoiser, rows), self.measured.select(rows))

    @differentiates
    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        refuse_guided_jumps("A measurement", cond)
        measured, method = self.measured.select(slice(None), tensors(x)[0].device), self.measured.method
        process, keep = self.process.masked(cond.get("mask")), torch.is_grad_enabled()
        t = floored(process, t, x)
        with torch.set_grad_enabled(keep or method.gradient):
            leaf = differentiable(x, keep) if method.gradient else x
            prediction = self.denoiser(leaf, t, **cond)
            seen = measured.apply(measured.pick(clean(prediction)))
        if method.gradient:
            values = [seen, measured.y, *tensors(clean(prediction)), *tensors(carried(prediction))]
            keep = keep and asked(values, x, leaf)

        def pull(w: Tensor) -> State:
            return gradients(seen, leaf, w, again=keep)

        with torch.set_grad_enabled(keep):
            whole = prediction if keep else map_prediction(torch.Tensor.detach, prediction)
            residual = measured.residual(seen if keep else seen.detach())
            agreed = method.agree(measured, Look(process, t, clean(whole), residual, pull))
        if isinstance(agreed, Prediction) and isinstance(whole, Prediction):
            return moved(whole, agreed.x0)
        return agreed if isinstance(agreed, Prediction) else moved(whole, agreed)


def known(given: Given, process: Process) -> Measurement | None:
    """What is given as a measurement without noise, on a flat space; None elsewhere.

    Its method is MMPS(1): more iterations are nearer the truth of exact denoisers, and saturate trained ones (`given`).
    """
    if not isinstance(process, Gaussian):
        return None
    operator = Differences(given.keep) if isinstance(process.on, Centered) else Mask(given.keep)
    return Measurement(operator, operator(given.x0), method=MMPS(1))


def conjugate(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """x with apply(x) = b by conjugate gradients for symmetric positive `apply`, each sample for itself, b [B, ...].

    A sample whose residual or curvature has fallen to rounding stays where it is: systems may be semi-definite.
    """
    x, r, p = torch.zeros_like(b), b, b
    rr = inner(r, r)
    eps = 100 * torch.finfo(b.dtype).eps
    small, top = rr * eps**2, torch.zeros_like(rr)
    for _ in range(iterations):
        q = apply(p)
        curvature, pp = inner(p, q), inner(p, p)
        top = torch.maximum(top, curvature / torch.where(pp > 0, pp, 1.0))
        alive = (rr > small) & (curvature > eps * top * pp)
        step = torch.where(alive, rr / torch.where(alive, curvature, 1.0), 0.0)
        x = x + per_sample(step, b) * p
        r = r - per_sample(step, b) * q
        new = inner(r, r)
        p = r + per_sample(torch.where(alive, new / torch.where(alive, rr, 1.0), 0.0), b) * p
        rr = torch.where(alive, new, 0.0)
    return x
