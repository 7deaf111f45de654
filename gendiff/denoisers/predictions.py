r"""A prediction in two: where to go, and which noise to take along.

A step goes to x0 and brings back the noise that another prediction, `back`, sees in x_t (CFG++, Chung et al. 2024),

    x_s = alpha_s x0 + sigma_s z,   z = (x_t - alpha_t back)/sigma_t

which is the plain step towards `back`, then a shift by alpha_s (x0 - back). With log and exp the shift has a meaning on
any space, and with `back` mixed as a solver mixes predictions every solver has it:

    x_s <- exp(x_s, alpha_s (log(x_s, x0) - log(x_s, back)))

Solvers remember and mix `back` alone; the shift is the newest prediction's and is made at every move, so its sum grows
with the number of steps.

A denoiser that wraps another may hold what belongs to a sample (a scale [B], a measurement): `for_samples` gives it for
other samples of the batch, and `differentiates` lets it take gradients under torch.inference_mode.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gendiff.errors import SamplerError
from gendiff.processes import Joint, Leaf, Process, pick
from gendiff.spaces import State, leaves, map_state


@dataclass(frozen=True)
class Prediction:
    """Two clean states.

    Args:
        x0: Where the step goes.
        back: Whose noise comes along.
    """

    x0: State
    back: State


class Sided(NamedTuple):
    """What a network returns that gives more than its output: side outputs, for losses and plans alone.

    Attributes:
        output: As a network returns it otherwise.
        side: Tensors [B, ...] by name.
    """

    output: State
    side: Mapping[str, Tensor]


TOLD = frozenset(("vector", "tokens", "mask", "field"))
"""What conditions tell a network; what else their embedders give are side outputs."""


def asides(cond: Mapping[str, Any]) -> dict[str, Tensor]:
    """The side outputs of conditions that were embedded once (`Denoiser.embed`), by "CONDITION_NAME"."""
    found = cond.get("embedded", {})
    return {
        f"{name}_{what}": value for name, both in found.items() for what, value in both["asked"].items()
        if what not in TOLD and isinstance(value, Tensor)  # else what a side branch is told of it
    }  # fmt: skip


def predict(denoiser: Any, process: Process, x: State, t: Any, cond: Mapping[str, Any]) -> Any:
    """The denoiser's prediction at x_t, in the precision of the state.

    Raises:
        SamplerError: Where it has not the shape of the state.
    """
    prediction = denoiser(x, t, **cond)
    process.space.require("The denoiser predicted", x, clean(prediction))
    if isinstance(prediction, Prediction):
        process.space.require("The denoiser predicted", x, prediction.back)
    return map_prediction(lambda new, old: new.to(old.dtype) if old.is_floating_point() else new, prediction, x)


def takes(denoiser: Any, what: str) -> bool:
    """Whether the network of a denoiser, or of what it wraps, says by its `takes_WHAT` that it is told this."""
    while denoiser is not None:
        told = getattr(getattr(denoiser, "network", denoiser), f"takes_{what}", None)
        if told is not None:
            return bool(told)
        denoiser = getattr(denoiser, "denoiser", None)
    return False


def takes_previous(denoiser: Any) -> bool:
    """Whether a denoiser, or what it wraps, is told the prediction before as the condition "previous".

    That is self-conditioning (Chen, Zhang & Hinton 2023, "Analog Bits"): a network says so by the attribute
    `takes_previous`, and gets a clean state, or None where there is no prediction yet.
    """
    return takes(denoiser, "previous")


def takes_to(denoiser: Any) -> bool:
    """Whether a denoiser, or what it wraps, is a flow map: told by the condition "to" which time the step goes to.

    Its prediction at `to=s` is the clean state towards which one step t -> s is the whole flow from t to s; without, or
    at s = t, it is the expected clean state, as any denoiser's (Kim et al. 2024, CTM; Boffi et al. 2025, flow maps).
    """
    return takes(denoiser, "to")


def refuse_jumps(what: str, denoiser: Any) -> None:
    """Refuses a denoiser that cannot be told where to jump.

    Raises:
        SamplerError: For one that is no flow map.
    """
    if not takes_to(denoiser):
        raise SamplerError(
            f"{what} got a denoiser that is not told the time to jump to",
            "a few-step model, whose network has jumps=True and was trained for it, or another solver",
            "gendiff distill MODEL --method meanflow; or sampler=Adams(12)",
        )


def refuse_guided_jumps(what: str, cond: Mapping[str, Any]) -> None:
    """Refuses to join or correct the predictions of jumps: what comes out is no jump of a guided flow.

    Raises:
        SamplerError: Where a step asks a flow map for a whole jump.
    """
    if cond.get("to") is not None:
        raise SamplerError(
            f"{what} got the whole jumps of a few-step model, which cannot be joined or corrected on the way",
            "guidance=1 (what was distilled is in the weights), a model that is told the scale, or a solver that "
            "follows the flow",
            "gendiff distill MODEL --guidance 1,4; or sampler=Adams(12)",
        )


def refuse_previous(denoiser: Any, what: str) -> None:
    """Refuses a denoiser that is told the prediction before, where there is none.

    Raises:
        SamplerError: For a self-conditioned denoiser.
    """
    if takes_previous(denoiser):
        raise SamplerError(
            f"{what} got a self-conditioned denoiser, whose predictions depend on those before",
            "a denoiser of x_t and t alone, or a solver that walks a grid",
            "model.sample(n, sampler=DPMpp2M(20)); network.previous=false to train without",
        )


def clean(prediction: Any) -> State:
    """The clean state of any prediction."""
    return prediction.x0 if isinstance(prediction, Prediction) else prediction


def carried(prediction: Any) -> State:
    """The clean state whose noise a step brings back: `back` of a prediction in two, else the prediction."""
    return prediction.back if isinstance(prediction, Prediction) else prediction


def moved(prediction: Any, x0: State) -> Any:
    """The prediction with another clean state."""
    return Prediction(x0, prediction.back) if isinstance(prediction, Prediction) else x0


def map_prediction(f: Callable[..., Any], *predictions: Any) -> Any:
    """f on every tensor of predictions; where one of them is in two, the result is, and a single one counts twice."""
    if any(isinstance(p, Prediction) for p in predictions):
        return Prediction(map_state(f, *map(clean, predictions)), map_state(f, *map(carried, predictions)))
    return map_state(f, *predictions)


def shift(process: Process, x: State, prediction: Prediction, s: float) -> State:
    """x_s moved by alpha_s (x0 - back); classes, which have no such moves, stay."""
    if isinstance(process, Joint):
        halves = {k: Prediction(prediction.x0[k], prediction.back[k]) for k in process.parts}
        return process.each(lambda name, part: shift(part, x[name], halves[name], pick(s, name)))
    assert isinstance(process, Leaf)
    if not process.flows:
        return x
    space = process.space
    there, here = space.log(x, prediction.x0), space.log(x, prediction.back)
    return space.exp(x, space.scale(map_state(torch.sub, there, here), process.schedule(s)[0]))


def rows_of(value: Any, rows: Any, device: torch.device | None = None) -> Any:
    """Some rows of every tensor [B, ...] in a value, on a device; what is no tensor passes.

    Args:
        value: A tensor, or a dict of such values.
        rows: A slice, or int64 indices.
        device: Where to; by default that of the indices, or as it is.
    """
    if isinstance(value, Mapping):
        return {name: rows_of(part, rows, device) for name, part in value.items()}
    if not isinstance(value, Tensor):
        return value
    return value.to(rows.device)[rows] if isinstance(rows, Tensor) else value[rows].to(device=device)


def shared_rows(value: Any, rows: Any, device: torch.device | None = None) -> Any:
    """`rows_of`, where a tensor with one row, or without a batch axis, holds for all samples and stays whole."""
    if isinstance(value, Mapping):
        return {name: shared_rows(part, rows, device) for name, part in value.items()}
    if isinstance(value, Tensor) and (value.ndim == 0 or len(value) == 1):
        return value.to(device=rows.device if isinstance(rows, Tensor) else device)
    return rows_of(value, rows, device)


def for_samples(denoiser: Any, rows: Any) -> Any:
    """The denoiser for some samples of its batch: what it holds for each sample, by its method `select`, at `rows`."""
    select = getattr(denoiser, "select", None)
    return denoiser if select is None else select(rows)


def differentiates(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that takes gradients inside: under torch.inference_mode it leaves the mode for a while.

    Tensors that were made in the mode cannot be differentiated, so copies of them go in, those in fields too.
    """

    @functools.wraps(call)
    def outside(*args: Any, **kwargs: Any) -> Any:
        given = [part for value in (*args, *kwargs.values()) for part in leaves(value) if isinstance(part, Tensor)]
        if not torch.is_inference_mode_enabled() and not any(part.is_inference() for part in given):
            return call(*args, **kwargs)
        gradients = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            return call(*map(ordinary, args), **ordinary(kwargs))

    return outside


def ordinary(value: Any) -> Any:
    """The value with a copy of every tensor made under torch.inference_mode; networks are as they are."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, Mapping):
        return {name: ordinary(part) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(ordinary, value))
    if isinstance(value, nn.Module | type) or not (
        is_dataclass(value) or hasattr(value, "process") or hasattr(value, "select")
    ):
        return value
    changed = {k: new for k, v in vars(value).items() if (new := ordinary(v)) is not v}
    twin = copy.copy(value) if changed else value
    for name, new in changed.items():
        object.__setattr__(twin, name, new)
    return twin
