r"""Exponential moving averages of weights, always in float32 or better.

    average <- average + (1 - beta_k)(weight - average),   beta_k = min(decay, (1 + k)/(10 + k)) at update k

The ramp lets short runs forget their start. bfloat16 weights are averaged in float32 (a bf16 average stalls).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.errors import SHARE, CheckpointError, RecipeError


class EMA:
    """A running average of the parameters of a module that train; buffers (a BatchNorm's mean) are the last update's.

    Those that require no gradient when the average begins stand still and are not in it.

    Args:
        module: Whose weights to average.
        decay: The limit of beta, in [0, 1].
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if decay not in SHARE:
            raise RecipeError(f"EMA got decay={decay!r}", "a number in [0, 1]", "EMA(network, decay=0.999)")
        self.decay = decay
        self.updates = 0
        self.average = {name: wide(p) for name, p in module.named_parameters() if p.requires_grad}
        self.buffers = {name: b.detach().clone() for name, b in module.named_buffers()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights of `module`, once per optimiser step."""
        self.updates += 1
        beta = min(self.decay, (1 + self.updates) / (10 + self.updates))
        own = dict(module.named_parameters())
        average = list(self.average.values())
        weights = [own[name].detach().to(a.dtype) for name, a in self.average.items()]
        if average:
            torch._foreach_lerp_(average, weights, 1 - beta)  # pyright: ignore[reportPrivateImportUsage]
        for name, b in module.named_buffers():
            self.buffers[name].copy_(b)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Writes the average into the weights of `module`, and the buffers."""
        for own, kept in ((module.named_parameters(), self.average), (module.named_buffers(), self.buffers)):
            for name, p in own:
                if name in kept:
                    p.copy_(kept[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module holds the average inside the block, and its own weights and buffers again after it."""
        held = [p for name, p in module.named_parameters() if name in self.average]
        own = [(p, p.detach().clone()) for p in (*held, *module.buffers())]
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, kept in own:
                    p.copy_(kept)

    def to(self, device: Any) -> EMA:
        self.average = {name: a.to(device) for name, a in self.average.items()}
        self.buffers = {name: b.to(device) for name, b in self.buffers.items()}
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"decay": self.decay, "updates": self.updates, "average": self.average, "buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state. One without "buffers", as older runs wrote, leaves those of the module as they are.

        Raises:
            CheckpointError: For a state that lacks something of the module, or has it in another shape.
        """
        absent = [key for key in ("decay", "updates", "average") if key not in state]
        if absent:
            raise CheckpointError(f"A state of EMA lacks {absent[0]!r}", "what EMA.state_dict() gives")
        average = fitting(self.average, state["average"], "average")
        self.buffers = fitting(self.buffers, state.get("buffers", self.buffers), "buffers")
        self.decay, self.updates, self.average = state["decay"], state["updates"], average


def fitting(own: dict[str, Tensor], saved: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """Copies of the saved tensors, in the dtypes and on the devices of a module's own.

    Raises:
        CheckpointError: For one that is missing or of another shape.
    """
    for name, tensor in own.items():
        got = f"{name!r} of shape {list(saved[name].shape)}" if name in saved else f"no {name!r}"
        if name not in saved or saved[name].shape != tensor.shape:
            raise CheckpointError(
                f"A state of EMA has {got} in {key!r}",
                f"that of the module, of shape {list(tensor.shape)}",
                "Load it for the network that it was saved with",
            )
    return {name: saved[name].to(tensor, copy=True) for name, tensor in own.items()}


def wide(p: Tensor) -> Tensor:
    """A detached copy in float32 or better."""
    return p.detach().to(p.dtype if p.dtype == torch.float64 else torch.float32, copy=True)
