r"""What a network is told of a pocket, and how it looks at it.

Of each heavy atom q_j of the pocket within a radius of the centre: element, residue, backbone or not, and where it is
from the centre. Atom i of a molecule sees the K nearest, with d_ij = |r_i - q_j|,

    z_ij = silu(ends(h_i) + kind_j + radial(d_ij)),           c(d) = max(0, 1 - (d / 8 A)^2)^2
    h_i <- h_i + W sum_j c(d_ij) mlp(z_ij)
    v_i <- v_i + sum_j c(d_ij) push(z_ij) (r_i - q_j) / (1 + d_ij)

so that pocket and molecule may be turned together, and a pocket's own mirror image is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.conditions import Condition
from gendiff.errors import RequestError, at_least, check

from .pocket import RESIDUES, Pocket

UNIT = 1.4  # angstrom to the unit of states, as in networks
ELEMENTS = (6, 7, 8, 16, 15)
KINDS = (len(ELEMENTS) + 1, len(RESIDUES) + 1, 2)
REACH = 8.0  # angstrom


@dataclass(frozen=True)
class Surroundings(Condition):
    """A `Pocket` around the molecule.

    Args:
        radius: Atoms within it of the pocket's centre are told, angstrom.
        most: Of them the nearest so many.
    """

    radius: float = 13.0
    most: int = 320

    def __post_init__(self) -> None:
        check(self, most=at_least(1))

    @property
    def gives(self) -> tuple[str, ...]:
        return ()

    def encode(self, value: Pocket | None) -> dict[str, Tensor]:
        if value is None:
            empty = torch.zeros(0, dtype=torch.int64)
            return {"pos": torch.zeros(0, 3), "kind": torch.zeros(0, 3, dtype=torch.int64), "mask": empty.bool()}
        if not hasattr(value, "centre") or not hasattr(value, "residues"):
            raise RequestError(
                f"{type(value).__name__} as a pocket", "a Pocket", 'model.sample(8, given=read_pocket("1iep.pdb", ...))'
            )
        near = value.within(self.radius)
        pos = torch.from_numpy(near.positions - near.centre).float() / UNIT
        order = pos.square().sum(-1).argsort(stable=True)[: self.most]
        kind = torch.tensor(
            [
                (
                    ELEMENTS.index(int(z)) if int(z) in ELEMENTS else len(ELEMENTS),
                    RESIDUES.index(residue) if residue in RESIDUES else len(RESIDUES),
                    int(name in ("N", "CA", "C", "O", "OXT")),
                )
                for z, residue, name in zip(near.elements, near.residues, near.atoms, strict=True)
            ]
        )
        return {"pos": pos[order], "kind": kind[order], "mask": torch.ones(len(order), dtype=torch.bool)}

    def collate(self, singles: Sequence[Any], sites: tuple[int, ...] = ()) -> dict[str, Tensor]:
        longest = max(1, *(len(one["mask"]) for one in singles)) if singles else 1
        return {
            name: torch.stack([
                torch.cat([one[name], one[name].new_zeros(longest - len(one[name]), *one[name].shape[1:])])
                for one in singles
            ])
            for name in ("pos", "kind", "mask")
        }  # fmt: skip

    def drop(self, batch: Any, gone: Tensor) -> dict[str, Tensor]:
        return {**batch, "mask": batch["mask"] & ~gone[:, None]}

    def embedder(self, width: int) -> nn.Module:
        return Nothing()

    def single(self, value: Any) -> bool:
        return not isinstance(value, list | tuple)

    def follows(self, planned: Any, asked: Any) -> bool:
        return planned is asked

    def audit(self, values: Sequence[Any]) -> list[str]:
        missing = sum(value is None for value in values)
        return [f"{missing} of {len(values)} examples have none"] if missing else []

    def words(self, value: Any) -> str:
        return "" if value is None else f"{value.name}, {len(value)} atoms"

    def describe(self) -> str:
        return "a pocket of heavy atoms"


class Nothing(nn.Module):
    """Adds nothing to what a network is told as a vector: it looks at the pocket by itself."""

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {}


class PocketView(nn.Module):
    """Atoms of a molecule look at the nearest atoms of a pocket, see the top of the file.

    Args:
        width: Channels of an atom.
        hidden: Channels of what is seen.
        vectors: Channels of vectors.
        radii: Of `networks.radial`.
        nearest: Pocket atoms that each atom looks at.
    """

    def __init__(self, width: int, hidden: int, vectors: int, radii: int, nearest: int = 24) -> None:
        super().__init__()
        self.nearest = nearest
        self.kinds = nn.ModuleList(nn.Embedding(count, hidden) for count in KINDS)
        self.ends, self.near = nn.Linear(width, hidden), nn.Linear(radii, hidden)
        self.up, self.down = nn.Linear(hidden, hidden), nn.Linear(hidden, width)
        self.push = nn.Linear(hidden, vectors, bias=False)
        for last in (self.down, self.push):
            nn.init.zeros_(last.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h: Tensor, v: Tensor, r: Tensor, pocket: dict[str, Tensor], radial: Any) -> tuple[Tensor, Tensor]:
        k = min(self.nearest, pocket["mask"].shape[1])
        with torch.autocast(h.device.type, enabled=False):
            place, mask = pocket["pos"].to(r.dtype), pocket["mask"]
            apart = (r.detach()[:, :, None] - place[:, None]).square().sum(-1).masked_fill(~mask[:, None], torch.inf)
            index = apart.topk(k, largest=False).indices  # [B, N, k]
            rows = torch.arange(len(r), device=r.device)[:, None, None]
            away = r[:, :, None] - place[rows, index]
            length = (away.square().sum(-1, keepdim=True) + 1e-6).sqrt()
            seen, away = radial(length[..., 0]), away / (1 + length)
            weight = (1 - (length * UNIT / REACH).square()).clamp_min(0).square() * mask[rows, index][..., None]
        kind = sum(table(pocket["kind"][..., c]) for c, table in enumerate(self.kinds))
        ends = self.ends(F.layer_norm(h, h.shape[-1:]))[:, :, None]
        z = F.silu(ends + kind[rows, index].to(ends.dtype) + self.near(seen.to(ends.dtype)))  # type: ignore[index]
        z = F.silu(self.up(z))
        h = h + self.down((z * weight.to(z.dtype)).sum(2))
        push = self.push(z)
        with torch.autocast(h.device.type, enabled=False):
            v = v + torch.einsum("bikx,bikc->bixc", away * weight, push.to(v.dtype)) / 4
        return h, v
