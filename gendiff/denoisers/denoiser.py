r"""A network behind its head: `denoiser(x_t, t, **cond)` is the predicted clean state.

    x0_hat = head.clean(process, x_t, network(head.inputs(x_t, t)), t)

A few-step model is a denoiser with a second time: `denoiser(x_t, t, to=s)` is the clean state towards which the one
step t -> s is the whole flow from t to s, `x_s = process.step(x_t, denoiser(x_t, t, to=s), t, s)`. Then x_t = x_s at
s = t, whatever the network says, and `denoiser(x_t, t)` is to=t, the expected clean state.

Times stay float64 on the host until they cross into the network, in float32 or better; states keep their dtype outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gendiff.denoisers.heads import Head
from gendiff.denoisers.predictions import Sided, refuse_jumps, takes, takes_previous
from gendiff.errors import RecipeError
from gendiff.processes import Process
from gendiff.processes.schedules import Time
from gendiff.spaces import State, map_state, tensors

TOLD_BY_THE_LOOP = ("mask", "previous", "to", "guidance")
"""Conditions that are not asked by a person, and change within a run, or are no network's to embed once."""


class Denoise(Protocol):
    """Anything that predicts the clean state: a `Denoiser`, a guided one, an exact one."""

    @property
    def process(self) -> Process: ...

    def __call__(self, x: State, t: Any, **cond: Any) -> State: ...


class Denoiser(nn.Module):
    """A network behind its head: `denoiser(x_t, t, **cond)` is the predicted clean state.

    Args:
        network: f(x, t, **cond) -> F; x as the head hands it in, t float32 [B] (float64 for a float64 network).
        head: The map from F to x0.
        process: How data become noise; a deviation of the data that it does not know is the head's, if that knows it.
        precision: Runs the network, and nothing else, under autocast to this dtype (torch.bfloat16); None as it is.
    """

    def __init__(
        self, network: nn.Module, head: Head, process: Process, *, precision: torch.dtype | None = None
    ) -> None:
        super().__init__()
        given = (network, nn.Module), (head, Head), (process, Process), (precision or torch.float32, torch.dtype)
        for name, (part, kind) in zip(("network", "head", "process", "precision"), given, strict=True):
            if not isinstance(part, kind):
                got = f"{name} {part!r} of type {type(part).__name__}"
                raise RecipeError(f"A denoiser got the {got}", f"an object of the type {kind.__name__}")
        self.precision = precision
        self.network = network
        self.head = head
        self.process = head.informed(process)

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """The conditions with what a network makes of them alone, if it can tell: computed once, before a loop."""
        embed = getattr(self.network, "embed", None)
        asked = {name: value for name, value in cond.items() if name not in TOLD_BY_THE_LOOP}
        return dict(cond) if embed is None or not asked else {**cond, "embedded": embed(asked)}

    def forward(self, x: State, t: Any, **cond: Any) -> State:
        """x0 predicted from x_t [B, ...] at t, a float or float64 [B]; cond["mask"] marks the real sites.

        A dict in cond["side"] is filled with the network's side outputs. A flow map is told by cond["to"] which time
        the step goes to, like t; a network that is told a guidance scale finds it, [B], in cond["guidance"].

        Raises:
            SamplerError: For "to" where the network is not told it.
        """
        side, to, guidance = cond.pop("side", None), cond.pop("to", None), cond.pop("guidance", None)
        process = self.process.masked(cond.get("mask"))
        self.head.check(process, t)
        seen, time = self.head.inputs(process, x, t)
        first = tensors(x)[0]
        parameter = next(self.network.parameters(), None)
        dtype = (
            parameter.dtype if parameter is not None else first.dtype if first.is_floating_point() else torch.float32
        )
        time = map_state(lambda part: times(part, first, dtype), time)
        if "previous" in cond:
            before = cond.pop("previous")  # which a weaker model, say, may not be told
            if before is not None and takes_previous(self):
                cond["previous"] = map_state(lambda part: working(part, dtype), before)
        if to is not None:
            refuse_jumps("A whole jump", self)
            second = self.head.inputs(process, x, to)[1]
            cond["to"] = map_state(lambda part: times(part, first, dtype), second)
        if guidance is not None and takes(self, "guidance"):
            cond["guidance"] = times(guidance, first, dtype)
        with autocast(first.device, self.precision):
            out = self.network(map_state(lambda part: working(part, dtype), seen), time, **cond)
        if isinstance(out, Sided):
            if side is not None:
                side.update(out.side)
            out = out.output
        real = next((part.dtype for part in tensors(x) if part.is_floating_point()), dtype)
        out = map_state(lambda part: part.to(real), out)
        return self.head.clean(process, x, out, t)


def working(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers in a dtype; classes stay classes."""
    return x.to(dtype) if x.is_floating_point() else x


def times(t: Time, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A time as the network wants it: [B] on its device, in float32 or better (bfloat16 merges half of 1000 times)."""
    dtype = dtype if dtype == torch.float64 else torch.float32
    if isinstance(t, Tensor):
        return t.to(device=like.device, dtype=dtype, non_blocking=True).expand(like.shape[0])
    return torch.full((like.shape[0],), t, dtype=dtype, device=like.device)


def autocast(device: torch.device, precision: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    """Autocast to a precision on a device, or nothing."""
    return contextlib.nullcontext() if precision is None else torch.autocast(device.type, dtype=precision)
