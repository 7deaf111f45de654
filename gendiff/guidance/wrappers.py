r"""A guided denoiser is a denoiser.

    Guided              a rule joins the prediction with conditions and the one without; both in one batch
    Autoguidance        a rule joins a model and a weaker one of the same data (Karras et al. 2024)
    ClassifierGuidance  x0 + w (sigma^2/alpha) grad_x log p(y | x_t): a classifier's gradient (Dhariwal & Nichol 2021)
    Constrained         f(x0): what is known of every clean state
    ScaleInput          the scale is told to a network that learned it (Meng et al. 2023): one evaluation for two

They wrap one another: ClassifierGuidance(Guided(model, APG(3.0), without), log_p). A guided denoiser is one in its
derivatives too: what is differentiated inside stays differentiable with respect to x_t, and to whatever else asks for
gradients; under torch.no_grad and torch.inference_mode nothing of that is kept. `select` gives a wrapper for some of
its samples, with their scales, measurements and operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import (
    Denoise,
    clean,
    differentiates,
    for_samples,
    map_prediction,
    moved,
    refuse_guided_jumps,
    shared_rows,
)
from gendiff.errors import SamplerError, check
from gendiff.guidance.rules import (
    CFG,
    Rule,
    as_rule,
    batch,
    check_number,
    check_parts,
    chosen,
    joined,
    one_branch,
    resting_prediction,
)
from gendiff.processes import Gaussian, Joint, Leaf, Process, pick
from gendiff.spaces import State, map_state, per_sample, require_shape, tensors

SINGLE, DOUBLE = 1e-3, 1e-6
"""Where alpha is below this share of sigma, gradients are taken at the time at which it is this share, by precision."""


def stack(first: Any, *others: Any, name: str = "x") -> Any:
    """Batches as one; numbers, None and other shared values pass.

    Raises:
        SamplerError: For a value without its pair, in another shape, or one that differs and has no batch axis.
    """
    if isinstance(first, Tensor) and first.ndim:
        for other in others:
            require_shape(f"Guidance without conditions got {name!r} as", other, first.shape)
        return torch.cat([first, *others])
    if isinstance(first, Mapping):
        for other in others:
            if not isinstance(other, Mapping) or not first.keys() <= other.keys():
                names = ", ".join(map(repr, other)) if isinstance(other, Mapping) else ""
                got = f"the names {names}" if isinstance(other, Mapping) else f"a {type(other).__name__}"
                raise SamplerError(f"Guidance without conditions got {got}", f"all of {', '.join(map(repr, first))}")
        return {key: stack(first[key], *(other[key] for other in others), name=key) for key in first}
    for other in others:
        if first is not other and (isinstance(first, Tensor) or first != other):
            raise SamplerError(
                f"Guidance got the condition {name}={first!r}, and without it {other!r}",
                "tensors [B, ...], one for each sample",
            )
    return first


def ruled(
    rule: Rule, process: Process, x: State, t: Any, plain: Callable[[], Any], both: Callable[[], tuple[Any, Any]]
) -> Any:
    """The prediction of a rule, each branch evaluated where it is needed.

    Args:
        plain: The prediction `full` alone.
        both: `free` and `full`.
    """
    still, on = rule.still(process, t), rule.on(process, t)

    def guided() -> Any:
        if not isinstance(on, Tensor) and not on:
            return plain()
        free, full = both()
        return chosen(on, lambda: joined(rule, process, x, free, full, t), full)

    if not isinstance(still, Tensor):
        return resting_prediction(process, x, t) if still else guided()
    return chosen(still, lambda: resting_prediction(process, x, t), guided())


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance.

    Args:
        denoiser: Trained with and without conditions.
        scale: w: a number, [B], or a number by part of a bundle; or a rule, e.g. GuidanceInterval(APG(3.0), 0.3, 3.0).
        without: The conditions with nothing asked, from the full ones; and, as a second argument, the names of those
            that are to ask for nothing, where a rule drops them one by one.
    """

    denoiser: Denoise
    scale: Any
    without: Callable[..., dict[str, Any]]

    def __post_init__(self) -> None:
        check(self)
        as_rule(self.scale)

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def select(self, rows: Any) -> Guided:
        """The same for some of the samples."""
        return replace(self, denoiser=for_samples(self.denoiser, rows), scale=as_rule(self.scale).select(rows))

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        refuse_guided_jumps("Guidance", cond)
        rule, process = as_rule(self.scale), self.process.masked(cond.get("mask"))

        def both() -> tuple[Any, Any]:
            n, dropped, denoiser = batch(x), rule.dropped(process, t), self.denoiser
            branches = [cond, *([self.without(cond)] if dropped is None else [self.without(cond, k) for k in dropped])]
            count = len(branches)
            if hasattr(denoiser, "select"):
                denoiser = for_samples(denoiser, torch.arange(n, device=tensors(x)[0].device).repeat(count))
            every = denoiser(stack(*[x] * count), stack(*[t] * count), **stack(*branches))
            full, *free = (
                map_prediction(lambda part, k=k: part[k * n : (k + 1) * n], every)  # type: ignore[misc]
                for k in range(count)
            )
            return free[0] if dropped is None else tuple(free), full

        return ruled(rule, process, x, t, lambda: self.denoiser(x, t, **cond), both)


@dataclass(frozen=True)
class ScaleInput:
    """Guidance of a network that is told the scale.

    Args:
        denoiser: Its network takes "guidance".
        scale: A number, or [B].
    """

    denoiser: Denoise
    scale: Any

    def __post_init__(self) -> None:
        check(self)
        rule = as_rule(self.scale)
        if not isinstance(rule, CFG) or isinstance(rule.scale, Mapping):
            raise SamplerError(
                f"guidance={self.scale!r} for a network that is told the scale", "a number, or one for each sample",
                "guidance=2.0",
            )  # fmt: skip

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def select(self, rows: Any) -> ScaleInput:
        """The same for some of the samples."""
        return ScaleInput(for_samples(self.denoiser, rows), as_rule(self.scale).select(rows))

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        rule, like = as_rule(self.scale), tensors(x)[0]
        assert isinstance(rule, CFG)
        scale = torch.as_tensor(rule.scale, dtype=torch.float64).to(like.device, torch.float32).expand(len(like))
        return self.denoiser(x, t, **cond, guidance=scale)


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

    def __post_init__(self) -> None:
        check(self)
        one_branch(self, "scale", as_rule(self.scale))
        own, other = (
            denoiser.process.per_part(lambda leaf: (type(leaf), leaf.schedule, leaf.on))
            for denoiser in (self.denoiser, self.weaker)
        )
        if own != other:
            raise SamplerError(
                f"Autoguidance got a model on {self.denoiser.process!r}, and a weaker one on {self.weaker.process!r}",
                "two models of the same noise levels at the same times",
                "Autoguidance(model, Rescheduled(weaker, model.process.schedule), 2.0)",
            )

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def select(self, rows: Any) -> Autoguidance:
        """The same for some of the samples."""
        better, weaker = (for_samples(denoiser, rows) for denoiser in (self.denoiser, self.weaker))
        return Autoguidance(better, weaker, as_rule(self.scale).select(rows))

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        refuse_guided_jumps("Autoguidance", cond)

        def plain() -> Any:
            return self.denoiser(x, t, **cond)

        def both() -> tuple[Any, Any]:
            asked = {name: value for name, value in cond.items() if name != "embedded"}  # by the other network
            return self.weaker(x, t, **asked), plain()

        process = self.process.masked(cond.get("mask"))
        return ruled(as_rule(self.scale), process, x, t, plain, both)


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

    def __post_init__(self) -> None:
        check(self)
        check_number(self, "scale")

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def select(self, rows: Any) -> ClassifierGuidance:
        """The same for some of the samples."""
        return replace(self, denoiser=for_samples(self.denoiser, rows), scale=shared_rows(self.scale, rows))

    @differentiates
    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        refuse_guided_jumps("Classifier guidance", cond)
        if isinstance(self.scale, int | float) and self.scale == 0:
            return self.denoiser(x, t, **cond)
        process = self.process.masked(cond.get("mask"))
        check_parts(process, "ClassifierGuidance", self.scale)
        t, keep = floored(process, t, x), torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = differentiable(x, keep)
            log_p = self.log_p(leaf, t, **cond)
            require_shape("log_p returned", log_p, (batch(x),))
            finite(
                "log_p returned",
                log_p,
                f"log p(y | x_t) of {batch(x)} samples",
                "log_p(x_t, t) without -inf: torch.clamp",
            )
            gradient = gradients(log_p.sum(), leaf, again=keep and asked([log_p], x, leaf), more=False)
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

    def __post_init__(self) -> None:
        check(self)

    @property
    def process(self) -> Process:
        return self.denoiser.process

    def select(self, rows: Any) -> Constrained:
        """The same for some of the samples."""
        return replace(self, denoiser=for_samples(self.denoiser, rows))

    def __call__(self, x: State, t: Any, **cond: Any) -> Any:
        prediction = self.denoiser(x, t, **cond)
        before = clean(prediction)
        x0 = self.constrain(before, t, **cond)
        self.process.space.require("constrain returned", x, x0)
        for old, new in zip(tensors(before), tensors(x0), strict=True):
            if new is not old and at_hand(old) and bool(old.isfinite().all()):
                finite(
                    "constrain returned",
                    new,
                    "finite clean states, as it was given",
                    "constrain(x0, t) without division by 0",
                )
        return moved(prediction, self.process.masked(cond.get("mask")).space.project(x0))


def differentiable(x: State, keep: bool = False) -> State:
    """A state with respect to which one may differentiate; classes stay as they are.

    Args:
        keep: Whether it stays joined to x, where x itself asks for gradients.
    """

    def part_of(part: Tensor) -> Tensor:
        if keep and part.requires_grad:
            return part.view_as(part)
        return part.detach().requires_grad_(part.is_floating_point())

    return map_state(part_of, x)


def asked(values: Iterable[Tensor], x: State, leaf: State) -> bool:
    """Whether anything beside a `differentiable` copy asks for gradients of some values: x, weights, a measurement."""
    if any(part.requires_grad for part in tensors(x)):
        return True
    own, seen, nodes = {id(part) for part in tensors(leaf)}, set(), []
    for value in values:
        if value.grad_fn is None and value.requires_grad and id(value) not in own:
            return True
        nodes.append(value.grad_fn)
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in own:
            return True
        nodes += [before for before, _ in node.next_functions]
    return False


def gradients(y: Tensor, leaf: State, weight: Tensor | None = None, again: bool = False, more: bool = True) -> State:
    """The gradient of <weight, y> with respect to the parts of a `differentiable` state, zero for classes.

    Args:
        weight: In the shape of y; None where y is a number.
        again: Whether the gradient is to be differentiable itself.
        more: Whether y will be differentiated once more.

    Raises:
        SamplerError: Where y was made without a graph.
    """
    if not y.requires_grad:
        raise SamplerError(
            "A gradient with respect to x_t was asked of a value that does not depend on it by torch's operations",
            "a denoiser, classifier or operator without .detach(), torch.no_grad or numpy",
            "MMPS and the like need the Jacobian; Measurement(..., method=DiffPIR()) needs none",
        )
    parts = [part for part in tensors(leaf) if part.requires_grad]
    kept = again or more
    found = iter(torch.autograd.grad(y, parts, weight, kept, again, materialize_grads=True))
    return map_state(lambda part: next(found) if part.requires_grad else torch.zeros_like(part), leaf)


def finite(what: str, value: Tensor, expected: str, fix: str) -> None:
    """Refuses what a user gave, or a user's function returned, if it is not finite; looked at on the host alone.

    Raises:
        SamplerError: With the numbers of NaN and infinite values.
    """
    if at_hand(value) and not bool(value.isfinite().all()):
        nan, inf = int(value.isnan().sum()), int(value.isinf().sum())
        raise SamplerError(f"{what} {nan} NaN and {inf} infinite of {value.numel()} values", expected, fix)


def readable(value: Tensor) -> bool:
    """Whether a tensor has values: meta and fake ones have none, nor those of a graph that is being compiled."""
    return not torch.compiler.is_compiling() and not value.is_meta and not hasattr(value, "fake_mode")


def at_hand(value: Tensor) -> bool:
    """Whether a tensor has values, and looking at them waits for no device."""
    return readable(value) and value.device.type == "cpu"


def floored(process: Process, t: Any, x: State) -> Any:
    """t, or where alpha vanishes the nearest time at which alpha is enough of sigma; times [B] each for itself."""
    double = any(part.dtype == torch.float64 for part in tensors(x))

    def latest(leaf: Leaf) -> float:
        last = leaf.schedule.unclock(1 / (DOUBLE if double else SINGLE))
        return last if leaf.schedule(last)[0] > 0 else math.nextafter(last, 0.0)

    lasts = process.per_part(latest)

    def lower(t: Any, last: Any) -> Any:
        if isinstance(t, Mapping):
            return {name: lower(part, pick(last, name)) for name, part in t.items()}
        if isinstance(last, Mapping):
            for part in last.values():
                t = lower(t, part)
            return t
        return t.clamp_max(last) if isinstance(t, Tensor) else min(t, last)

    return lower(t, lasts)


def tilted(process: Process, x0: State, gradient: State, t: Any, scale: Any = 1.0) -> State:
    """x0 + w (sigma^2/alpha) gradient: the mean of x0 after a tilt of p(x_t) with this log-gradient (Tweedie)."""

    def gain(leaf: Gaussian, t: Any) -> Any:
        alpha, sigma = leaf.schedule(t)
        return sigma * sigma / alpha

    return nudged(process, x0, gradient, gain, t, scale)


def nudged(
    process: Process, x0: State, gradient: State, gain: Callable[[Gaussian, Any], Any], t: Any, scale: Any = 1.0
) -> State:
    """x0 + w gain(t) gradient on flat parts; curved parts of a bundle stay."""
    if isinstance(process, Joint) and any(isinstance(part, Gaussian | Joint) for part in process.parts.values()):
        return {
            name: nudged(part, x0[name], gradient[name], gain, pick(t, name), pick(scale, name))
            if isinstance(part, Gaussian | Joint)
            else x0[name]
            for name, part in process.parts.items()
        }
    if not isinstance(process, Gaussian):
        raise SamplerError(
            f"A gradient with respect to x_t was to guide {process!r}",
            "a Gaussian process on a flat space: elsewhere the mean of a tilted posterior has no such formula",
        )
    step = process.space.project(per_sample(gain(process, t), x0) * gradient)
    return process.space.exp(x0, process.space.scale(step, scale))
