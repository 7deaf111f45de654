"""Backbone torsions: a domain of one's own, in one file.

A residue is a point (phi, psi) of the torus. The data are two basins, alpha helix and beta strand; the strand lies
across the seam at 180 degrees, where whoever treats angles as numbers averages 179 and -179 to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gendiff import Domain, Example, Examples, Geodesic, Request, Torus
from gendiff.evaluation import energy

BASINS = {"helix": (-63.0, -42.0), "strand": (-120.0, 175.0)}
SPREAD = 9.0  # standard deviation of a basin, in degrees


class TorsionNet(nn.Module):
    """Noisy angles [B, N, 2] and times [B] to the way home: a tangent [B, N, 2], in radians."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        first, second, last = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 2)
        self.body = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = t.reshape(-1, 1, 1).expand(*x.shape[:-1], 1)
        return self.body(torch.cat([x.sin(), x.cos(), time], -1))


@dataclass(frozen=True)
class Torsions(Domain):
    """Pieces of backbone as torsions [N, 2] in degrees; states are the same in radians."""

    name: ClassVar[str] = "torsions"
    length: int = 16
    pieces: int = 512

    @property
    def process(self) -> Geodesic:
        return Geodesic(Torus())

    def encode(self, artifact: Tensor) -> Tensor:
        return torch.deg2rad(artifact)

    def decode(self, x: Tensor) -> Tensor:
        return torch.rad2deg(x)

    def request(self, n: int, *, length: int | None = None) -> Request:
        return Request(torch.empty(n, length or self.length, 2))

    def network(self, **size: Any) -> nn.Module:
        return TorsionNet(**size)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        rng = np.random.default_rng(["train", "test"].index(split))
        basin = np.array(list(BASINS.values()))[rng.integers(2, size=(self.pieces, self.length))]
        angles = np.mod(basin + rng.normal(0, SPREAD, basin.shape) + 180, 360) - 180
        return Examples([Example(torch.from_numpy(piece).float()) for piece in angles])

    def metrics(self) -> dict[str, Any]:
        def on_circles(pieces: list[Tensor]) -> np.ndarray:
            angle = torch.deg2rad(torch.cat(pieces))[:1000]
            return torch.cat([angle.sin(), angle.cos()], -1).double().numpy()

        return {"energy": lambda samples, reference: energy(on_circles(samples), on_circles(reference))}
