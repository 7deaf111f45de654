r"""A guided denoiser is a denoiser.

    Guided              a rule joins the prediction with conditions and the one without; both in one batch
    Autoguidance        a rule joins a model and a weaker one of the same data (Karras et al. 2024)
    ClassifierGuidance  x0 + w (sigma^2/alpha) grad_x log p(y | x_t): a classifier's gradient (Dhariwal & Nichol 2021)
    Constrained         f(x0): what is known of every clean state

They wrap one another: ClassifierGuidance(Guided(model, APG(3.0), without), log_p).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoise, Prediction, clean
from gendiff.errors import SamplerError
from gendiff.guidance.rules import as_rule, batch, resting_prediction
from gendiff.processes import Gaussian, Joint, Process, pick
from gendiff.spaces import State, leaves, map_state, per_sample, tensors

FLOOR = 1e-3
"""Where alpha is below this share of sigma, gradients are taken at the time at which it is this share."""


def stack(a: Any, b: Any) -> Any:
    """Two batches as one; None and other shared values pass."""
    if isinstance(a, Tensor):
        return torch.cat([a, b])
    if isinstance(a, dict):
        return {name: stack(a[name], b[name]) for name in a}
    return a


def unruled(rule: Any, denoiser: Denoise, process: Process, x: State, t: Any, cond: dict[str, Any]) -> Any:
    """The prediction where a rule needs one branch at most: at rest, or the plain one; None where it needs both."""
    if isinstance(t, Tensor):
        return None
    if rule.still(process, t):
        return resting_prediction(process, x, t)
    return None if rule.on(process, t) else denoiser(x, t, **cond)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance.

    Args:
        denoiser: Trained with and without conditions.
        scale: w: a number, [B], or a number by part of a bundle; or a rule, e.g. GuidanceInterval(APG(3.0), 0.3, 3.0).
        without: The conditions with nothing asked for, from the full ones (labels at their "none").
    """

    denoiser: Denoise
    scale: Any
    without: Callable[[dict[str, Any]], dict[str, Any]]

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        rule, process = as_rule(self.scale), self.process.masked(cond.get("mask"))
        if (alone := unruled(rule, self.denoiser, process, x, t, cond)) is not None:
            return alone
        time = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        both = self.denoiser(
            map_state(lambda part: torch.cat([part, part]), x), time, **stack(cond, self.without(cond))
        )
        n = batch(x)
        full, free = map_state(lambda part: part[:n], both), map_state(lambda part: part[n:], both)
        return rule.join(process, x, free, full, t)


@dataclass(frozen=True)
class Autoguidance:
    """Autoguidance: away from a weaker model of the same data.

    Args:
        denoiser: The better model.
        weaker: The worse one (smaller, or an earlier checkpoint).
        scale: w, or a rule, as for `Guided`; 1 is off.
    """

    denoiser: Denoise
    weaker: Denoise
    scale: Any

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        rule, process = as_rule(self.scale), self.process.masked(cond.get("mask"))
        if (alone := unruled(rule, self.denoiser, process, x, t, cond)) is not None:
            return alone
        return rule.join(process, x, self.weaker(x, t, **cond), self.denoiser(x, t, **cond), t)


@dataclass(frozen=True)
class ClassifierGuidance:
    """Classifier guidance, on flat spaces.

    Args:
        denoiser: Whose predictions.
        log_p: f(x_t, t, **cond) -> log p(y | x_t) [B], differentiable in x_t.
        scale: w; a number or [B]. 1 is the posterior's own, where the classifier is exact.
    """

    denoiser: Denoise
    log_p: Callable[..., Tensor]
    scale: Any = 1.0

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        if isinstance(self.scale, int | float) and self.scale == 0:
            return self.denoiser(x, t, **cond)
        process = self.process.masked(cond.get("mask"))
        t = floored(process, t)
        with torch.enable_grad():
            leaf = differentiable(x)
            gradient = gradients(self.log_p(leaf, t, **cond).sum(), leaf)
        prediction = self.denoiser(x, t, **cond)
        return moved(prediction, tilted(process, clean(prediction), gradient, t, self.scale))


@dataclass(frozen=True)
class Constrained:
    """A denoiser whose predictions are made to obey what is known of every clean state.

    Args:
        denoiser: Whose predictions.
        constrain: f(x0, t, **cond) -> x0: clipping to a range, moving apart what overlaps.
    """

    denoiser: Denoise
    constrain: Callable[..., State]

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        prediction = self.denoiser(x, t, **cond)
        x0 = self.constrain(clean(prediction), t, **cond)
        return moved(prediction, self.process.masked(cond.get("mask")).space.project(x0))


def moved(prediction: Any, x0: State) -> Any:
    """The prediction with another clean state."""
    return Prediction(x0, prediction.back) if isinstance(prediction, Prediction) else x0


def differentiable(x: State) -> State:
    """A copy of a state with respect to which one may differentiate; classes stay as they are."""
    return map_state(lambda part: part.detach().requires_grad_(part.is_floating_point()), x)


def gradients(y: Tensor, leaf: State, weight: Tensor | None = None, again: bool = False) -> State:
    """The gradient of <weight, y> with respect to the parts of a `differentiable` state, zero for classes.

    Args:
        weight: In the shape of y; None where y is a number.
        again: Whether y will be differentiated once more.
    """
    parts = [part for part in tensors(leaf) if part.requires_grad]
    found = iter(torch.autograd.grad(y, parts, weight, retain_graph=again, materialize_grads=True))
    return map_state(lambda part: next(found) if part.requires_grad else torch.zeros_like(part), leaf)


def floored(process: Process, t: Any) -> Any:
    """t, or where alpha vanishes the nearest time at which alpha is FLOOR sigma."""
    if isinstance(t, Tensor):
        return t
    lasts = leaves(process.per_part(lambda leaf: leaf.schedule.unclock(1 / FLOOR)))
    return min(t, *lasts)


def tilted(process: Process, x0: State, gradient: State, t: Any, scale: Any = 1.0) -> State:
    """x0 + w (sigma^2/alpha) gradient: the mean of x0 after a tilt of p(x_t) with this log-gradient (Tweedie)."""

    def gain(leaf: Gaussian) -> Any:
        alpha, sigma = leaf.schedule(t)
        return sigma * sigma / alpha

    return nudged(process, x0, gradient, gain, scale)


def nudged(process: Process, x0: State, gradient: State, gain: Callable[[Gaussian], Any], scale: Any = 1.0) -> State:
    """x0 + w gain gradient on flat parts; curved parts of a bundle stay."""
    if isinstance(process, Joint) and any(isinstance(part, Gaussian | Joint) for part in process.parts.values()):
        return {
            name: nudged(part, x0[name], gradient[name], gain, pick(scale, name))
            if isinstance(part, Gaussian | Joint)
            else x0[name]
            for name, part in process.parts.items()
        }
    if not isinstance(process, Gaussian):
        raise SamplerError(
            f"A gradient with respect to x_t was to guide {process!r}",
            "a Gaussian process on a flat space: elsewhere the mean of a tilted posterior has no such formula",
        )
    step = process.space.project(per_sample(gain(process), x0) * gradient)
    return process.space.exp(x0, process.space.scale(step, scale))
