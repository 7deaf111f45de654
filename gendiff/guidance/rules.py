r"""Rules that join two predictions: `free` (nothing asked, or a weaker model) and `full`.

    CFG(w)                         lerp(free, full, w)                                    Ho & Salimans 2022
    APG(w, r, eta)                 full + (w - 1)(d - (1 - eta) d_par), d = full - free   Sadat et al. 2024
                                   |d| <= r first, d_par its part along `full`
    CFGZeroStar(w, still_above)    exp(x, (1 - w) q a + w b), a = log(x, free), b = log(x, full), q = <a, b>/<a, a>
                                   and x0 = x, at rest, above the noise level `still_above`   Fan et al. 2025
    CFGRescale(rule, phi)          m (1 + phi (std(full)/std(m) - 1)), m the rule's       Lin et al. 2023, Eq. 15, 16
    GuidanceInterval(rule, a, b)   the rule for a < sigma/alpha <= b, else `full`         Kynkäänniemi et al. 2024
    CFGPlusPlus(rule)              the rule for x0, `free` for the noise                  Chung et al. 2024, CFG++
    CFGPerCondition(a=v, b=w)      full + sum_k (rule_k(free_k, full) - full), free_k without condition k alone

With one condition CFGPerCondition is its rule; a scale of 1 drops its term, and that branch is not evaluated. All
branches are evaluated in one batch.

w = 1 is off: `full`, bit for bit, and one branch is evaluated. Intervals are noise levels sigma/alpha = exp(-logsnr/2),
never shares of the steps, and are decided on the host: outside, one branch is evaluated.

At times [B] both branches are evaluated, and each sample has the prediction that its own time would give it alone.

Every statistic is of one sample, over its real sites; in a bundle each part is its own. Lengths and angles between
clean states mean something on flat spaces only: on curved parts d_par is 0 and CFGRescale changes nothing. APG's
momentum is left out: it makes a prediction depend on those before it, and so on the solver's order of evaluations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Prediction, carried, clean, map_prediction, moved, shared_rows
from gendiff.errors import (
    NOT_NEGATIVE,
    NOT_NEGATIVE_OR_INFINITE,
    NUMBER,
    POSITIVE_OR_INFINITE,
    SamplerError,
    check,
    nearest,
    ordered,
    refuse,
)
from gendiff.processes import Gaussian, Joint, Process, leaf_of, pick, schedule_of
from gendiff.spaces import Categorical, Centered, Euclidean, Product, Space, State, leaves, per_sample, tensors, widened

TINY = 1e-30


class Rule(ABC):
    """The interface. `process` is bound to the batch's mask; t is a float, float64 [B], or these by part."""

    @abstractmethod
    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Any:
        """The joint prediction."""

    def on(self, process: Process, t: Any) -> Any:
        """Whether at this time both branches are needed; if not, the prediction is `full`. bool [B] at times [B]."""
        return True

    def still(self, process: Process, t: Any) -> Any:
        """Whether at this time the state stands still, and nothing need be evaluated. bool [B] at times [B]."""
        return False

    def dropped(self, process: Process, t: Any) -> tuple[Any, ...] | None:
        """The conditions that each free branch drops, where there are several; `join` then gets as many, in a tuple."""
        return None

    def names(self) -> tuple[str, ...]:
        """The conditions that it names, each of which has a free branch of its own."""
        return ()

    def select(self, rows: Any, device: torch.device | None = None) -> Rule:
        """The rule for some of the samples, on a device: scales [B], alone or by part, at these rows."""
        return of_samples(self, lambda value: shared_rows(value, rows, device))

    def expect(self, n: int) -> None:
        """Raises SamplerError unless every number by sample has one entry, or n."""

        def check(value: Any) -> Any:
            for part in value.values() if isinstance(value, Mapping) else (value,):
                if isinstance(part, Tensor) and part.ndim and (part.ndim > 1 or len(part) not in (1, n)):
                    raise SamplerError(
                        f"The guidance {type(self).__name__} got numbers of shape {list(part.shape)} for {n} samples",
                        "a number, or one for each sample",
                        f"guidance=torch.full(({n},), 2.0)",
                    )
            return value

        of_samples(self, check)


def of_samples(rule: Rule, f: Callable[[Any], Any]) -> Rule:
    """A rule with f of its numbers, those of the rules inside it too."""
    if not dataclasses.is_dataclass(rule):
        return rule

    def each(value: Any) -> Any:
        if isinstance(value, Mapping) and any(isinstance(own, Rule) for own in value.values()):
            return {name: each(own) for name, own in value.items()}
        return of_samples(value, f) if isinstance(value, Rule) else f(value)

    return replace(rule, **{k.name: each(getattr(rule, k.name)) for k in dataclasses.fields(rule) if k.init})


LARGE = 1e300
"""What counts as finite."""


def check_number(rule: Any, name: str, low: float = -LARGE, high: float = LARGE, part: Any = None) -> None:
    """Refuses a field that is no number in [low, high], tensor, or dict of these by part.

    Raises:
        RecipeError: With what was expected.
    """
    value = getattr(rule, name) if part is None else part
    if isinstance(value, Mapping) and value:
        for each in value.values():
            check_number(rule, name, low, high, each)
    elif not isinstance(value, Tensor) and not (
        isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) <= high
    ):
        within = "" if (low, high) == (-LARGE, LARGE) else f" in [{low:g}, {high:g}]"
        refuse(rule, name, f"a number{within}, a tensor of one for each sample, or a dict of these by part")


def check_parts(process: Process, name: str, value: Any) -> None:
    """Refuses numbers by part unless they name the parts of the process, each once.

    Raises:
        SamplerError: With the nearest name.
    """
    if not isinstance(value, Mapping):
        return
    parts = list(process.parts) if isinstance(process, Joint) else []
    if set(value) == set(parts):
        return
    odd = [k for k in value if k not in parts] or [k for k in parts if k not in value]
    raise SamplerError(
        f"{name} got numbers for the parts {', '.join(map(repr, value))}, and {odd[0]!r} does not fit",
        f"one for each of {', '.join(map(repr, parts))}{nearest(odd[0], parts)}" if parts else "one number: no parts",
        (f"{{{', '.join(f'{part!r}: 2.0' for part in parts)}}}, or " if parts else "")
        + f"CFGPerCondition({{{', '.join(f'{k!r}: 2.0' for k in value)}}}) where these are conditions",
    )


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance.

    Args:
        scale: w; a number, [B], or a dict of these by part.
    """

    scale: Any = 1.0

    def __post_init__(self) -> None:
        check_number(self, "scale")

    def on(self, process: Process, t: Any) -> Any:
        return not is_one(self.scale)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        check_parts(process, "CFG", self.scale)
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

    def __post_init__(self) -> None:
        check_number(self, "scale")
        check_number(self, "radius", 0.0, math.inf)
        check_number(self, "parallel")

    def on(self, process: Process, t: Any) -> Any:
        return not is_one(self.scale)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        for numbers in (self.scale, self.radius, self.parallel):
            check_parts(process, "APG", numbers)
        if is_one(self.scale):
            return full
        return by_part(process.space, self.part, (free, full), self.scale, self.radius, self.parallel)

    def part(self, space: Space, free: Tensor, full: Tensor, w: Any, radius: Any, parallel: Any) -> Tensor:
        d = space.scale(space.log(full, free), -1.0)
        length = (space.norm2(full, d) + TINY).sqrt()
        radius = radius.to(length) if isinstance(radius, Tensor) else radius
        d = space.scale(d, length.clamp_max(radius) / length)
        if isinstance(space, Euclidean | Centered):
            share = dot(space, d, full) / (dot(space, full, full) + TINY)
            d = d - per_sample((1 - parallel) * share, full) * full
        return space.exp(full, space.scale(d, w - 1))


@dataclass(frozen=True)
class CFGZeroStar(Rule):
    """CFG-Zero*: the free branch at its best scale, and no move while predictions are only noise.

    Classes have no velocity to scale: there it is `CFG`, and standing still is refused.

    Args:
        scale: w, as for `CFG`.
        still_above: The noise level sigma/alpha above which the state stands still.
        part: Whose noise level, in a bundle; the first part's by default.
    """

    scale: Any = 1.0
    still_above: float = float("inf")
    part: str | None = None

    def __post_init__(self) -> None:
        check_number(self, "scale")
        check(self, still_above=POSITIVE_OR_INFINITE, scale=NUMBER)

    def on(self, process: Process, t: Any) -> Any:
        return not is_one(self.scale)

    def still(self, process: Process, t: Any) -> Any:
        if self.still_above == math.inf:
            leaf_of(process, self.part)  # a misspelt part is refused, even where its level is not asked for
            return False
        if not all(leaf.flows for leaf in leaves(process.per_part(lambda leaf: leaf))):
            raise SamplerError(
                f"CFGZeroStar(still_above={self.still_above}) got {process!r}",
                "a process without classes: no prediction leaves a masked site as it is",
                f"CFGZeroStar({self.scale!r})",
            )
        return level(process, t, self.part) > self.still_above

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> State:
        check_parts(process, "CFGZeroStar", self.scale)
        if is_one(self.scale):
            return full
        home = resting_prediction(process, x, t)
        return by_part(process.space, self.zero_star, (home, free, full), self.scale)

    def zero_star(self, space: Space, x: Tensor, free: Tensor, full: Tensor, w: Any) -> Tensor:
        if isinstance(space, Categorical):
            return space.lerp(free, full, w)
        a, b = space.log(x, free), space.log(x, full)
        best = dot(space, a, b) / (dot(space, a, a) + TINY)
        return space.exp(x, space.scale(space.scale(a, best), 1 - w) + space.scale(b, w))


@dataclass(frozen=True)
class Outer(Rule):
    """A rule around another, or around the `CFG` of a number."""

    rule: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", as_rule(self.rule))

    def still(self, process: Process, t: Any) -> Any:
        return self.rule.still(process, t)

    def dropped(self, process: Process, t: Any) -> tuple[Any, ...] | None:
        return self.rule.dropped(process, t)

    def names(self) -> tuple[str, ...]:
        return self.rule.names()


@dataclass(frozen=True)
class CFGRescale(Outer):
    """A rule whose result gets back the spread of the prediction it started from.

    Args:
        rule: Any rule, or a number w for CFG(w).
        share: phi; 0 is off.
    """

    share: Any = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "share", 0.0, 1.0)

    def on(self, process: Process, t: Any) -> Any:
        return self.rule.on(process, t)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Any:
        check_parts(process, "CFGRescale", self.share)
        joint = self.rule.join(process, x, free, full, t)
        return moved(joint, by_part(process.space, self.part, (clean(full), clean(joint)), self.share))

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, low=NOT_NEGATIVE, high=NOT_NEGATIVE_OR_INFINITE)
        ordered(self, "low", "high", equal=True)

    def on(self, process: Process, t: Any) -> Any:
        sigma = level(process, t, self.part)
        return (self.low < sigma) & (sigma <= self.high) & self.rule.on(process, t)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Any:
        return chosen(self.on(process, t), lambda: self.rule.join(process, x, free, full, t), full)


@dataclass(frozen=True)
class CFGPlusPlus(Outer):
    """CFG++: the rule's prediction, with the noise that the free one sees; scales between 0 (free) and 1.

    Args:
        rule: Any rule, or a number w for CFG(w). There is no "off": w = 1 still takes the free branch's noise.
    """

    rule: Any = field(default_factory=lambda: CFG(0.6))

    def __post_init__(self) -> None:
        super().__post_init__()
        one_branch(self, "rule", self.rule)

    def join(self, process: Process, x: State, free: State, full: State, t: Any) -> Prediction:
        return Prediction(self.rule.join(process, x, free, full, t), free)


@dataclass(frozen=True)
class CFGPerCondition(Rule):
    """A rule for each condition, against the prediction that lacks this condition alone.

    Args:
        rules: By condition: a rule, or a number w for CFG(w). Conditions that are not named are not strengthened.
    """

    rules: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.rules, Mapping) or not self.rules:
            refuse(self, "rules", "a rule or a number for each of some conditions", 'CFGPerCondition({"label": 2.0})')
        object.__setattr__(self, "rules", {name: as_rule(rule) for name, rule in self.rules.items()})
        for rule in self.rules.values():
            one_branch(self, "rules", rule)

    def names(self) -> tuple[str, ...]:
        return tuple(self.rules)

    def on(self, process: Process, t: Any) -> Any:
        found = [rule.on(process, t) for rule in self.rules.values()]
        return functools.reduce(operator.or_, found)

    def still(self, process: Process, t: Any) -> Any:
        return functools.reduce(operator.or_, [rule.still(process, t) for rule in self.rules.values()])

    def dropped(self, process: Process, t: Any) -> tuple[Any, ...]:
        return tuple((name,) for name, _ in self.active(process, t))

    def active(self, process: Process, t: Any) -> list[tuple[str, Rule]]:
        """The conditions whose branch is needed at this time, with their rules."""
        needed = [(name, rule, rule.on(process, t)) for name, rule in self.rules.items()]
        return [(name, rule) for name, rule, on in needed if isinstance(on, Tensor) or on]

    def join(self, process: Process, x: State, free: Any, full: Any, t: Any) -> Any:
        terms = [
            chosen(rule.on(process, t), functools.partial(joined, rule, process, x, own, full, t), full)
            for (_, rule), own in zip(self.active(process, t), free, strict=True)
        ]
        if len(terms) == 1:
            return terms[0]
        weights = (*[1.0] * len(terms), 1.0 - len(terms))

        def mixed(half: Callable[[Any], State]) -> State:
            return process.mix([half(term) for term in (*terms, full)], weights)

        split = any(isinstance(term, Prediction) for term in (*terms, full))
        return Prediction(mixed(clean), mixed(carried)) if split else mixed(clean)


def one_branch(owner: Any, name: str, rule: Rule) -> None:
    """Refuses a rule with a free branch for each condition where there is one free branch.

    Raises:
        RecipeError: With the names of the conditions.
    """
    if rule.names():
        refuse(owner, name, f"one rule, not one for each condition ({', '.join(rule.names())})")


def as_rule(scale: Any) -> Rule:
    """The rule itself, or CFG of a number, of [B] (a tensor, or a list of numbers), or of a dict by part."""
    if isinstance(scale, list | tuple) and all(isinstance(part, Real) for part in scale):
        scale = torch.tensor(scale, dtype=torch.float64)
    return scale if isinstance(scale, Rule) else CFG(scale)


def chosen(where: Any, inside: Callable[[], Any], outside: Any) -> Any:
    """inside() where True, else the prediction `outside`; `where` is a bool of the host, or [B]."""
    if not isinstance(where, Tensor):
        return inside() if where else outside

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(where.to(a.device).reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return map_prediction(choose, inside(), outside)


def joined(rule: Rule, process: Process, x: State, free: Any, full: Any, t: Any) -> Any:
    """What a rule makes of two predictions, of which each may be in two: then each half is joined for itself."""
    if isinstance(free, tuple) or (not isinstance(free, Prediction) and not isinstance(full, Prediction)):
        return rule.join(process, x, free, full, t)
    here, there = (rule.join(process, x, half(free), half(full), t) for half in (clean, carried))
    return Prediction(clean(here), carried(there))


def guidance_name(guidance: Any) -> str:
    """A guidance as text, the same for a number and the `CFG` of it."""
    return repr(as_rule(float(guidance) if isinstance(guidance, int) else guidance))


def is_one(scale: Any) -> bool:
    """Whether a scale is 1 for all, as far as the host knows."""
    if isinstance(scale, dict):
        return all(is_one(part) for part in scale.values())
    return isinstance(scale, Real) and scale == 1


def own_time(t: Any, part: str | None) -> Any:
    """The time of a named part, or of the first, where times are by part."""
    while isinstance(t, Mapping):
        t, part = t[next(iter(t)) if part is None else part], None
    return t


def level(process: Process, t: Any, part: str | None) -> Any:
    """The noise level sigma/alpha of a part; infinite where alpha is 0."""
    schedule = schedule_of(process, part)
    t = own_time(t, part)
    alpha, sigma = schedule(t)
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
        return f(space, *map(widened, states), *numbers)
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
