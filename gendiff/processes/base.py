r"""How data become noise on a space, and the exact move back towards a prediction.

A process has a space and a schedule and knows five verbs. On flat spaces (`Gaussian`), z ~ N(0, I):

    noise(x0, t)          x_t = alpha_t x0 + sigma_t z
    renoise(x_t, t -> s)  x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) z,  a = alpha_s/alpha_t,  s > t
    step(x_t, x0, t -> s) x_s = alpha_s x0 + sqrt(sigma_s^2 - churn^2) (x_t - alpha_t x0)/sigma_t + churn noise_scale z
    prior                 x_t ~ sigma_t z
    clock(t)              the schedule's clock c

churn = 0 is DDIM and the Euler step of the probability flow; churn = the posterior's standard deviation is DDPM; churn
= sigma_s renoises in full. `noise_scale` scales the injected noise (its square is the "noise scale" of protein design).

On any space (`Geodesic`, flow matching after Chen & Lipman 2024), with kappa = sigma of a flow schedule:

    noise                 x_t = exp_x0(kappa_t log_x0(z)),  z ~ space.random
    step                  x_s = lerp(x_t, x0, 1 - kappa_s/kappa_t)

`Joint` runs named parts of a bundle side by side, each by its own clock.

Times are floats (sampling: coefficients are computed on the host, once) or float64 tensors [B] (training).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gendiff.errors import GendiffError, SamplerError, nearest
from gendiff.processes.schedules import Schedule, Time
from gendiff.random import Noise
from gendiff.spaces import Space, State, Weight, map_state, per_sample


@dataclass(frozen=True)
class Move:
    """The numbers of one step: x_s = keep x_t + pull target + churn z (flat), or a geodesic share (curved)."""

    keep: float | Tensor
    pull: float | Tensor
    churn: float | Tensor = 0.0


class Process(ABC):
    """The interface; see the top of the file. Leaves have a `space` and a `schedule`; `Joint` has parts."""

    @property
    @abstractmethod
    def space(self) -> Space:
        """Where its states live."""

    @abstractmethod
    def noise(self, x0: State, t: Time, noise: Noise) -> State:
        """x_t given x0."""

    def endpoint(self, x0: State, noise: Noise) -> State:
        """A draw z of the reference noise, of the shape of x0: the far end of the path that `noise` takes."""
        return self.space.random(x0, noise)

    @property
    def couples(self) -> bool:
        """Whether it has a path to a given noise (`noised`), so that a coupling may choose the noise."""
        return type(self).noised is not Process.noised

    def noised(self, x0: State, z: State, t: Time) -> State:
        """x_t on the path from x0 to a given z: `noise(x0, t, noise)` is `noised(x0, endpoint(x0, noise), t)`."""
        raise GendiffError(
            f"{self!r} has no path to a given noise", "a process on flat or curved spaces, or Independent()"
        )

    @abstractmethod
    def renoise(self, x: State, t: float, s: float, noise: Noise, noise_scale: Any = 1.0) -> State:
        """x_s given x_t at an earlier, cleaner t < s; `noise_scale` is a factor on the noise, or one by part."""

    @abstractmethod
    def move(self, t: Time, s: Time, churn: Weight = 0.0, noise_scale: float = 1.0) -> Any:
        """The coefficients of the step t -> s, one `Move` per leaf."""

    @abstractmethod
    def take(self, x: State, target: State, move: Any, noise: Noise | None = None) -> State:
        """The step from x towards the target by coefficients from `move`."""

    @abstractmethod
    def prior(self, like: State, noise: Noise, t: float = 1.0) -> State:
        """A draw of x_t for t at the noise end."""

    @abstractmethod
    def log_prior(self, x: State, t: float = 1.0, data_std: Any = 0.0) -> Tensor:
        """The log density [B] of `prior` at x, by the space's own volume.

        Args:
            data_std: The standard deviation of centred data, or one by part: on flat spaces the density is then that of
                noise and what is left of such data, N(0, sigma^2 + alpha^2 data_std^2). Elsewhere it is not read.
        """

    @abstractmethod
    def masked(self, mask: Any) -> Process:
        """The process on one padded batch."""

    @abstractmethod
    def per_part(self, f: Callable[..., Any], *settings: Any) -> Any:
        """f(leaf process, *settings), or a dict of name to f by part; settings may be by part themselves.

        Raises:
            SamplerError: For a setting by part where there are no parts, or others than these.
        """

    def step(self, x: State, target: State, t: Time, s: Time, churn: Weight = 0.0, noise: Noise | None = None) -> State:
        """x_s from x_t, were the prediction `target` constant. `noise` is needed where churn is not zero."""
        return self.take(x, target, self.move(t, s, churn), noise)

    def clock(self, t: Time) -> Any:
        """c(t), by part for bundles."""
        return self.per_part(lambda leaf: leaf.schedule.clock(t))

    def logsnr(self, t: Time) -> Any:
        """log alpha^2/sigma^2, by part for bundles."""
        return self.per_part(lambda leaf: leaf.schedule.logsnr(t))

    def mix(self, predictions: Sequence[State], weights: Any) -> State:
        """The affine mix of predictions (newest first), weights a tuple, or a dict of tuples by part."""
        return self.space.mix(predictions, weights)

    @abstractmethod
    def redone(self, move: Any, u: float, s: float, again: int) -> Any:
        """The coefficients of a move to s that redoes others of its step, which have come to the time u.

        Args:
            again: How many moves of the step came before.
        """

    @abstractmethod
    def resume(self, x: State, base: State) -> State:
        """Where a redone move starts: `base`, the state before the step, or for classes x, the state reached."""

    @abstractmethod
    def lead(self, x: State, x0: State, norms: Any) -> State:
        """The tangent that leads from the state on its clock, x/n, to the prediction; norms as in a solver's row.

        A part without norms keeps the prediction itself.
        """

    @abstractmethod
    def advance(
        self, x: State, history: Sequence[State], weights: Any, norms: Any, move: Any, noise: Noise | None = None
    ) -> State:
        """A whole row of a solver: the target that the history gives, and the step from x towards it.

        Args:
            history: Predictions, or where there are norms their leads, newest first.
            weights: Their weights, a tuple, or by part.
            norms: None, or what the row says; the target is then where the mixed leads lead to from x/n.
            move: Coefficients from `move`.
        """


class Leaf(Process):
    """A process of one part: a `schedule` and the space it is `on`.

    Attributes:
        flows: Whether it has a probability flow; those on categories have none.
        data_std: The standard deviation of the data, where it is known and not 1: grids and solvers go by it.
    """

    schedule: Schedule
    on: Space
    flows: ClassVar[bool] = True
    data_std: float | None = None

    @property
    def space(self) -> Space:
        return self.on

    @property
    def straight(self) -> bool:
        """Whether a constant prediction is a constant rate on the clock, all along its path.

        Only there do solvers mix rates; elsewhere they mix the predictions themselves.
        """
        return self.on.flat or self.on.framed

    def churn(self, t: float, s: float) -> float:
        """The churn of a step t -> s for which a sampler says none; on flows none."""
        return 0.0

    def masked(self, mask: Any) -> Self:
        on = self.on.masked(mask)
        if on is self.on:
            return self
        bound = replace(self)  # type: ignore[type-var]
        object.__setattr__(bound, "on", on)
        return bound

    @abstractmethod
    def error(self, x: State, guess: State, x0: State, t: Time) -> Tensor:
        """How far a predicted clean state is from the true one, seen from x_t, per degree of freedom: [B]."""

    @abstractmethod
    def norm(self, t: Time, scale: float) -> Time:
        """n(t): the probability flow is written for y = x/n, the frame in which it is straight at constant x0."""

    @abstractmethod
    def pace(self, t: Time, scale: float) -> Time:
        """dlog k/dt, k the clock of that frame; t > 0."""

    @abstractmethod
    def drift(self, y: State, x0: State, t: Time) -> State:
        """The tangent dy/dlog k of the probability flow at y = x_t/n, were the prediction x0."""

    def per_part(self, f: Callable[..., Any], *settings: Any) -> Any:
        for setting in settings:
            if isinstance(setting, Mapping):
                raise SamplerError(f"A setting by part {dict(setting)!r} for {self!r}, which has no parts", "a number")
        return f(self, *settings)

    def redone(self, move: Any, u: float, s: float, again: int) -> Any:
        return move

    def resume(self, x: State, base: State) -> State:
        return base

    def lead(self, x: State, x0: State, norms: Any) -> State:
        return x0 if norms is None else self.space.log(divided(x, norms[0]), x0)

    def advance(
        self, x: State, history: Sequence[State], weights: Any, norms: Any, move: Any, noise: Noise | None = None
    ) -> State:
        if norms is None:
            return self.take(x, self.mix(history, weights), move, noise)
        space, y = self.space, divided(x, norms[1])
        v, *rest = (space.scale(lead, w) for lead, w in zip(history, weights, strict=False) if w != 0)
        for more in rest:
            v = map_state(torch.add, v, more)
        return self.take(x, space.exp(y, space.tangent(y, v)), move, noise)


def divided(x: State, n: float) -> State:
    """x/n; where n is 1 the state itself."""
    return x if n == 1 else x / n


def add_scaled(y: Tensor, x: Tensor, w: Any) -> None:
    """Adds w x to y, which nobody else has seen; by subtraction, since torch.compile rounds an added w x twice."""
    y.sub_(x, alpha=-w)


def square_error(space: Space, x: State, guess: State, x0: State) -> Tensor:
    """|log_x(guess) - log_x(x0)|^2 per degree of freedom, [B]."""
    error = space.norm2(x, space.log(x, guess) - space.log(x, x0))
    return error / per_sample(space.dim(x).clamp_min(1), error)


def pick(value: Any, name: str) -> Any:
    """The entry of one part where a dict by part was given, else the shared value."""
    if not isinstance(value, Mapping):
        return value
    if name not in value:
        raise SamplerError(f"A setting by part {dict(value)!r} has nothing for the part {name!r}", "one for every part")
    return value[name]


def require_noise(noise: Noise | None) -> Noise:
    """The source of random numbers of a step with churn."""
    if noise is None:
        raise GendiffError("A step with churn got no noise", "a source of random numbers", "noise=Noise.of(seed, n)")
    return noise


def leaf_of(process: Process, part: str | None = None) -> Leaf:
    """A leaf process itself, or a bundle's named (else first) part.

    Raises:
        SamplerError: For a name that is no part's; a process without parts has none.
    """
    found = process.per_part(lambda leaf: leaf)
    if part is not None and not isinstance(found, dict):
        raise SamplerError(f"The process has no part {part!r}", "no name: it has no parts", "part=None")
    while isinstance(found, dict):
        if part is not None and part not in found:
            raise SamplerError(f"The process has no part {part!r}", f"one of {', '.join(found)}.{nearest(part, found)}")
        found = found[part] if part is not None else next(iter(found.values()))
        part = None
    return found


def schedule_of(process: Process, part: str | None = None) -> Schedule:
    """The schedule of `leaf_of`."""
    return leaf_of(process, part).schedule
