r"""Trained models in other words: an output as another head's, a model on another schedule.

Every flat head emits F = p x0 + q z, and x = alpha x0 + sigma z. Two equations for (x0, z), so with det = alpha q -
sigma p any head's output becomes any other's without a detour that divides by zero:

    F' = p' x0 + q' z = ((p' q - q' p) x + (alpha q' - sigma p') F)/det

    Eps (0, 1)   X0 (1, 0)   V (-sigma, alpha)   Velocity (-1, 1)   Score (0, -1/sigma)
    EDMHead (sigma/(n d), -d alpha/n)            PathVelocity (d alpha/dt, d sigma/dt)

det = 0 is where the first head does not say what x0 is: Eps at alpha = 0, X0 of z at sigma = 0.

A model knows log-SNRs, not schedules: two paths agree where sigma/alpha does, up to the length of x. With t' the time
at which the model's schedule has the log-SNR that the new one has at t,

    x0_hat(x, t) = model(x (alpha' + sigma')/(alpha + sigma), t')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from gendiff.denoisers.denoiser import Denoise
from gendiff.denoisers.heads import EMITTED, X0, EDMHead, Eps, Flat, Head, Heads, V, Velocity
from gendiff.denoisers.predictions import for_samples
from gendiff.errors import SamplerError
from gendiff.processes import Gaussian, Geodesic, Joint, Leaf, Process, pick
from gendiff.processes.schedules import Schedule, Time
from gendiff.spaces import State, per_sample, require_shape


@dataclass(frozen=True)
class Score(Flat):
    """The network predicts the score, the gradient of log p_t(x): F = -z/sigma (Song et al. 2021)."""

    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        return 1 / alpha, sigma * sigma / alpha

    def check(self, process: Leaf, t: Time) -> None:
        Eps().check(process, t)


@dataclass(frozen=True)
class PathVelocity(Flat):
    """The network predicts dx/dt along the schedule's own path (Ma et al. 2024, SiT): on `Linear` it is `Velocity`."""

    def coefficients(self, alpha: Time, sigma: Time) -> tuple[Time, Time]:
        """On the straight path alone; elsewhere the slopes of the schedule count too: `affine`."""
        return Velocity().coefficients(alpha, sigma)

    def affine(self, process: Leaf, t: Time) -> tuple[Time, Time]:
        """(skip, out)."""
        (alpha, sigma), (p, q) = process.schedule(t), process.schedule.slopes(t)
        det = alpha * q - sigma * p
        return q / det, -sigma / det

    def clean(self, process: Leaf, x: Tensor, out: Tensor, t: Time) -> Tensor:
        require_shape(EMITTED, out, x.shape)
        skip, scale = self.affine(process, t)
        return process.space.project(per_sample(skip, x) * x + per_sample(scale, x) * out)

    def raw(self, process: Leaf, x: Tensor, x0: Tensor, t: Time) -> Tensor:
        skip, scale = self.affine(process, t)
        return (x0 - per_sample(skip, x) * x) / per_sample(scale, x)

    def scale(self, process: Leaf, t: Time) -> Time:
        return abs(self.affine(process, t)[1])


def emitted(head: Head, process: Leaf, t: Time) -> tuple[Time, Time]:
    """(p, q) of F = p x0 + q z."""
    alpha, sigma = process.schedule(t)
    one = alpha * 0 + 1.0
    match head:
        case Eps():
            return one * 0, one
        case X0():
            return one, one * 0
        case V():
            return -sigma, alpha
        case Velocity():
            return -one, one
        case Score():
            return one * 0, -1 / sigma
        case PathVelocity():
            return process.schedule.slopes(t)
        case EDMHead(sigma_data=d):
            n = (sigma * sigma + d * d * alpha * alpha) ** 0.5
            return sigma / (n * d), -d * alpha / n
        case Flat():
            skip, out = head.coefficients(alpha, sigma)
            return (1 - skip * alpha) / out, -skip * sigma / out
    raise SamplerError(f"{head!r} is no affine map of (x0, z)", "a flat head, or `convert`, which goes by x0")


def convert(process: Process, x: State, out: State, t: Time, source: Head, to: Head) -> State:
    """A network's output under one head as that of another, at x_t.

    Args:
        process: The process of x; heads of a bundle are `Heads`.
        x: The noisy state [B, ...].
        out: What a network with the head `source` emitted.
        t: A float, or float64 [B]; by part for bundles.
        source: The head that gives `out` its meaning.
        to: The head wanted.

    Raises:
        SamplerError: At a float t where `source` does not determine what `to` asks for.
    """
    if isinstance(process, Joint):
        if not isinstance(source, Heads) or not isinstance(to, Heads):
            raise SamplerError(f"A bundle got the heads {source!r} and {to!r}", "one head per part: Heads(...)")
        return {
            name: convert(part, x[name], out[name], pick(t, name), source.parts[name], to.parts[name])
            for name, part in process.parts.items()
        }
    assert isinstance(process, Leaf)
    if source == to:
        return out
    if isinstance(source, Flat) and isinstance(to, Flat):
        alpha, sigma = process.schedule(t)
        try:
            (p, q), (p2, q2) = emitted(source, process, t), emitted(to, process, t)
            det = alpha * q - sigma * p
            of_x, of_out = (p2 * q - q2 * p) / det, (alpha * q2 - sigma * p2) / det
        except ZeroDivisionError:
            raise impossible(source, to, process, t) from None
        return per_sample(of_x, x) * x + per_sample(of_out, out) * out
    source.check(process, t)
    if not isinstance(t, Tensor) and to.scale(process, t) == 0:
        raise impossible(source, to, process, t)
    return to.raw(process, x, source.clean(process, x, out, t), t)


def impossible(source: Head, to: Head, process: Leaf, t: Time) -> SamplerError:
    """The error of a conversion that the output does not determine."""
    alpha, sigma = process.schedule(t)
    return SamplerError(
        f"{source!r} at t = {t}, where alpha = {alpha:.3g} and sigma = {sigma:.3g}, says nothing of {to!r}",
        "a time strictly between 0 and 1, or a head that is defined there (V or Velocity)",
        "convert(process, x, out, 0.999, Eps(), V())",
    )


class Rescheduled:
    """A denoiser on another schedule than it was trained with: the same x0 at equal log-SNR.

    Beyond the log-SNRs that the model has seen it is asked at its last one.

    Args:
        denoiser: Anything that predicts the clean state.
        schedule: The new schedule; by part for bundles, whose network then sees a time for each part.
    """

    def __init__(self, denoiser: Denoise, schedule: Schedule | Mapping[str, Any]) -> None:
        self.denoiser = denoiser
        self.schedule = schedule
        self._process = rescheduled(denoiser.process, schedule)

    def __repr__(self) -> str:
        return f"Rescheduled({self.denoiser!r}, {self.schedule!r})"

    @property
    def process(self) -> Process:
        return self._process

    def select(self, rows: Any) -> Rescheduled:
        """The same for some of the samples."""
        return Rescheduled(for_samples(self.denoiser, rows), self.schedule)

    def __call__(self, x: State, t: Any, **cond: Any) -> State:
        """x0 predicted from x_t [B, ...] on the new path."""
        seen, time = translated(x, t, self._process, self.denoiser.process)
        return self.denoiser(seen, time, **cond)


def rescheduled(process: Process, schedule: Any) -> Process:
    """The process with another schedule, by part for bundles; parts that are not named keep theirs."""
    if isinstance(process, Joint):
        if not isinstance(schedule, Mapping):
            schedule = dict.fromkeys(process.parts, schedule)
        process.match(schedule, "the schedules")
        return Joint({k: rescheduled(p, schedule[k]) if k in schedule else p for k, p in process.parts.items()})
    if isinstance(process, Gaussian | Geodesic):
        return replace(process, schedule=schedule)
    raise SamplerError(f"{process!r} has no schedule to change", "a Gaussian or Geodesic process, or a Joint of them")


def translated(x: State, t: Any, new: Process, old: Process) -> tuple[State, Any]:
    """The state and time at which the old process has the new one's log-SNR."""
    if isinstance(new, Joint) and isinstance(old, Joint):
        pairs = {k: translated(x[k], pick(t, k), part, old.parts[k]) for k, part in new.parts.items()}
        return {k: v[0] for k, v in pairs.items()}, {k: v[1] for k, v in pairs.items()}
    assert isinstance(new, Leaf) and isinstance(old, Leaf)
    if new.schedule == old.schedule:
        return x, t
    time = old.schedule.time(new.schedule.logsnr(t))
    if isinstance(new, Geodesic):
        return x, time  # equal shares of the way: the same point
    (alpha, sigma), (alpha2, sigma2) = new.schedule(t), old.schedule(time)
    return x * per_sample((alpha2 + sigma2) / (alpha + sigma), x), time
