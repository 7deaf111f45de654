r"""Rules that join two predictions: `free` (nothing asked, or a weaker model) and `full`.

    CFG(w)                         lerp(free, full, w)                                    Ho & Salimans 2022
    APG(w, r, eta)                 full + (w - 1)(d - (1 - eta) d_par), d = full - free   Sadat et al. 2024
                                   |d| <= r first, d_par its part along `full`
    CFGZeroStar(w, still_above)    exp(x, (1 - w) q a + w b), a = log(x, free), b = log(x, full), q = <a, b>/<a, a>
                                   and x0 = x, at rest, above the noise level `still_above`   Fan et al. 2025
    CFGRescale(rule, phi)          m (1 + phi (std(full)/std(m) - 1)), m the rule's       Lin et al. 2023, Eq. 15, 16
    GuidanceInterval(rule, a, b)   the rule for a < sigma/alpha <= b, else `full`         Kynkäänniemi et al. 2024
    CFGPlusPlus(rule)              the rule for x0, `free` for the noise                  Chung et al. 2024, CFG++

w = 1 is off: `full`, bit for bit, and one branch is evaluated. Intervals are noise levels sigma/alpha = exp(-logsnr/2),
never shares of the steps, and are decided on the host: outside, one branch is evaluated.

Every statistic is of one sample, over its real sites; in a bundle each part is its own. Lengths and angles between
clean states mean something on flat spaces only: on curved parts d_par is 0 and CFGRescale changes nothing. APG's
momentum is left out: it makes a prediction depend on those before it, and so on the solver's order of evaluations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Prediction
from gendiff.processes import Gaussian, Joint, Process, pick, schedule_of
from gendiff.spaces import Centered, Euclidean, Product, Space, State, map_state, per_sample, tensors

TINY = 1e-30


class Rule(ABC):
    """The interface. `process` is bound to the batch's mask; t is a float, or float64 [B]."""

    @abstractmethod
    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Any:
        """The joint prediction."""

    def on(self, process: Process, t: float) -> bool:
        """Whether at this time both branches are needed; if not, the prediction is `full`."""
        return True

    def still(self, process: Process, t: float) -> bool:
        """Whether at this time the state stands still, and nothing need be evaluated."""
        return False


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance.

    Args:
        scale: w; a number, [B], or a dict of these by part.
    """

    scale: Any = 1.0

    def on(self, process: Process, t: float) -> bool:
        return not is_one(self.scale)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        return full if is_one(self.scale) else process.space.lerp(free, full, self.scale)


@dataclass(frozen=True)
class APG(Rule):
    """Adaptive projected guidance, without momentum.

    Args:
        scale: w, as for `CFG`.
        radius: The longest difference |full - free|, a number or by part; infinite by default.
        parallel: eta, the share that is kept of the difference along `full`, which oversaturates.
    """

    scale: Any = 1.0
    radius: Any = float("inf")
    parallel: Any = 0.0

    def on(self, process: Process, t: float) -> bool:
        return not is_one(self.scale)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        if is_one(self.scale):
            return full
        return by_part(process.space, self.part, (free, full), self.scale, self.radius, self.parallel)

    def part(self, space: Space, free: Tensor, full: Tensor, w: Any, radius: Any, parallel: Any) -> Tensor:
        d = space.scale(space.log(full, free), -1.0)
        length = (space.norm2(full, d) + TINY).sqrt()
        d = space.scale(d, (radius / length).clamp_max(1.0))
        if isinstance(space, Euclidean | Centered):
            share = dot(space, d, full) / (dot(space, full, full) + TINY)
            d = d - per_sample((1 - parallel) * share, full) * full
        return space.exp(full, space.scale(d, w - 1))


@dataclass(frozen=True)
class CFGZeroStar(Rule):
    """CFG-Zero*: the free branch at its best scale, and no move while predictions are only noise.

    Args:
        scale: w, as for `CFG`.
        still_above: The noise level sigma/alpha above which the state stands still.
        part: Whose noise level, in a bundle; the first part's by default.
    """

    scale: Any = 1.0
    still_above: float = float("inf")
    part: str | None = None

    def on(self, process: Process, t: float) -> bool:
        return not is_one(self.scale)

    def still(self, process: Process, t: float) -> bool:
        return level(process, t, self.part) > self.still_above

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        if is_one(self.scale):
            return full
        home = resting_prediction(process, x, t)
        return by_part(process.space, self.zero_star, (home, free, full), self.scale)

    def zero_star(self, space: Space, x: Tensor, free: Tensor, full: Tensor, w: Any) -> Tensor:
        a, b = space.log(x, free), space.log(x, full)
        best = dot(space, a, b) / (dot(space, a, a) + TINY)
        return space.exp(x, space.scale(space.scale(a, best), 1 - w) + space.scale(b, w))


@dataclass(frozen=True)
class Outer(Rule):
    """A rule around another, or around the `CFG` of a number."""

    rule: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", as_rule(self.rule))

    def still(self, process: Process, t: float) -> bool:
        return self.rule.still(process, t)


@dataclass(frozen=True)
class CFGRescale(Outer):
    """A rule whose result gets back the spread of the prediction it started from.

    Args:
        rule: Any rule, or a number w for CFG(w).
        share: phi; 0 is off.
    """

    share: Any = 0.7

    def on(self, process: Process, t: float) -> bool:
        return self.rule.on(process, t)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Any:
        joint = self.rule.join(process, x, free, full, t)
        if isinstance(joint, Prediction):
            return Prediction(by_part(process.space, self.part, (full, joint.x0), self.share), joint.back)
        return by_part(process.space, self.part, (full, joint), self.share)

    def part(self, space: Space, full: Tensor, joint: Tensor, share: Any) -> Tensor:
        if not isinstance(space, Euclidean | Centered):
            return joint
        ratio = (variance(space, full) / (variance(space, joint) + TINY)).sqrt()
        return per_sample(1 + share * (ratio - 1), joint) * joint  # type: ignore[operator]


@dataclass(frozen=True)
class GuidanceInterval(Outer):
    """A rule in an interval of noise levels sigma/alpha (log-SNRs -2 ln high to -2 ln low), and `full` outside.

    Args:
        rule: Any rule, or a number w for CFG(w).
        low: Off at or below this level.
        high: Off above this level.
        part: Whose noise level, in a bundle; the first part's by default.
    """

    low: float = 0.0
    high: float = float("inf")
    part: str | None = None

    def on(self, process: Process, t: float) -> bool:
        return self.low < level(process, t, self.part) <= self.high and self.rule.on(process, t)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Any:
        joint = self.rule.join(process, x, free, full, t)
        if not isinstance(t, Tensor):
            return joint if self.on(process, t) else full
        sigma = level(process, t, self.part)
        inside = (sigma > self.low) & (sigma <= self.high)

        def choose(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(per_sample(inside.to(a.dtype), a).bool(), a, b)  # type: ignore[union-attr]

        if isinstance(joint, Prediction):
            return Prediction(map_state(choose, joint.x0, full), map_state(choose, joint.back, full))
        return map_state(choose, joint, full)


@dataclass(frozen=True)
class CFGPlusPlus(Outer):
    """CFG++: the rule's prediction, with the noise that the free one sees; scales between 0 (free) and 1.

    Args:
        rule: Any rule, or a number w for CFG(w). There is no "off": w = 1 still takes the free branch's noise.
    """

    rule: Any = field(default_factory=lambda: CFG(0.6))

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Prediction:
        return Prediction(self.rule.join(process, x, free, full, t), free)


def as_rule(scale: Any) -> Rule:
    """The rule itself, or Scale of a number, [B], or dict by part."""
    return scale if isinstance(scale, Rule) else CFG(scale)


def is_one(scale: Any) -> bool:
    """Whether a scale is 1 for all, as far as the host knows."""
    if isinstance(scale, dict):
        return all(is_one(part) for part in scale.values())
    return isinstance(scale, int | float) and scale == 1


def level(process: Process, t: Any, part: str | None) -> Any:
    """The noise level sigma/alpha; infinite where alpha is 0."""
    alpha, sigma = schedule_of(process, part)(t)
    if isinstance(t, Tensor):
        return sigma / alpha
    return sigma / alpha if alpha > 0 else float("inf")


def resting_prediction(process: Process, x: State, t: Any) -> State:
    """The prediction towards which the state does not move: x itself, on flat spaces x/(alpha + sigma)."""
    if isinstance(process, Joint):
        return {name: resting_prediction(part, x[name], pick(t, name)) for name, part in process.parts.items()}
    if isinstance(process, Gaussian):
        alpha, sigma = process.schedule(t)
        return per_sample(1 / (alpha + sigma), x) * x
    return x


def by_part(space: Space, f: Any, states: tuple[State, ...], *numbers: Any) -> State:
    """f(space, *states, *numbers) on every part of a bundle."""
    if not isinstance(space, Product):
        return f(space, *states, *numbers)
    return space.each(lambda k, part: by_part(part, f, tuple(x[k] for x in states), *(pick(n, k) for n in numbers)))


def dot(space: Space, u: Tensor, v: Tensor) -> Tensor:
    """<u, v> over real sites: [B]."""
    return space.real(u * v)[..., None].flatten(1).sum(1)


def variance(space: Space, x: Tensor) -> Tensor:
    """The variance over the real numbers of each sample: [B]."""
    real = space.real(torch.ones_like(x))
    n = real.flatten(1).sum(1).clamp_min(1)
    mean = per_sample(space.real(x).flatten(1).sum(1) / n, x)
    return (real * (x - mean) ** 2).flatten(1).sum(1) / n


def batch(x: State) -> int:
    """The number of samples."""
    return tensors(x)[0].shape[0]
