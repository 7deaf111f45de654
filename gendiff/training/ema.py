r"""Exponential moving averages of weights, always in float32 or better.

    average <- average + (1 - beta_k)(weight - average),   beta_k = min(decay, (1 + k)/(10 + k)) at update k

The ramp lets short runs forget their start. bfloat16 weights are averaged in float32 (a bf16 average stalls).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.errors import SHARE, RecipeError


class EMA:
    """A running average of a module's parameters; buffers (a BatchNorm's mean) are those of the last update.

    Args:
        module: Whose weights to average.
        decay: The limit of beta, in [0, 1].
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        if decay not in SHARE:
            raise RecipeError(f"EMA got decay={decay!r}", "a number in [0, 1]", "EMA(network, decay=0.999)")
        self.decay = decay
        self.updates = 0
        self.average = {name: wide(p) for name, p in module.named_parameters()}
        self.buffers = {name: b.detach().clone() for name, b in module.named_buffers()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights of `module`, once per optimiser step."""
        self.updates += 1
        beta = min(self.decay, (1 + self.updates) / (10 + self.updates))
        average = list(self.average.values())
        weights = [p.detach().to(a.dtype) for a, p in zip(average, module.parameters(), strict=True)]
        torch._foreach_lerp_(average, weights, 1 - beta)  # pyright: ignore[reportPrivateImportUsage]
        for name, b in module.named_buffers():
            self.buffers[name].copy_(b)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Writes the average into the weights of `module`, and the buffers."""
        for own, kept in ((module.named_parameters(), self.average), (module.named_buffers(), self.buffers)):
            for name, p in own:
                p.copy_(kept[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module holds the average inside the block, and its own weights and buffers again after it."""
        own = [(p, p.detach().clone()) for p in (*module.parameters(), *module.buffers())]
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
        self.decay, self.updates = state["decay"], state["updates"]
        self.average = {name: state["average"][name].to(a, copy=True) for name, a in self.average.items()}
        self.buffers = {name: state["buffers"][name].to(b, copy=True) for name, b in self.buffers.items()}


def wide(p: Tensor) -> Tensor:
    """A detached copy in float32 or better."""
    return p.detach().to(p.dtype if p.dtype == torch.float64 else torch.float32, copy=True)
