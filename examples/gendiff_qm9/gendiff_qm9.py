"""Small molecules (QM9): positions, elements and Kekule bonds, drawn together; a domain with a part on pairs of atoms.

pos    positions, centred, 1.4 angstrom to the unit       Gaussian on Centered()
atom   elements: H, C, N, O                               Absorbing
bond   none, single, double, triple, for every pair       Absorbing(sites=Pairs())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff import Absorbing, Adams, Centered, Domain, Example, Examples, Gaussian, Joint, Linear, Pairs, Request
from gendiff.domain import Rejected, data_file
from gendiff.errors import RequestError
from gendiff.nn import FourierTime
from gendiff.spaces import pair_index, to_pairs, to_square

ELEMENTS, VALENCES, NUMBERS = ("H", "C", "N", "O"), (1, 4, 3, 2), (1, 6, 7, 8)
UNIT, RADII, GOLDEN = 1.4, 24, (5**0.5 - 1) / 2
BUMPS = [0.4 + 2.8 / 19 * k for k in range(20)] + [4.0, 5.0, 6.5, 8.0], [0.15] * 20 + [0.8] * 4  # centres, widths


@dataclass(frozen=True, eq=False)
class Molecule:
    """Elements int64 [N] (places in ELEMENTS), positions [N, 3] in angstrom, bond orders int64 [N, N], 0 for none."""

    atoms: Tensor
    pos: Tensor
    bonds: Tensor

    def sound(self) -> bool:
        """Every valence is right and the molecule is one piece: what charges would excuse is not sound."""
        reached = self.bonds.bool() | torch.eye(len(self.atoms), dtype=torch.bool)
        for _ in range(5):  # 32 bonds away
            reached = (reached.float() @ reached.float()) > 0
        return bool(reached.all()) and torch.equal(self.bonds.sum(1), torch.tensor(VALENCES)[self.atoms])


class Molecules(Sequence[Example]):
    """Rows of qm9.npz as examples, made when asked for."""

    def __init__(self, data: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Molecules(self.data, self.rows[index])
        row, data = self.rows[index], self.data
        at, of = (slice(*data[name][row : row + 2]) for name in ("offset", "bond_offset"))
        i, j, order = torch.from_numpy(data["bonds"][of]).long().T
        bonds = torch.zeros(at.stop - at.start, at.stop - at.start, dtype=torch.int64)
        bonds[i, j] = bonds[j, i] = order
        atoms = torch.from_numpy(np.searchsorted(NUMBERS, data["z"][at]))
        return Example(Molecule(atoms, torch.from_numpy(data["pos_mA"][at] / 1000).float(), bonds), name=f"QM9 {row}")


class Block(nn.Module):
    """Attention between atoms, biased by pairs; vectors along the pairs; then atoms, vectors and positions move."""

    def __init__(self, width: int, pair: int, heads: int, vectors: int) -> None:
        super().__init__()
        self.heads, self.told = heads, nn.Linear(width, 4 * width)
        self.ends, self.near, self.norm = nn.Linear(width, pair), nn.Linear(RADII, pair), nn.LayerNorm(pair)
        self.pair = nn.Sequential(nn.Linear(pair, 2 * pair), nn.SiLU(), nn.Linear(2 * pair, pair))
        self.bias, self.push = nn.Linear(pair, heads), nn.Linear(pair, vectors)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.turn, self.move = nn.Linear(vectors, 2 * vectors, bias=False), nn.Linear(vectors, 1, bias=False)
        self.up, self.down = nn.Linear(width + 3 * vectors, 3 * width), nn.Linear(3 * width, width + 3 * vectors)
        for parameter in (p for f in (self.told, self.out, self.down, self.pair[2]) for p in f.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, v: Tensor, e: Tensor, r: Tensor, about: Tensor, mask: Tensor) -> Any:
        n, (i, j) = h.shape[1], pair_index(h.shape[1], h.device)
        a, b, c, d = (1 + part if k % 2 else part for k, part in enumerate(self.told(about)[:, None].chunk(4, -1)))
        ends, away = self.ends(F.layer_norm(h, h.shape[-1:])), r[:, :, None] - r[:, None]
        length = (away.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        e = e + self.pair(F.silu(self.norm(e) + ends[:, i] + ends[:, j] + self.near(radial(to_pairs(length)[..., 0]))))
        bias = to_square(self.bias(e), n).movedim(-1, 1).masked_fill(~mask[:, None, None], -1e4)
        q, k, w = (
            self.qkv(F.layer_norm(h, h.shape[-1:]) * b + a).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        h = h + self.out(F.scaled_dot_product_attention(q, k, w, bias.to(q.dtype)).transpose(1, 2).flatten(2))
        push = to_square(self.push(e), n) * mask[:, None, :, None]
        v = v + torch.einsum("bijc,bijx->bixc", push, (away / (1 + length)).to(push.dtype)) / 4
        one, two = (part / (1 + part.square().sum(2, keepdim=True)).sqrt() for part in self.turn(v).chunk(2, -1))
        seen = torch.cat([(x * y).sum(2) for x, y in ((one, one), (two, two), (one, two))], -1)
        gates = self.down(F.silu(self.up(torch.cat([F.layer_norm(h, h.shape[-1:]) * d + c, seen], -1))))
        gain, x, y = gates[..., h.shape[-1] :, None].mT.chunk(3, -1)
        v = v * (1 + gain.tanh()) + x * one + y * torch.linalg.cross(one.to(r.dtype), two.to(r.dtype), dim=2)
        return h + gates[..., : h.shape[-1]], v, e, self.move(v)[..., 0].to(r.dtype)


def radial(length: Tensor) -> Tensor:
    """Distances [...] in units of the state as bumps [..., RADII] at BUMPS."""
    centre, width = (torch.tensor(values, dtype=length.dtype, device=length.device) / UNIT for values in BUMPS)
    return torch.exp(-((length[..., None] - centre) / width).square() / 2)


class MoleculeNet(nn.Module):
    """A transformer with a track of pairs and channels of vectors; exact under rotations, not under reflections."""

    def __init__(
        self, width: int = 160, pair: int = 64, depth: int = 6, heads: int = 8, vectors: int = 32, previous: bool = True
    ) -> None:
        super().__init__()
        self.takes_previous = previous
        self.time = nn.Sequential(FourierTime(64), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.size, self.atom, self.bond = nn.Embedding(64, width), nn.Embedding(5, width), nn.Embedding(5, pair)
        self.near, self.first = nn.Linear(RADII, pair), nn.Linear(width, vectors)
        if previous:
            self.atom_before, self.pair_before = nn.Linear(4, width), nn.Linear(4 + RADII, pair)
        self.blocks = nn.ModuleList(Block(width, pair, heads, vectors) for _ in range(depth))
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(pair)])
        self.atoms, self.bonds = nn.Linear(width, 4), nn.Linear(pair, 4)

    def forward(self, x: Any, t: Tensor, mask: Tensor | None = None, previous: Any = None) -> dict[str, Tensor]:
        start, (i, j) = x["pos"], pair_index(x["pos"].shape[1], x["pos"].device)
        mask = torch.ones_like(x["atom"], dtype=torch.bool) if mask is None else mask
        about = F.silu(self.time(t) + self.size(mask.sum(1).clamp_max(63)))
        h, e = self.atom(x["atom"]) + about[:, None], self.bond(x["bond"]) + self.near(radial(apart(start, i, j)))
        if previous is not None:
            before = radial(apart(previous["pos"], i, j))
            h = h + self.atom_before(previous["atom"].exp())
            e = e + self.pair_before(torch.cat([previous["bond"].exp(), before], -1))
        v, r, velocity = start[..., None] * self.first(h)[:, :, None], start, torch.zeros_like(start)
        for block in self.blocks:
            h, v, e, move = block(h, v, e, r, about, mask)
            velocity = velocity + move.to(start.dtype)
            r = start - t[:, None, None] * velocity
        return {"pos": velocity, "atom": self.atoms(self.norms[0](h)), "bond": self.bonds(self.norms[1](e))}


def apart(pos: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The distances of all pairs, [B, P]."""
    return ((pos[:, i] - pos[:, j]).square().sum(-1) + 1e-6).sqrt()


@dataclass(frozen=True)
class QM9(Domain):
    """Uncharged molecules of QM9; `counts` is how many have 0, 1, 2, ... atoms, which `fit` finds."""

    name: ClassVar[str] = "qm9"
    ragged: ClassVar[bool] = True
    counts: tuple[int, ...] = (0,) * 18 + (1,)

    @property
    def process(self) -> Joint:
        atom = Absorbing(4, eta=1.0, below=0.5)
        return Joint(pos=Gaussian(Linear(), Centered()), atom=atom, bond=replace(atom, sites=Pairs()))

    def sampler(self) -> Adams:
        return Adams(50, noise_scale={"pos": 1.0, "atom": 0.5, "bond": 0.5})  # benchmarks/results/qm9.json

    def encode(self, artifact: Molecule) -> dict[str, Tensor]:
        pos = (artifact.pos - artifact.pos.mean(0)) / UNIT
        return {"pos": pos, "atom": artifact.atoms, "bond": to_pairs(artifact.bonds[None])[0]}

    def decode(self, x: dict[str, Tensor]) -> Molecule:
        return Molecule(x["atom"], UNIT * x["pos"], to_square(x["bond"][None], len(x["atom"]))[0])

    def request(self, n: int, *, atoms: int | Sequence[int] | None = None) -> Request:
        sizes = [atoms] * n if isinstance(atoms, int) else list(self.preview(n)["atoms"] if atoms is None else atoms)
        if len(sizes) != n or not all(isinstance(size, int) and 1 <= size < 64 for size in sizes):
            raise RequestError(f"atoms={atoms!r} for {n} samples", f"a number from 1 to 63, or {n} of them", "atoms=18")
        whole = max(sizes)
        pairs = torch.empty(n, Pairs().count(whole), dtype=torch.int64)
        like = {"pos": torch.empty(n, whole, 3), "atom": torch.empty(n, whole, dtype=torch.int64), "bond": pairs}
        return Request(like, {"mask": torch.arange(whole)[None] < torch.tensor(sizes)[:, None]})

    def preview(self, n: int) -> dict[str, Any]:
        sizes = np.repeat(np.arange(len(self.counts)), self.counts)
        return {"atoms": [int(sizes[int((i + 1) * GOLDEN % 1 * len(sizes))]) for i in range(n)]}

    def size_of(self, artifact: Molecule) -> dict[str, Any]:
        return {"atoms": len(artifact.atoms)}

    def fit(self, artifacts: Sequence[Molecule]) -> QM9:
        return replace(self, counts=tuple(np.bincount([len(a.atoms) for a in artifacts]).tolist()))

    def network(self, **size: Any) -> nn.Module:
        return MoleculeNet(**size)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        data = dict(np.load(data_file("molecules/qm9.npz", root)))
        charged = np.add.reduceat(data["formal_charge"] != 0, data["offset"][:-1]) > 0
        rows = np.flatnonzero((np.arange(len(charged)) % 20 == 0) == (split == "test"))
        gone = [Rejected(f"QM9 {row}", "charged") for row in rows[charged[rows]]]
        return Examples(Molecules(data, rows[~charged[rows]]), gone)

    @property
    def suffix(self) -> str:
        return ".sdf"

    def write(self, artifact: Molecule, path: str | Path) -> None:
        pairs = artifact.bonds.triu().nonzero().tolist()
        head = ["", "  gendiff", "", f"{len(artifact.atoms):3}{len(pairs):3}  0  0  0  0  0  0  0  0999 V2000"]
        rows = zip(artifact.atoms.tolist(), artifact.pos.tolist(), strict=True)
        atoms = [f"{x:10.4f}{y:10.4f}{z:10.4f} {ELEMENTS[k]:<3} 0" + "  0" * 11 for k, (x, y, z) in rows]
        bonds = [f"{i + 1:3}{j + 1:3}{int(artifact.bonds[i, j]):3}  0" for i, j in pairs]
        Path(path).write_text("\n".join([*head, *atoms, *bonds, "M  END", "$$$$", ""]))

    def metrics(self) -> dict[str, Any]:
        return {"sound": lambda samples, reference: float(np.mean([m.sound() for m in samples]))}
