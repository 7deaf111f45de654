r"""Whole jumps along the probability flow, on any space with straight steps.

With k the share of noise (`Schedule.share`: sigma/(alpha + sigma), kappa on curved spaces) and y = x/n the state on it,
every process is a flow along geodesics, and one step towards a constant target X is

    y_s = lerp(y_t, X, 1 - k_s/k_t)

A flow map says by X(x_t, t, s) where to go so that this step is the whole flow, Phi_{t->s}(x_t). Then

    X(x, t, t) = E[x0 | x_t]                                the instantaneous prediction: identity is built in
    Phi_{u->s} . Phi_{t->u} = Phi_{t->s}                    semigroup
    d/dt Phi_{t->s}(x_t) = 0  along the flow                (Eulerian)

The last one is what training in continuous time follows. Its residual, by the log of the clock and as a tangent at x,

    r = carry_x( d Phi^y/d log k_t ),      on flat spaces   r = k_s (V - U) + (k_t - k_s) dX/dk
                                                    with     U = (y - X)/k_t,  V = (y - x0)/k_t

vanishes in the mean over x0 given x_t just where X is a flow map: at s = t it is X - x0, the error of a denoiser, and
for s < t the MeanFlow identity (Geng et al. 2025, Eq. 6) in units of the clean state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import predict
from gendiff.errors import RecipeError
from gendiff.processes import Gaussian, Geodesic, Joint, Leaf, Process, pick
from gendiff.processes.schedules import Time
from gendiff.spaces import State, leaves, map_state, per_sample, tensors
from gendiff.training.fewstep.derivatives import Derivative


def require_straight(what: str, process: Process) -> None:
    """Refuses processes whose steps are no share of a geodesic: there is nothing to jump along.

    Raises:
        RecipeError: For categories, which have no flow, and for Brownian motion on rotations, whose steps are curved.
    """
    for leaf in leaves(process.per_part(lambda leaf: leaf)):
        if not isinstance(leaf, Gaussian | Geodesic):
            fix = "process=Geodesic(SO3())" if leaf.flows else ""
            kind = "has steps that are no share of a geodesic" if leaf.flows else "has no probability flow"
            raise RecipeError(f"{what} for {leaf!r}, which {kind}", "Gaussian and Geodesic processes", fix)


def share(leaf: Leaf, t: Time) -> Time:
    """k(t): the share of noise, in [0, 1]."""
    return leaf.schedule.share(t, 1.0)


def velocity(process: Any, x: State, x0: State, t: Tensor) -> State:
    """The tangent dx/dt of the probability flow at x_t, were the prediction x0; t float64 [B], above 0."""
    if isinstance(process, Joint):
        return process.each(lambda name, part: velocity(part, x[name], x0[name], pick(t, name)))
    if isinstance(process, Gaussian):  # x' = alpha' x0 + sigma' z,  z = (x - alpha x0)/sigma
        (alpha, sigma), (up, down) = process.schedule(t), process.schedule.slopes(t)
        rate = down / sigma
        return per_sample(up - alpha * rate, x) * x0 + per_sample(rate, x) * x
    return process.space.scale(process.drift(x, x0, t), process.pace(t, 1.0))


def aim(process: Any, x: State, end: State, t: Tensor, s: Tensor) -> State:
    """The target X for which the step t -> s from x ends at `end`; s below t."""
    if isinstance(process, Joint):
        return process.each(lambda name, part: aim(part, x[name], end[name], pick(t, name), pick(s, name)))
    move = process.move(t, s)
    if isinstance(process, Gaussian):
        return (end - per_sample(move.keep, x) * x) / per_sample(move.pull, x)
    return process.space.lerp(x, end, 1 / move.pull)


def jump(denoiser: Any, process: Any, x: State, t: Tensor, s: Tensor, cond: Mapping[str, Any]) -> State:
    """x_s: where the step towards the prediction leads. What the denoiser is told of s is among the conditions."""
    return process.step(x, predict(denoiser, process, x, t, cond), t, s)


def eulerian(
    denoiser: Any,
    process: Any,
    x: State,
    t: Tensor,
    s: Tensor,
    v: State,
    derivative: Derivative,
    cond: Mapping[str, Any],
) -> State:
    """The residual r of the flow map t -> s, a tangent at x; see the top of the file.

    Args:
        denoiser: A flow map, told of s by the conditions, or one that always jumps to s.
        process: Bound to the batch's mask.
        x: x_t.
        t: float64 [B], above 0.
        s: float64 [B], at most t.
        v: dx/dt along the flow, or along the conditional path.
        derivative: How it is computed.
        cond: Conditions.
    """
    space, first = process.space, tensors(x)[0]

    def end(tau: Tensor) -> State:
        there, now = space.exp(x, space.scale(v, scaled(tau, first))), t + tau.to(t)
        return jump(denoiser, process, there, now, s, cond)

    at, slope = derivative(space, end, first.new_zeros(()), t)

    def one(leaf: Leaf, x: State, at: State, slope: State) -> State:
        own = slope if leaf.space.flat else leaf.space.carry(x, at, slope)
        return leaf.space.scale(own, 1 / (leaf.norm(s, 1.0) * leaf.pace(t, 1.0)))

    return by_leaf(process, one, x, at, slope)


def scaled(tau: Tensor, like: Tensor) -> Tensor:
    """tau, one number or [B], as one number a sample."""
    return tau.expand(len(like)) if tau.ndim == 0 else tau


def by_leaf(process: Any, f: Any, *states: State) -> State:
    """f(leaf, *states) by part."""
    if isinstance(process, Joint):
        return process.each(lambda name, part: by_leaf(part, f, *(state[name] for state in states)))
    return f(process, *states)


def difference(process: Any, x: State, a: State, b: State) -> State:
    """log_x(a) - log_x(b), a tangent at x."""
    space = process.space
    return map_state(torch.sub, space.log(x, a), space.log(x, b))


def either(first: Tensor, a: State, b: State) -> State:
    """a of the samples where bool [B] says so, b of the others."""

    def one(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(first.to(b.device).reshape(-1, *[1] * (b.ndim - 1)), a, b)

    return map_state(one, a, b)
