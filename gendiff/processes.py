r"""How data become noise on a space, and the exact move back towards a prediction.

A process has a space and a schedule and knows five verbs. On flat spaces (`Gaussian`), z ~ N(0, I):

    noise(x0, t)          x_t = alpha_t x0 + sigma_t z
    renoise(x_t, t -> s)  x_s = a x_t + sqrt(sigma_s^2 - a^2 sigma_t^2) z,  a = alpha_s/alpha_t,  s > t
    step(x_t, x0, t -> s) x_s = alpha_s x0 + sqrt(sigma_s^2 - churn^2) (x_t - alpha_t x0)/sigma_t + churn spread z
    prior                 x_t ~ sigma_t z
    clock(t)              the schedule's clock c

churn = 0 is DDIM and the Euler step of the probability flow; churn = the posterior's standard deviation is DDPM; churn
= sigma_s renoises in full. `spread` scales the injected noise (its square is the "noise scale" of protein design).

On any space (`Geodesic`, flow matching after Chen & Lipman 2024), with kappa = sigma of a flow schedule:

    noise                 x_t = exp_x0(kappa_t log_x0(z)),  z ~ space.random
    step                  x_s = lerp(x_t, x0, 1 - kappa_s/kappa_t)

`Joint` runs named parts of a bundle side by side, each by its own clock.

Times are floats (sampling: coefficients are computed on the host, once) or float64 tensors [B] (training).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gendiff.errors import GendiffError
from gendiff.random import Noise
from gendiff.schedules import Linear, Schedule, Time, maths
from gendiff.spaces import Euclidean, Product, Space, State, Weight, along, map_state


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

    def noised(self, x0: State, z: State, t: Time) -> State:
        """x_t on the path from x0 to a given z: `noise(x0, t, noise)` is `noised(x0, endpoint(x0, noise), t)`."""
        raise GendiffError(
            f"{self!r} has no path to a given noise", "a process on flat or curved spaces, or Independent()"
        )

    @abstractmethod
    def renoise(self, x: State, t: float, s: float, noise: Noise, spread: float = 1.0) -> State:
        """x_s given x_t at an earlier, cleaner t < s; `spread` is a factor on the noise."""

    @abstractmethod
    def move(self, t: Time, s: Time, churn: Weight = 0.0, spread: float = 1.0) -> Any:
        """The coefficients of the step t -> s, one `Move` per leaf."""

    @abstractmethod
    def take(self, x: State, target: State, move: Any, noise: Noise | None = None) -> State:
        """The step from x towards the target by coefficients from `move`."""

    @abstractmethod
    def prior(self, like: State, noise: Noise, t: float = 1.0) -> State:
        """A draw of x_t for t at the noise end."""

    @abstractmethod
    def log_prior(self, x: State, t: float = 1.0) -> Tensor:
        """The log density [B] of `prior` at x, by the space's own volume."""

    @abstractmethod
    def masked(self, mask: Any) -> Process:
        """The process on one padded batch."""

    @abstractmethod
    def per_part(self, f: Callable[[Any], Any]) -> Any:
        """f of the leaf process, or a dict of name to f by part."""

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
    """

    schedule: Schedule
    on: Space
    flows: ClassVar[bool] = True

    @property
    def space(self) -> Space:
        return self.on

    @abstractmethod
    def masked(self, mask: Any) -> Leaf:
        """The process on one padded batch."""

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

    def per_part(self, f: Callable[[Any], Any]) -> Any:
        return f(self)

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


def gain(y: Tensor, x: Tensor, w: Any) -> None:
    """Adds w x to y, which nobody else has seen; by subtraction, since torch.compile rounds an added w x twice."""
    y.sub_(x, alpha=-w)


def square_error(space: Space, x: State, guess: State, x0: State) -> Tensor:
    """|log_x(guess) - log_x(x0)|^2 per degree of freedom, [B]."""
    error = space.norm2(x, space.log(x, guess) - space.log(x, x0))
    return error / along(space.dim(x).clamp_min(1), error)


@dataclass(frozen=True)
class Gaussian(Leaf):
    """Gaussian diffusion on a flat space, by any schedule.

    Args:
        schedule: t to (alpha, sigma).
        on: `Euclidean()` or `Centered()`.
    """

    schedule: Schedule = field(default_factory=Linear)
    on: Space = field(default_factory=Euclidean)

    def masked(self, mask: Any) -> Gaussian:
        return replace(self, on=self.on.masked(mask))

    def noise(self, x0: Tensor, t: Time, noise: Noise) -> Tensor:
        return self.noised(x0, self.on.random(x0, noise), t)

    def noised(self, x0: Tensor, z: Tensor, t: Time) -> Tensor:
        """alpha x0 + sigma z for a given z."""
        alpha, sigma = self.schedule(t)
        return along(alpha, x0) * x0 + along(sigma, x0) * z

    def renoise(self, x: Tensor, t: float, s: float, noise: Noise, spread: float = 1.0) -> Tensor:
        alpha_t, sigma_t = self.schedule(t)
        alpha_s, sigma_s = self.schedule(s)
        a = alpha_s / alpha_t
        return a * x + spread * math.sqrt(max(sigma_s**2 - (a * sigma_t) ** 2, 0.0)) * self.on.random(x, noise)

    def move(self, t: Time, s: Time, churn: Weight = 0.0, spread: float = 1.0) -> Move:
        alpha_t, sigma_t = self.schedule(t)
        alpha_s, sigma_s = self.schedule(s)
        if not isinstance(t, Tensor) and not isinstance(s, Tensor) and not isinstance(churn, Tensor):
            keep = math.sqrt(max(sigma_s**2 - churn**2, 0.0)) / sigma_t if churn else sigma_s / sigma_t  # type: ignore[operator]
            return Move(keep, alpha_s - keep * alpha_t, churn * spread)  # type: ignore[operator]
        m = maths(torch.empty(0))
        keep = m.sqrt(m.clip(sigma_s**2 - churn**2, 0.0, math.inf)) / sigma_t  # type: ignore[operator]
        return Move(keep, alpha_s - keep * alpha_t, churn * spread)  # type: ignore[operator]

    def take(self, x: Tensor, target: Tensor, move: Move, noise: Noise | None = None) -> Tensor:
        if not any(isinstance(w, Tensor) for w in (move.keep, move.pull, move.churn)):
            return self.advance(x, (target,), (1.0,), None, move, noise)
        y = along(move.keep, x) * x + along(move.pull, x) * target
        if isinstance(move.churn, Tensor) or move.churn:
            y = y + along(move.churn, x) * self.on.random(x, needed(noise))
        return y

    def lead(self, x: Tensor, x0: Tensor, norms: Any) -> Tensor:
        return x0 if norms is None else torch.sub(x0, x, alpha=1 / norms[0])

    def advance(
        self, x: Tensor, history: Sequence[Tensor], weights: Any, norms: Any, move: Move, noise: Noise | None = None
    ) -> Tensor:
        # One linear combination: keep x + pull sum_j w_j x0_j, or (keep + pull/n) x + pull sum_j w_j l_j.
        pull: Any = move.pull
        keep = move.keep if norms is None else move.keep + pull / norms[1]
        terms = [(x0, pull * w) for x0, w in zip(history, weights, strict=False) if w != 0]
        if abs(keep - 1) < 1e-15 and terms:  # rates at alpha = 1: the state and the first of them, in one operation
            (x0, w), *terms = terms
            y = torch.sub(x, x0, alpha=-w)
        else:
            y = x * keep
        for x0, w in terms:
            gain(y, x0, w)
        if move.churn:
            gain(y, self.on.random(x, needed(noise)), move.churn)
        return y

    def prior(self, like: Tensor, noise: Noise, t: float = 1.0) -> Tensor:
        return self.schedule(t)[1] * self.on.random(like, noise)

    def log_prior(self, x: Tensor, t: float = 1.0) -> Tensor:
        sigma = self.schedule(t)[1]
        return self.on.log_random(x / sigma) - (self.on.dim(x) * math.log(sigma)).to(x)

    def error(self, x: Tensor, guess: Tensor, x0: Tensor, t: Time) -> Tensor:
        return square_error(self.on, x, guess, x0)

    def rate(self, t: Time) -> Tensor:
        """The weight of the squared error in the variational bound: -d(alpha^2/sigma^2)/dt/2."""
        (alpha, sigma), (up, down) = self.schedule(t), self.schedule.slopes(t)
        return -(alpha / sigma**2) * (up - alpha * down / sigma)

    def gap(self, x: Tensor, guess: Tensor, x0: Tensor, t: Time, s: Time) -> Tensor:
        """KL [B] of the ancestral step t -> s from the one that knows x0."""
        now, then = (torch.as_tensor(self.schedule.logsnr(u), dtype=torch.float64).exp() for u in (t, s))
        square = self.on.norm2(x, guess - x0)
        return 0.5 * along(then - now, square) * square

    def decode(self, x: Tensor, guess: Tensor, x0: Tensor, t: float) -> Tensor:
        """-log p(x0 | x_t) at the last time, [B]: the mean over x_t, with x0 ~ N(x_t/alpha, (sigma/alpha)^2)."""
        alpha, sigma = self.schedule(t)
        return (0.5 * self.on.dim(x0) * (1 + math.log(2 * math.pi * (sigma / alpha) ** 2))).to(x0)

    def start_gap(self, x0: Tensor) -> Tensor:
        """KL [B] of q(x_1 | x0) from the prior."""
        alpha, sigma = self.schedule(1.0)
        return 0.5 * (alpha / sigma) ** 2 * self.on.norm2(x0, x0)

    def norm(self, t: Time, scale: float) -> Time:
        alpha, sigma = self.schedule(t)
        return alpha + sigma / scale

    def pace(self, t: Time, scale: float) -> Time:
        return self.schedule.pace(t, scale)

    def drift(self, y: Tensor, x0: Tensor, t: Time) -> Tensor:
        return y - x0

    def __repr__(self) -> str:
        return f"Gaussian({self.schedule!r}, {self.on!r})"


@dataclass(frozen=True)
class Geodesic(Leaf):
    """Flow matching on any space: noise moves along the geodesic from data to a draw of the reference noise.

    With churn, the direction back to noise is partly redrawn in the tangent space at the prediction: exact at churn 0
    and at churn = kappa (full renoising), a tangent approximation between.

    Args:
        on: Any space.
        schedule: A flow schedule (alpha + sigma = 1); its sigma is kappa.
    """

    on: Space
    schedule: Schedule = field(default_factory=Linear)

    def __post_init__(self) -> None:
        if not self.schedule.flow:
            raise GendiffError(
                f"Geodesic got the schedule {self.schedule!r}",
                "a flow schedule, alpha + sigma = 1 (Linear, Exponential, Polynomial, or one of them Shifted)",
                "Geodesic(SO3(), Linear())",
            )

    def masked(self, mask: Any) -> Geodesic:
        return replace(self, on=self.on.masked(mask))

    def noise(self, x0: State, t: Time, noise: Noise) -> State:
        return self.noised(x0, self.on.random(x0, noise), t)

    def noised(self, x0: State, z: State, t: Time) -> State:
        return self.on.lerp(x0, z, self.schedule(t)[1])

    def renoise(self, x: State, t: float, s: float, noise: Noise, spread: float = 1.0) -> State:
        (alpha_t, _), (alpha_s, _) = self.schedule(t), self.schedule(s)
        return self.on.lerp(x, self.on.random(x, noise), spread * (1 - alpha_s / alpha_t))

    def move(self, t: Time, s: Time, churn: Weight = 0.0, spread: float = 1.0) -> Move:
        kappa_t, kappa_s = self.schedule(t)[1], self.schedule(s)[1]
        if isinstance(churn, Tensor) or churn:
            root = kappa_s**2 - churn**2  # type: ignore[operator]
            root = root.clamp_min(0).sqrt() if isinstance(root, Tensor) else math.sqrt(max(root, 0.0))
            return Move(root / kappa_t, 1 - root / kappa_t, churn * spread)  # type: ignore[operator]
        return Move(kappa_s / kappa_t, 1 - kappa_s / kappa_t)

    def take(self, x: State, target: State, move: Move, noise: Noise | None = None) -> State:
        if not isinstance(move.churn, Tensor) and not move.churn:
            return self.on.lerp(x, target, move.pull)
        back = self.on.scale(self.on.log(target, x), move.keep)
        fresh = self.on.scale(self.on.log(target, self.on.random(x, needed(noise))), move.churn)
        return self.on.exp(target, back + fresh)

    def prior(self, like: State, noise: Noise, t: float = 1.0) -> State:
        return self.on.random(like, noise)

    def log_prior(self, x: State, t: float = 1.0) -> Tensor:
        return self.on.log_random(x)

    def error(self, x: State, guess: State, x0: State, t: Time) -> Tensor:
        return square_error(self.on, x, guess, x0)

    def norm(self, t: Time, scale: float) -> Time:
        return 1.0

    def pace(self, t: Time, scale: float) -> Time:
        return self.schedule.clock_slope(t) / self.schedule.clock(t)

    def drift(self, y: State, x0: State, t: Time) -> State:
        return self.on.scale(self.on.log(y, x0), -1.0)

    def __repr__(self) -> str:
        return f"Geodesic({self.on!r}, {self.schedule!r})"


class Joint(Process):
    """Named parts side by side, each with its own process and clock, on one shared time.

    Args:
        parts: name to process, as keywords: `Joint(pos=Gaussian(Linear(), Centered()), rot=Geodesic(SO3()))`.
    """

    def __init__(self, parts: Mapping[str, Process] | None = None, /, **named: Process) -> None:
        self.parts: dict[str, Process] = {**(parts or {}), **named}
        if not self.parts:
            raise GendiffError("Joint() got no parts", "at least one named process", "Joint(pos=Gaussian())")
        self._space = Product({name: part.space for name, part in self.parts.items()})

    def __repr__(self) -> str:
        return f"Joint({', '.join(f'{name}={part!r}' for name, part in self.parts.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Joint) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(tuple(self.parts))

    @property
    def space(self) -> Product:
        return self._space

    def each(self, f: Callable[[str, Process], Any]) -> dict[str, Any]:
        """f(name, process) for every part."""
        return {name: f(name, part) for name, part in self.parts.items()}

    def noise(self, x0: State, t: Time, noise: Noise) -> State:
        return self.each(lambda name, part: part.noise(x0[name], pick(t, name), noise.fork(name)))

    def noised(self, x0: State, z: State, t: Time) -> State:
        return self.each(lambda name, part: part.noised(x0[name], z[name], pick(t, name)))

    def renoise(self, x: State, t: float, s: float, noise: Noise, spread: float = 1.0) -> State:
        def one(name: str, part: Process) -> State:
            return part.renoise(x[name], pick(t, name), pick(s, name), noise.fork(name), spread)

        return self.each(one)

    def move(self, t: Time, s: Time, churn: Weight = 0.0, spread: Any = 1.0) -> dict[str, Any]:
        return self.each(
            lambda name, part: part.move(pick(t, name), pick(s, name), pick(churn, name), pick(spread, name))
        )

    def take(self, x: State, target: State, move: Any, noise: Noise | None = None) -> State:
        def one(name: str, part: Process) -> State:
            return part.take(x[name], target[name], move[name], None if noise is None else noise.fork(name))

        return self.each(one)

    def prior(self, like: State, noise: Noise, t: float = 1.0) -> State:
        return self.each(lambda name, part: part.prior(like[name], noise.fork(name), pick(t, name)))

    def log_prior(self, x: State, t: float = 1.0) -> Tensor:
        parts = self.each(lambda name, part: part.log_prior(x[name], pick(t, name)))
        return torch.stack(list(parts.values())).sum(0)

    def masked(self, mask: Any) -> Joint:
        return Joint(self.each(lambda name, part: part.masked(pick(mask, name))))

    def per_part(self, f: Callable[[Any], Any]) -> dict[str, Any]:
        return self.each(lambda _, part: part.per_part(f))

    def mix(self, predictions: Sequence[State], weights: Any) -> State:
        return self.each(lambda name, part: part.mix([p[name] for p in predictions], pick(weights, name)))

    def redone(self, move: Any, u: float, s: float, again: int) -> dict[str, Any]:
        return self.each(lambda name, part: part.redone(move[name], u, s, again))

    def resume(self, x: State, base: State) -> State:
        return self.each(lambda name, part: part.resume(x[name], base[name]))

    def lead(self, x: State, x0: State, norms: Any) -> State:
        return self.each(lambda name, part: part.lead(x[name], x0[name], norms[name]))

    def advance(
        self, x: State, history: Sequence[State], weights: Any, norms: Any, move: Any, noise: Noise | None = None
    ) -> State:
        def one(name: str, part: Process) -> State:
            past, own = [p[name] for p in history], None if noise is None else noise.fork(name)
            return part.advance(x[name], past, pick(weights, name), norms and norms[name], move[name], own)

        return self.each(one)


def pick(value: Any, name: str) -> Any:
    """The entry of one part where a dict by part was given, else the shared value."""
    return value[name] if isinstance(value, Mapping) else value


def needed(noise: Noise | None) -> Noise:
    """The source of random numbers of a step with churn."""
    if noise is None:
        raise GendiffError("A step with churn got no noise", "a source of random numbers", "noise=Noise.of(seed, n)")
    return noise
