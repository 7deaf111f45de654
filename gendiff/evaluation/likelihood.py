r"""log p(x) by the probability flow, on any space.

With y = x/n the state in the straight frame and u the variable of `gendiff.sampling.ode`, which integrates both lines
at once,

    dy/du = v(y, u)
    log p(y_0) = log p_1(y_1) + int_0^1 div(v) du            log p(x) = log p(y) - dim log n

(Chen et al. 2018; Song et al. 2021), each sample by itself. The divergence is a trace over the tangent space,

    Exact        sum_i <P e_i, D_{P e_i} v>                  one directional derivative per tangent number
    Hutchinson   mean_k <P z_k, D_{P z_k} v>                 probes z_k drawn once per sample, before the integration

where D_e v is the derivative along exp_x(h e) and P projects to the tangent space (Centered: the subspace; Sphere: the
tangent plane; SO3: left-invariant fields, whose plain trace is the divergence) and to real sites.

Densities are by the space's own volume: Lebesgue's on R^n, that of the (N - 1) D dimensional subspace on Centered, the
metric's on curved ones (SO3 has the volume 8 pi^2, a circle 2 pi); less `space.log_random` they are densities by the
normalised uniform measure. log p_1 is the process's `log_prior`, with the data's deviation where it is given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise, differentiates, refuse_previous
from gendiff.errors import NOT_NEGATIVE, GendiffError, at_least, check
from gendiff.processes import Joint, Leaf, Process
from gendiff.random import Noise
from gendiff.sampling import Adaptive, Flow, Path, drift
from gendiff.spaces import State, tensors, widened


@dataclass(frozen=True)
class LogLikelihood:
    """What `log_likelihood` found.

    Attributes:
        log_p: log p(x) in nats, [B].
        error: Standard error of log_p from the probes, [B]; 0 where the divergence is exact, inf for a single probe.
        end: The state at t = 1 that x flows to.
        dim: Degrees of freedom, [B].
        evaluations: Of the denoiser, each with its derivatives, [B].
    """

    log_p: Tensor
    error: Tensor
    end: State
    dim: Tensor
    evaluations: Tensor

    @property
    def bits_per_dim(self) -> Tensor:
        """-log2 p per degree of freedom, [B]."""
        return -self.log_p / (self.dim.to(self.log_p) * math.log(2))


class Divergence(ABC):
    """Which directions to differentiate along."""

    @abstractmethod
    def directions(self, like: State, noise: Noise | None) -> list[State]:
        """Arrays of tangent shape, one or more, fixed for the whole integration."""

    @abstractmethod
    def combine(self, traces: Tensor) -> tuple[Tensor, Tensor]:
        """The integral of the divergence and its standard error, [B] each, from those along every direction [k, B]."""


@dataclass(frozen=True)
class Exact(Divergence):
    """The whole trace."""

    def directions(self, like: State, noise: Noise | None) -> list[State]:
        return list(basis(like))

    def combine(self, traces: Tensor) -> tuple[Tensor, Tensor]:
        return traces.sum(0), torch.zeros_like(traces[0])


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """An unbiased estimate of the trace.

    Args:
        probes: How many random directions.
        gaussian: Normal numbers rather than signs; signs have the smaller variance.
    """

    probes: int = 8
    gaussian: bool = False

    def __post_init__(self) -> None:
        check(self, probes=at_least(1))

    def directions(self, like: State, noise: Noise | None) -> list[State]:
        if noise is None:
            raise GendiffError("Hutchinson got no noise", "a source of probes", "noise=Noise.of(seed, n)")

        def one(x: Tensor, source: Noise) -> Tensor:
            z = source.normal(x.shape, x.dtype)
            return z if self.gaussian else torch.where(z < 0, -1.0, 1.0).to(x.dtype)

        out = []
        for k in range(self.probes):
            source = noise.fork("probe").at(k)
            bundle = isinstance(like, Mapping)
            out.append({n: one(x, source.fork(n)) for n, x in like.items()} if bundle else one(like, source))
        return out

    def combine(self, traces: Tensor) -> tuple[Tensor, Tensor]:
        k = len(traces)
        if k == 1:
            return traces[0], torch.full_like(traces[0], math.inf)
        return traces.mean(0), traces.std(0) / k**0.5


def basis(like: State) -> Iterator[State]:
    """The unit arrays of a tangent's shape, the same for all samples."""
    for number, x in enumerate(tensors(like)):
        for i in range(x[0].numel()):
            unit = torch.zeros_like(x[:1]).flatten()
            unit[i] = 1
            parts = [torch.zeros_like(p) for p in tensors(like)]
            parts[number] = unit.reshape(x[:1].shape).expand(x.shape)
            yield dict(zip(like, parts, strict=True)) if isinstance(like, Mapping) else parts[0]


@differentiates
def log_likelihood(
    denoiser: Denoise,
    x0: State,
    *,
    solver: Path | None = None,
    divergence: Divergence | None = None,
    noise: Noise | None = None,
    cond: dict[str, Any] | None = None,
    data_std: float | Mapping[str, float] = 0.0,
) -> LogLikelihood:
    """log p of clean states under the probability flow of a denoiser.

    Args:
        denoiser: Predicts the clean state; differentiable in x.
        x0: Clean states [B, ...].
        solver: How to integrate: `Adaptive(rtol, atol)`, whose tolerance is also one on log p per degree of freedom
            (by default 1e-8 in float64 and 1e-5 below), or `EvenSteps(n)`.
        divergence: `Exact()`, or `Hutchinson(probes)`, which needs `noise`.
        noise: The source of the probes; its index names the samples.
        cond: Conditions [B, ...], with "mask" for padded batches.
        data_std: The standard deviation of the data (or by part), where it is known. By default the density at t = 1
            is that of the prior from which samplers start, N(0, sigma(1)^2), and log p is that of their samples; where
            alpha(1) > 0 the data's own path ends in N(0, sigma^2 + alpha^2 data_std^2), some hundredths of a nat away.

    Raises:
        GendiffError: For processes without a probability flow, such as those on categories; a negative deviation.
    """
    deviations = data_std.values() if isinstance(data_std, Mapping) else (data_std,)
    if any(std not in NOT_NEGATIVE for std in deviations):
        raise GendiffError(f"log_likelihood got data_std={data_std!r}", str(NOT_NEGATIVE), "data_std=1.0")
    refuse_previous(denoiser, "log_likelihood")
    cond = cond or {}
    process = denoiser.process.masked(cond.get("mask"))
    space, method = process.space, divergence or Exact()
    x = space.project(widened(x0))
    first = tensors(x)[0]
    drift(process, x, x, 1.0)  # refuses, before anything is spent, what has no flow
    tolerance = 1e-8 if first.dtype == torch.float64 else 1e-5
    solver = solver or Adaptive(tolerance, tolerance)
    noisy, clean = solver.ends(denoiser.process)
    probes = method.directions(space.log(x, x), noise)
    flow = Flow(denoiser, x, (clean, noisy), solver.scale, cond, probes)
    there = solver.follow(flow, x, wanted=lambda traces: method.combine(traces)[0])
    total, error = method.combine(there.traces)
    stretch = log_norm(process, x, noisy, solver.scale) - log_norm(process, x, clean, solver.scale)
    log_p = process.log_prior(there.state, noisy, data_std) + stretch.to(total) + total
    return LogLikelihood(log_p, error, there.state, space.dim(x0).to(first.device), there.evaluations)


def log_norm(process: Process, x: State, t: float, scale: float) -> Tensor:
    """dim log n(t), summed over parts, [B]."""
    if isinstance(process, Joint):
        return torch.stack([log_norm(part, x[name], t, scale) for name, part in process.parts.items()]).sum(0)
    assert isinstance(process, Leaf)
    return process.space.dim(x) * math.log(process.norm(t, scale))
