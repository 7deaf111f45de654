r"""One loss on any space: how far the predicted clean state is from the true one, seen from x_t.

    loss = w(t)/dim |log_x(x0_hat) - log_x(x0)|^2,    x = x_t, dim the degrees of freedom under the mask

On flat spaces this is the squared error of x0; on curved ones it is regression of the tangent, whose minimum is the
mean velocity. The weight turns it into the loss of any parametrisation: w = 1/c_out^2 is the squared error of the
network's own output (eps-loss for `Eps`, EDM's for `EDMHead`, velocity for `Velocity` and `Tangent`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.denoisers import Denoiser, Head, Heads, asides, predict, takes_previous
from gendiff.errors import NOT_NEGATIVE, POSITIVE, SHARE, RecipeError, check, nearest, refuse
from gendiff.processes import Joint, Leaf, pick
from gendiff.random import Noise
from gendiff.spaces import State, map_state, per_sample, require_shape, widened
from gendiff.training.couplings import Coupling, Independent
from gendiff.training.known import Known, shown
from gendiff.training.terms import Auxiliary, Term


class Weighting(ABC):
    """How much a time counts."""

    @abstractmethod
    def __call__(self, process: Leaf, head: Head, t: Tensor) -> Tensor:
        """w(t) on |x0_hat - x0|^2, float64 [B]."""


@dataclass(frozen=True)
class Output(Weighting):
    """The squared error of the network's output, w = 1/max(c_out, floor)^2, or of the output that another head has.

    With `head=Velocity()` a network that predicts x0 is trained by the error of its velocity (Li & He 2025, JiT).
    """

    floor: float = 1e-3
    head: Head | None = None

    def __post_init__(self) -> None:
        check(self, floor=POSITIVE)

    def __call__(self, process: Leaf, head: Head, t: Tensor) -> Tensor:
        return torch.as_tensor((self.head or head).scale(process, t)).clamp_min(self.floor) ** -2


@dataclass(frozen=True)
class Clean(Weighting):
    """The squared error of x0 itself: w = 1."""

    def __call__(self, process: Leaf, head: Head, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) on x0, whatever the head (Hang et al. 2023)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        check(self, gamma=POSITIVE)

    def __call__(self, process: Leaf, head: Head, t: Tensor) -> Tensor:
        return process.schedule.logsnr(t).exp().clamp_max(self.gamma)


@dataclass(frozen=True)
class Objective:
    """The training objective: a weighting, and how much each part of a bundle counts.

    Args:
        weighting: w(t), for all parts, or by part; parts that are not named have `Output()`.
        parts: Factors by part; 1 where a part is not named.
        auxiliary: Factor on the auxiliary losses; or by name a factor, or a `Term` that replaces the loss's own.
        coupling: Which noise an example is joined to, or by part, each part by itself; parts that are not named, and
            classes, are independent.
        previous: The share of steps in which a self-conditioned denoiser is told its own first prediction.
        known: What of a bundle is shown clean, or told, in some samples, to be conditioned on (`training.known`).
    """

    weighting: Weighting | Mapping[str, Weighting] = field(default_factory=Output)
    parts: Mapping[str, float] = field(default_factory=dict)
    auxiliary: float | Mapping[str, float | Term] = 1.0
    coupling: Coupling | Mapping[str, Coupling] = field(default_factory=Independent)
    previous: float = 0.5
    known: tuple[Known, ...] = ()

    def __post_init__(self) -> None:
        check(self, parts=NOT_NEGATIVE, previous=SHARE)
        own = self.auxiliary.values() if isinstance(self.auxiliary, Mapping) else [self.auxiliary]
        if any(not isinstance(factor, Term) and factor not in NOT_NEGATIVE for factor in own):
            refuse(self, "auxiliary", f"{NOT_NEGATIVE}, or by name such a number or a Term")

    def match(self, names: Collection[str]) -> None:
        """Refuses settings for parts that the loss does not have.

        Raises:
            RecipeError: With the nearest name.
        """
        for setting in ("parts", "weighting", "coupling"):
            by_part = getattr(self, setting)
            for name in by_part if isinstance(by_part, Mapping) else ():
                if name not in names:
                    raise RecipeError(
                        f"Objective got {setting}={dict(by_part)!r}, and the loss has no part {name!r}",
                        f"names among {', '.join(names)}.{nearest(name, names)}",
                    )
        for way in self.known:
            for name in getattr(way, "parts", ()):
                if name not in names:
                    raise RecipeError(
                        f"Objective got known={way!r}, and the loss has no part {name!r}",
                        f"names among {', '.join(names)}.{nearest(name, names)}",
                    )

    def expect(self, auxiliary: Collection[str]) -> None:
        """Refuses settings for auxiliary losses that there are not.

        Raises:
            RecipeError: With the nearest name.
        """
        for name in self.auxiliary if isinstance(self.auxiliary, Mapping) else ():
            if name not in auxiliary:
                raise RecipeError(
                    f"Objective got a setting for the auxiliary loss {name!r}",
                    f"names among {', '.join(auxiliary) or 'none: it has no such losses'}.{nearest(name, auxiliary)}",
                )

    def term(self, name: str, own: Term) -> Term:
        """How an auxiliary loss counts, by what is said here and its own term."""
        said = self.auxiliary.get(name, 1.0) if isinstance(self.auxiliary, Mapping) else self.auxiliary
        return said if isinstance(said, Term) else replace(own, weight=said * own.weight)


INDEPENDENT, OUTPUT = Independent(), Output()
DEFAULT = Objective()
"""Made once: the step then compiles to one graph."""


def part_losses(process: Any, head: Head, weighting: Any, x: State, guess: State, x0: State, t: Any) -> Any:
    """Losses [B] of a leaf process, or a dict of them by part."""
    if isinstance(process, Joint):
        assert isinstance(head, Heads)
        own = (
            {name: weighting.get(name, OUTPUT) for name in process.parts}
            if isinstance(weighting, Mapping)
            else weighting
        )
        return {
            name: part_losses(part, head.parts[name], pick(own, name), x[name], guess[name], x0[name], pick(t, name))
            for name, part in process.parts.items()
        }
    error = process.error(x, guess, x0, t)
    w = weighting(process, head, t)
    require_shape(f"{type(weighting).__name__} gave", w, error.shape, ())
    return error * per_sample(w, error)


def noised(process: Any, x0: State, t: Any, noise: Noise, coupling: Any, cond: Mapping[str, Any]) -> State:
    """x_t, from the noise that a coupling (or one by part) joins to x0; what has no path to a given noise, classes, is
    independent and not seen by the coupling.
    """
    if isinstance(coupling, Mapping):
        return process.each(
            lambda name, part: noised(
                part, x0[name], pick(t, name), noise.fork(name), coupling.get(name, INDEPENDENT), cond
            )
        )
    if isinstance(coupling, Independent):
        return process.noise(x0, t, noise)
    inner = {name: part for name, part in process.parts.items() if part.couples} if isinstance(process, Joint) else {}
    if inner and len(inner) < len(process.parts):
        free = {k: part.noise(x0[k], pick(t, k), noise.fork(k)) for k, part in process.parts.items() if k not in inner}
        found = {**free, **noised(Joint(inner), {name: x0[name] for name in inner}, t, noise, coupling, cond)}
        return {name: found[name] for name in process.parts}
    z = coupling(process, x0, process.endpoint(x0, noise), noise, cond)
    process.space.require(f"{type(coupling).__name__} gave", x0, z)
    return process.noised(x0, z, t)


def recalled(
    denoiser: Denoiser, process: Any, x: State, t: Any, noise: Noise, objective: Objective, cond: Mapping[str, Any]
) -> dict[str, State]:
    """The condition "previous" of a self-conditioned denoiser: in a share of the steps its own prediction from x_t.

    That is what a sampler tells it after its first step, but for the time; no gradient goes through it (Chen et al.
    2023). One draw decides for the batch, on the host, from the step of the noise alone.
    """
    if not takes_previous(denoiser):
        return {}
    common = Noise(noise.seed, torch.zeros(1, dtype=torch.int64), noise.stream, noise.step).fork("previous")
    if float(common.uniform((1,))) >= objective.previous:
        return {}
    with torch.no_grad():
        return {"previous": map_state(Tensor.detach, predict(denoiser, process, x, t, cond))}


def denoising_loss(
    denoiser: Denoiser,
    x0: State,
    t: Any,
    noise: Noise,
    *,
    objective: Objective | None = None,
    auxiliary: Mapping[str, Auxiliary] | None = None,
    coupling: Coupling | None = None,
    **cond: Any,
) -> dict[str, Tensor]:
    """The loss of a batch, per sample.

    Args:
        denoiser: The model; its network sees x_t once.
        x0: Clean states [B, ...].
        t: float64 [B] on the host, or by part.
        noise: The source for this step's noise.
        objective: Weighting and factors.
        auxiliary: Auxiliary losses by name (`Domain.losses`).
        coupling: This batch's own, e.g. `Paired(z)`; else the objective's.
        cond: Conditions [B, ...], with "mask" for padded batches.

    Returns:
        "loss" [B], and beside it each part and each auxiliary loss that counts, without their factors, detached.

    Raises:
        RecipeError: For settings of a part or an auxiliary loss that there is not.
    """
    objective = DEFAULT if objective is None else objective
    process = denoiser.process.masked(cond.get("mask"))
    objective.match(process.parts if isinstance(process, Joint) else ("denoising",))
    x0 = widened(x0)
    x = noised(process, x0, t, noise.fork("forward"), objective.coupling if coupling is None else coupling, cond)
    if objective.known:
        mask = cond.get("mask")
        x = shown(objective.known, process, x0, x, noise, mask)
        cond = {**cond, **{k: v for way in objective.known for k, v in way.told(x0, mask, noise).items()}}
    own = auxiliary or {}
    objective.expect(own)
    terms = {name: term for name, one in own.items() if (term := objective.term(name, one.term)).weight}
    told, side = cond, {}
    if terms:
        told = denoiser.embed(cond)
        side.update(asides(told))
        told = {**told, "side": side}
    guess = predict(denoiser, process, x, t, {**told, **recalled(denoiser, process, x, t, noise, objective, cond)})
    losses = part_losses(process, denoiser.head, objective.weighting, x, guess, x0, t)
    if not isinstance(losses, dict):
        losses = {"denoising": losses}
    total = torch.stack([objective.parts.get(name, 1.0) * value for name, value in losses.items()]).sum(0)
    out = {name: value.detach() for name, value in losses.items()}
    for name, term in terms.items():
        extra = own[name].loss(guess, x0, t, side=side, **cond)
        require_shape(f"The auxiliary loss {name} gave", extra, total.shape, fix="extra.flatten(1).mean(1)")
        total = total + term.at(t, extra) * extra
        out[name] = extra.detach()
    return {"loss": total, **out}
