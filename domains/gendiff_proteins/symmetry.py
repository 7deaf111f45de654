r"""Symmetric oligomers: chains that are images of one another under a point group.

    x = (g_1 x_1, ..., g_G x_1),     g_k rotations about the origin,   g_1 = 1

is put into the noise, and put back after every step towards the data, so that samples have it exactly: a sampler then
moves the first chain in the field that it makes together with its images (Watson et al. 2023, on symmetric noise).

    C_n   n        rotations about z
    D_n   2 n      and a half turn about x
    T     12       of a tetrahedron       O   24   of a cube        I   60   of an icosahedron

The centre of the first chain is kept at least `radius` from the axis (from the centre, where there is none): a network
that saw chains of a hundred residues draws everything into the room of one. By default that is the radius at which the
whole has the radius of gyration of a protein of its size, Rg = 2.2 N^0.38 A.

Groups come from a few generators each, multiplied until they close. A motif given beside the symmetry is met by every
image: it belongs to the first chain and lies where it lies to the axes (`Symmetric.motif`), along z wherever it likes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gendiff import Given
from gendiff.errors import RequestError
from gendiff.processes import Process
from gendiff.random import Noise
from gendiff.spaces import exp_so3, to_pairs, to_square

from .frames import NM, frames_from_backbone
from .motif import LEAP, free_ids
from .structure import Structure

GOLDEN = (1 + math.sqrt(5)) / 2


def about(axis: tuple[float, float, float], turns: float) -> np.ndarray:
    """The rotation by 2 pi `turns` about an axis, [3, 3]."""
    unit = np.array(axis) / np.linalg.norm(axis)
    return exp_so3(torch.from_numpy(2 * math.pi * turns * unit)).numpy()


@lru_cache
def group(name: str) -> np.ndarray:
    """The rotations of a point group, float64 [G, 3, 3], the identity first.

    Raises:
        RequestError: for a name that is none of C1, C2, ..., D2, D3, ..., T, O, I.
    """
    match = re.fullmatch(r"([CD])(\d+)|[TOI]", name.strip().upper()) if isinstance(name, str) else None
    if match is None or (match[2] is not None and not (1 if match[1] == "C" else 2) <= int(match[2]) <= 60):
        raise RequestError(f"the symmetry {name!r}", "C1 to C60, D2 to D60, T, O or I", 'symmetry="C3"')
    word = match[0]
    generators = {
        "T": [about((0, 0, 1), 1 / 2), about((1, 1, 1), 1 / 3)],
        "O": [about((0, 0, 1), 1 / 4), about((1, 1, 1), 1 / 3)],
        "I": [about((0, 0, 1), 1 / 2), about((1, 1, 1), 1 / 3), about((0, 1, GOLDEN), 1 / 5)],
    }.get(word) or [about((0, 0, 1), 1 / int(match[2])), *([about((1, 0, 0), 1 / 2)] if match[1] == "D" else [])]
    found, new = [np.eye(3)], [np.eye(3)]
    while new:
        made = [a @ b for a in new for b in generators]
        new = []
        for one in made:
            if all(np.abs(one - other).max() > 1e-6 for other in found):
                found.append(one)
                new.append(one)
    return np.stack(found)


@dataclass(frozen=True)
class Symmetric:
    """An oligomer asked for: `model.sample(4, given=Symmetric("C3", 60))`.

    Args:
        group: C1, C2, ..., D2, D3, ..., T, O or I.
        length: Residues of each chain; None for those that the request says.
        motif: A `Motif` in a chain of this length, in the coordinates of the axes, or None.
        radius: Least distance of a chain's centre from the axis or the centre, angstrom; None for that of a protein of
            this size, 0 for any.
    """

    group: str
    length: int | None = None
    motif: Any = None
    radius: float | None = None

    def __post_init__(self) -> None:
        group(self.group)
        if self.length is not None and (type(self.length) is not int or self.length < 4):
            raise RequestError(f"chains of {self.length!r} residues", "4 or more", "length=60")
        if self.radius is not None and not (isinstance(self.radius, int | float) and 0 <= self.radius < math.inf):
            raise RequestError(f"a radius of {self.radius!r}", "angstrom, 0 or more, or None")
        if self.motif is not None and self.motif.length != self.length:
            raise RequestError(
                f"a motif in a chain of {self.motif.length} residues and chains of {self.length}", "one length"
            )

    @property
    def size(self) -> int:
        """The residues of each chain."""
        if self.length is None:
            raise RequestError(f"{self.group} without a length", "the residues of each chain", "length=60")
        return self.length

    @property
    def apart(self) -> float:
        """The least distance of a chain's centre, nm: what is said, or sqrt(Rg(G L)^2 - Rg(L)^2)."""
        if self.radius is not None:
            return NM * self.radius
        whole, one = (2.2 * n**0.38 for n in (self.count * self.size, self.size))
        return NM * math.sqrt(whole**2 - one**2)

    @property
    def count(self) -> int:
        """How many chains there are."""
        return len(group(self.group))

    @property
    def index(self) -> Tensor:
        """Places along the chains, int64 [count length]."""
        one = torch.arange(self.size)
        return torch.cat([one + k * (self.size + LEAP) for k in range(self.count)])

    def complete(self, sample: Structure) -> Structure:
        """A sample whose chains are exact images of the first, with ids."""
        size = len(sample) // self.count
        first = sample.take(slice(0, size))
        rotations, atoms, letters = group(self.group), first.backbone, list(first.sequence)
        hands = list(first.hands)
        known: tuple[str, ...] = ()
        side = None if self.motif is None else self.motif.sides()
        if self.motif is not None:
            places, own = list(self.motif.places), self.motif.structure
            off = (own.backbone[:, :3] - atoms[places, :3]).mean((0, 1))
            atoms = atoms + rotations.mean(0) @ off  # along the axis, if there is one: about it nothing is free
            atoms[places] = own.backbone
            for place, letter, hand in zip(places, own.sequence, own.hands, strict=True):
                letters[place], hands[place] = letter, hand
            known = self.motif.origins * self.count
        ids = [one for one in free_ids(self.count, ()) for _ in range(size)]
        return Structure(
            np.concatenate([atoms @ g.T for g in rotations]), "".join(letters) * self.count,
            tuple(map(str, range(1, size + 1))) * self.count, tuple(ids), sample.name, known,
            side=None if side is None else np.concatenate([side @ g.T for g in rotations]),
            hands="".join(hands) * self.count,
        )  # fmt: skip

    def state(self) -> tuple[dict[str, Tensor], Tensor]:
        """What is known of it: frames in nm about the axes [1, G L, ...], and where, bool [1, G L]."""
        pos, rot = torch.zeros(1, self.count * self.size, 3), torch.eye(3).repeat(1, self.count * self.size, 1, 1)
        keep = torch.zeros(1, self.count * self.size, dtype=torch.bool)
        if self.motif is not None:
            places = list(self.motif.places)
            own_pos, own_rot = frames_from_backbone(torch.from_numpy(self.motif.structure.backbone))
            pos[0, places], rot[0, places] = (NM * own_pos).float(), own_rot.float()
            keep = self.motif.keep.repeat(self.count)[None]
        x = images({"pos": pos, "rot": rot}, self.rotations, self.size)
        return x, keep

    @property
    def rotations(self) -> Tensor:
        """The group, float32 [G, 3, 3]."""
        return torch.from_numpy(group(self.group)).float()

    def given(self, with_nothing: Callable[[Any, Any], tuple[Any, Any]]) -> Oligomer:
        """As the sampler takes it, completed by `Proteins.with_nothing`.

        A motif is as noisy as the rest, and stretches of the grid are walked again, as for every `Motif`; without one
        nothing is known beforehand, and one pass is enough.
        """
        x0, keep = self.state()
        x0, by_part = with_nothing(x0, {"pos": keep, "rot": keep})
        return Oligomer(
            x0, by_part, shown=self.motif is None, rotations=self.rotations, length=self.size,
            apart=0.0 if self.motif else self.apart,
        )  # fmt: skip


@dataclass(frozen=True)
class Oligomer(Given):
    """The state of an oligomer, its chains images of the first; what is known of the first chain is put there first."""

    rotations: Tensor = field(default_factory=lambda: torch.eye(3)[None])
    length: int = 0
    apart: float = 0.0

    def put(self, process: Process, x: Any, s: float, noise: Noise) -> Any:
        """x_s with its images in place, the first chain as far out as it has to be of a clean one's share 1 - s."""
        x = images(x, self.rotations, self.length)  # what is known is shifted to the mean of where it is
        x = super().put(process, x, s, noise)
        if self.apart:
            x = {**x, "pos": outward(x["pos"], self.rotations, self.length, (1 - s) * self.apart)}
        return images(x, self.rotations, self.length)

    def select(self, rows: Any, device: torch.device | None = None) -> Self:
        return replace(super().select(rows, device), rotations=self.rotations.to(device or self.rotations.device))


def outward(pos: Tensor, rotations: Tensor, length: int, least: float) -> Tensor:
    """Positions whose first chain has its centre at least so far from what the rotations leave in place."""
    axis = rotations.to(pos).mean(0)
    centre = pos[:, :length].mean(1, keepdim=True)
    centre = centre - centre @ axis.T
    far = centre.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    push = (least - far).clamp_min(0) / far * centre
    return torch.cat([pos[:, :length] + push, pos[:, length:]], 1)


def images(x: dict[str, Tensor], rotations: Tensor, length: int) -> dict[str, Tensor]:
    """Frames [B, G length, ...] whose chains are images of the first; classes of residues are repeated."""
    count, out = len(rotations), dict(x)
    g = rotations.to(x["pos"])
    pos = x["pos"][:, :length]
    axis = g.mean(0)  # onto what no rotation moves: along it the whole is centred, as it is about it
    pos = pos - pos.mean(1, keepdim=True) @ axis.T
    out["pos"] = torch.einsum("gij,bnj->bgni", g, pos).flatten(1, 2)
    out["rot"] = torch.einsum("gij,bnjk->bgnik", g, x["rot"][:, :length]).flatten(1, 2)
    for name, part in x.items():
        if name in ("pos", "rot"):
            continue
        if part.shape[1] == count * length:
            out[name] = part[:, :length].repeat(1, count, *[1] * (part.ndim - 2))
        else:  # pairs: those of chains k and l are as those of the first chain and the image g_k^-1 g_l of it
            out[name] = to_pairs(related(to_square(part, count * length), g, length))
    return out


def related(square: Tensor, g: Tensor, length: int) -> Tensor:
    """What stands on pairs [B, G L, G L], that of the first chain with its images carried to all others."""
    count = len(g)
    between = torch.einsum("kji,ljm->klim", g, g)  # g_k^-1 g_l
    which = (between[:, :, None] - g).abs().amax((-1, -2)).argmin(-1)  # [G, G]
    first = square.view(len(square), count, length, count, length)[:, 0]  # [B, L, G, L]
    full = first[:, :, which].permute(0, 2, 1, 3, 4)  # [B, G, L, G, L]
    both = torch.maximum(full, full.permute(0, 3, 4, 1, 2))  # the two readings of a pair of images agree on the larger
    return both.reshape(square.shape)
