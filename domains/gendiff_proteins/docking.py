"""Binders: chains that are made beside a fixed target, their centre held outside of its hotspots while it is dark.

After every step down to t = `release` the made residues are moved together, so that their centre lies as far from the
known ones as it shall (`Motif.berth`), in the noisy state (1 - s) of that; below they are free. It says where a chain
is, and nothing of what it is; what touches what is left to the denoiser (RFdiffusion3's origin token in spirit).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from gendiff import Given
from gendiff.processes import Process
from gendiff.random import Noise


@dataclass(frozen=True)
class Docked(Given):
    """What is known, and where the rest lies to it.

    Args:
        made: bool [B, N], the residues that are moved.
        berth: [B, 3] nm, from the mean of the known positions to the mean of the made ones.
        release: The time below which they are free.
    """

    made: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.bool))
    berth: Tensor = field(default_factory=lambda: torch.zeros(1, 3))
    release: float = 0.3

    def put(self, process: Process, x: Any, s: float, noise: Noise) -> Any:
        """x_s with what is known in place, and the made residues beside it."""
        x = super().put(process, x, s, noise)
        if s <= self.release:
            return x
        keep = self.keep["pos"] if isinstance(self.keep, dict) else self.keep
        pos = x["pos"]
        known, made = (mask.to(pos.device)[..., None].to(pos.dtype) for mask in (keep, self.made))
        centre = [(pos * one).sum(1, keepdim=True) / one.sum(1, keepdim=True).clamp_min(1) for one in (known, made)]
        want = centre[0] + (1 - s) * self.berth.to(pos)[:, None]
        moved = pos + made * (want - centre[1])
        return {**x, "pos": process.space.project({**x, "pos": moved})["pos"]}  # type: ignore[index]

    def expand(self, n: int) -> Self:
        return replace(super().expand(n), made=self.made.expand(n, -1), berth=self.berth.expand(n, -1))

    def select(self, rows: Any, device: torch.device | None = None) -> Self:
        made, berth = self.made[rows], self.berth[rows]
        own = replace(super().select(rows, device), made=made, berth=berth)
        return own if device is None else replace(own, made=made.to(device), berth=berth.to(device))
