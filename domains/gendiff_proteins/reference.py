"""A second network with the same symmetry, from other people's code, to check the first: e3nn (Geiger and Smidt 2022).

Tensor field convolutions over all pairs, with radial weights. Two choices matter:

- every irrep is even (`0e`, `1e`), so the group is SO(3) and not O(3): a network with true parities commutes with
  reflection and can never prefer right-handed helices;
- e3nn compiles TorchScript when it is built; `jit_mode="eager"` leaves that out.

It is some ten times slower than `FrameNetwork` per step. Units: nm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gendiff.conditions import Condition
from gendiff.errors import MissingExtra
from gendiff.nn import Asked

from .networks import State, waves

_BASIS = 12
_FAR = 2.0  # nm


def e3nn_modules() -> tuple[Any, Any]:
    """`e3nn.o3` and `e3nn.nn`, without TorchScript. Raises MissingExtra."""
    try:
        import e3nn
        from e3nn import nn as e3nn_nn
        from e3nn import o3
    except ImportError:
        raise MissingExtra("The reference network", "e3nn", "proteins") from None
    e3nn.set_optimization_defaults(jit_mode="eager")
    return o3, e3nn_nn


class Convolution(nn.Module):
    """Messages `sum_j R(|r_ij|) (h_j x Y(r_ij))` with weights from the distance, place in the chain and time."""

    def __init__(self, irreps: Any, harmonics: Any, scalars: int) -> None:
        super().__init__()
        o3, _ = e3nn_modules()
        paths, terms = [], []
        for i, (count, left) in enumerate(irreps):
            for j, (_, right) in enumerate(harmonics):
                for out in left * right:
                    if any(out == kept for _, kept in irreps):
                        paths.append((i, j, len(terms), "uvu", True))
                        terms.append((count, out))
        middle = o3.Irreps(terms)
        self.product = o3.TensorProduct(irreps, harmonics, middle, paths, shared_weights=False, internal_weights=False)
        self.radial = nn.Sequential(
            nn.Linear(scalars, 32), nn.SiLU(), nn.Linear(32, self.product.weight_numel, bias=False)
        )
        self.after = o3.Linear(middle, irreps)
        self.own = o3.Linear(irreps, irreps)

    def forward(self, h: Tensor, harmonics: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
        b, n, _ = h.shape
        sent = h[:, None].expand(b, n, n, -1)
        messages = self.product(sent, harmonics, self.radial(edges)) * pairs[..., None]
        return self.own(h) + self.after(messages.sum(2) / pairs.sum(2, keepdim=True).clamp_min(1).sqrt())


class EquivariantReference(nn.Module):
    """The arguments, inputs and outputs of `FrameNetwork`, in e3nn.

    Args:
        width: scalars per residue; a quarter as many vectors.
        depth: convolutions.
        lmax: degree of the spherical harmonics.
        conditions: what may be asked, by name; of what they give, vectors alone are read.
    """

    def __init__(
        self, width: int = 32, depth: int = 2, lmax: int = 1, *, conditions: Mapping[str, Condition] | None = None
    ) -> None:
        super().__init__()
        o3, e3nn_nn = e3nn_modules()
        self.width = width
        vectors = max(width // 4, 4)
        hidden = o3.Irreps(f"{width}x0e + {vectors}x1e")
        self.harmonics = o3.Irreps.spherical_harmonics(lmax, p=1)  # even: SO(3), not O(3)
        self.about = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.asked = Asked(width, conditions)
        self.start = o3.Linear(o3.Irreps(f"{width}x0e + 3x1e"), hidden)
        gated = o3.Irreps(f"{width + vectors}x0e + {vectors}x1e")
        self.layers = nn.ModuleList(Convolution(hidden, self.harmonics, _BASIS + 16 + 9) for _ in range(depth))
        self.widen = nn.ModuleList(o3.Linear(hidden, gated) for _ in range(depth))
        self.gate = e3nn_nn.Gate(f"{width}x0e", [functional.silu], f"{vectors}x0e", [torch.sigmoid], f"{vectors}x1e")
        self.last = o3.Linear(hidden, o3.Irreps("2x1e"))
        with torch.no_grad():
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, x: State, t: Tensor, *, mask: Tensor | None = None, **cond: Any) -> State:
        o3, _ = e3nn_modules()
        pos, rot = x["pos"], x["rot"]
        b, n, _ = pos.shape
        mask = torch.ones(b, n, dtype=torch.bool, device=pos.device) if mask is None else mask
        real = mask.to(pos.dtype)
        t = t.to(pos.dtype).expand(b)
        rot = torch.where(mask[..., None, None], rot, torch.eye(3, dtype=rot.dtype, device=rot.device))
        about = self.asked.add(self.about(waves(1000 * t, 32, 10_000.0)), cond).vector
        axes = rot.mT[..., [1, 2, 0]]  # e3nn's order of components is y, z, x
        h = self.start(torch.cat([about[:, None].expand(b, n, -1), axes.flatten(2)], -1))
        apart = pos[:, None] - pos[:, :, None]
        distance = (apart.square().sum(-1) + 1e-8).sqrt()
        harmonics = o3.spherical_harmonics(
            self.harmonics, apart[..., [1, 2, 0]], normalize=False, normalization="component"
        )
        centres = torch.linspace(0.1, _FAR, _BASIS, dtype=pos.dtype, device=pos.device)
        radial = torch.exp(-((distance[..., None] - centres) * (_BASIS / _FAR)).square())
        place = torch.arange(n, device=pos.device)
        per_sample = waves((place[None] - place[:, None]).clamp(-32, 32).to(pos.dtype), 16, 30.0).expand(b, n, n, -1)
        turns = torch.einsum("biac,bjad->bijcd", rot, rot).flatten(3)
        edges = torch.cat([radial, per_sample, turns], -1)
        near = (distance / _FAR).square().neg().exp()
        pairs = real[:, :, None] * real[:, None] * (1 - torch.eye(n, dtype=pos.dtype, device=pos.device)) * near
        for layer, widen in zip(self.layers, self.widen, strict=True):
            h = h + self.gate(widen(layer(h, harmonics / (1 + distance[..., None]), edges, pairs)))
        velocity, tangent = self.last(h).view(b, n, 2, 3)[..., [2, 0, 1]].unbind(2)
        velocity = velocity * real[..., None]
        velocity = (velocity - velocity.sum(1, keepdim=True) / real.sum(1)[:, None, None]) * real[..., None]
        return {"pos": velocity, "rot": (rot.mT @ tangent[..., None]).squeeze(-1) * real[..., None]}
