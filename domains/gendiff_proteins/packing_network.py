r"""The network that turns side chains: residues see those near them, in frames of their own.

Residue i has a frame (p_i, R_i), a letter, and side-chain atoms y_ia where the noisy torsions put them. It hears of its
K nearest residues j, by virtual CB,

    e_ij = [radial |p_j - p_i|, |b_j - b_i|;  R_i^T (p_j, b_j, N_j, C_j, O_j - p_i);  R_i^T R_j;  j - i]           once
    d_ij = [R_i^T (g_jk - p_i);  exp(-|g_ik - q_jl|^2/2 s^2);  sum_ab exp(-|y_ia - y_jb|^2/2 s^2)]      at every noise

with b the virtual CB, g_jk the middle of what torsion k moves and q_jl those and the backbone's atoms. Messages are
gated sums; what they add to residues is modulated by the time. The output is a tangent for every torsion, zero for
those that are held. All inputs are invariant under proper rotations and translations, and change under reflection.
Angstrom.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gendiff.errors import RequestError
from gendiff.nn.embeddings import whole

from .building import CB, CHIS, TABLES, UNKNOWN, built
from .frames import dihedral, ideal_atoms
from .networks import bell, full_precision, waves

State = dict[str, Tensor]

_RADII = 12  # radial basis functions
_FAR = 20.0  # the last centre
_REACH = 16  # steps along the chain beyond which all are alike
_STATIC = 2 * _RADII + 15 + 9
_DYNAMIC = 3 * (CHIS + 1) + (CHIS + 1) + (CHIS + 1) * (CHIS + 5) + 2 * (CHIS + 1)
_SOFT = (1.2, 2.0)  # widths of what is near, for atoms
_NODE = 3 * CHIS + CHIS + 9


class Message(nn.Module):
    """One round: residues hear of those near them, and turn over what they heard."""

    def __init__(self, width: int, edge: int, dropout: float) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 4 * width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.own, self.other, self.between = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(edge, width)
        self.mix, self.gate = nn.Linear(width, width), nn.Linear(width, 1)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(dropout)
        for layer in (self.modulation, self.out, self.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, edges: Tensor, near: Tensor, there: Tensor, about: Tensor) -> Tensor:
        a, b, c, d = self.modulation(about)[:, None].chunk(4, -1)
        seen = self.norms[0](h) * (1 + a) + b
        z = self.own(seen)[:, :, None] + neighbours(self.other(seen), near) + self.between(edges)
        z = functional.silu(self.mix(functional.silu(z)))
        heard = (z * self.gate(z).sigmoid() * there[..., None]).sum(2) / 4
        h = h + self.drop(self.out(heard))
        gate, value = self.up(self.norms[1](h) * (1 + c) + d).chunk(2, -1)
        return h + self.drop(self.down(functional.silu(gate) * value))


class PackingNetwork(nn.Module):
    """Clean torsions from noisy ones, on a given backbone.

    Args:
        width: Channels of a residue.
        depth: Rounds of messages.
        edge: Channels of a pair of residues.
        near: Neighbours that a residue hears of.
        dropout: Of what rounds add, while training.

    Input: `x = {"chi": [B, M]}`, `t` [B], `mask` [B, M], `backbone` as `GivenBackbone` collates it, and `held` [B, M],
    the torsions that are known and shown clean. Output: `{"chi": [B, M]}`, a tangent.
    """

    def __init__(
        self, width: int = 96, depth: int = 4, edge: int = 48, near: int = 20, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        whole("PackingNetwork", width=width, depth=depth, edge=edge, near=near)
        self.near = near
        self.letter = nn.Embedding(UNKNOWN + 1, width)
        self.start = nn.Linear(_NODE, width)
        self.about = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.static = nn.Linear(_STATIC, edge)
        self.along = nn.Embedding(2 * _REACH + 2, edge)
        self.dynamic = nn.Linear(_DYNAMIC, edge)
        self.edges = nn.Linear(edge, edge)
        self.rounds = nn.ModuleList(Message(width, edge, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, CHIS)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What hangs on the backbone alone: who is near whom, and how they lie."""
        if cond.get("backbone") is None:
            return {}
        told = cond["backbone"]
        with full_precision(told["pos"]):
            graph = surroundings(told, self.near)
        steps = self.along(graph.pop("steps"))
        return {"graph": {**graph, "edges": self.static(graph.pop("static")) + steps}}

    def forward(
        self,
        x: State,
        t: Tensor,
        *,
        mask: Tensor | None = None,
        backbone: Mapping[str, Tensor] | None = None,
        held: Tensor | None = None,
        embedded: Mapping[str, Any] | None = None,
        **cond: Any,
    ) -> State:
        chi = x["chi"]
        if backbone is None or cond:
            raise RequestError(
                "PackingNetwork got no backbone" if backbone is None else f"the condition {next(iter(cond))}=",
                "backbone, and held",
                "model.sample(4, given=structure)",
            )
        real = torch.ones_like(chi, dtype=torch.bool) if mask is None else mask
        held = torch.zeros_like(real) if held is None else held & real
        backbone = {name: part.to(chi.dtype) if part.is_floating_point() else part for name, part in backbone.items()}
        graph = (embedded or self.embed({"backbone": backbone}))["graph"]
        letters, near = backbone["letter"], graph["near"]
        n = letters.shape[1]
        place = torch.where(real, backbone["residue"] * CHIS + backbone["number"], n * CHIS)
        own, there, known = (spread(part.to(chi.dtype), place, n) for part in (chi, real, held))
        with full_precision(chi):
            twice = TABLES.twice.to(letters.device)[letters]
            turned = torch.where(twice, own / 2, own)
            atoms = built(letters, backbone["pos"], backbone["rot"], turned)
            moving = dynamic(backbone, atoms, there > 0, near)
        node = torch.cat([own.sin() * there, own.cos() * there, there, known, graph["node"]], -1)
        t = t.to(chi.dtype).expand(len(chi))
        about = self.about(torch.cat([waves(1000 * t, 48, 10_000.0), waves(10 * t, 16, 10.0)], -1))
        h = self.letter(letters) + self.start(node) + about[:, None]
        edges = functional.silu(self.edges(functional.silu(graph["edges"] + self.dynamic(moving))))
        for one in self.rounds:
            h = one(h, edges, near, graph["there"], about)
        out = functional.pad(self.last(self.norm(h)).flatten(1), (0, 1)).gather(1, place)
        return {"chi": torch.where(held | ~real, 0.0, out)}


def spread(values: Tensor, place: Tensor, n: int) -> Tensor:
    """Values of torsions [B, M] by residue, [B, N, 4]; what is no torsion goes to the place N * 4, which is cut off."""
    out = values.new_zeros(len(values), n * CHIS + 1).scatter(1, place, values)
    return out[:, :-1].unflatten(1, (n, CHIS))


def neighbours(h: Tensor, near: Tensor) -> Tensor:
    """What stands at each residue's neighbours, `[B, N, K, ...]`, of h `[B, N, ...]`."""
    return h[torch.arange(len(h), device=h.device)[:, None, None], near]


def radial(distance: Tensor) -> Tensor:
    """Gaussians of distances [...], `[..., 12]`."""
    centres = torch.linspace(2.0, _FAR, _RADII, dtype=distance.dtype, device=distance.device)
    return bell(-((distance[..., None] - centres) * (_RADII / _FAR)).square())


def surroundings(told: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
    """Who is near whom, [B, N, K], and what is seen of them, by the backbone alone."""
    pos, rot, mask, index = told["pos"], told["rot"], told["mask"], told["index"]
    n = pos.shape[1]
    beta = pos + rot @ pos.new_tensor(CB["A"])
    nitrogen, carbon = (pos + rot @ atom for atom in ideal_atoms(pos))
    oxygen = told["oxygen"]
    far = (beta[:, :, None] - beta[:, None]).square().sum(-1)
    far = far.masked_fill(~(mask[:, :, None] & mask[:, None]), torch.inf)
    far.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    found = far.topk(min(most, n), dim=2, largest=False)
    near, there = found.indices, found.values.isfinite()
    points = neighbours(torch.stack([pos, beta, nitrogen, carbon, oxygen], 2), near) - pos[:, :, None, None]
    seen = points @ rot[:, :, None]  # [B, N, K, 5, 3]
    apart = (neighbours(beta, near) - beta[:, :, None]).norm(dim=-1)
    turn = rot.mT[:, :, None] @ neighbours(rot, near)
    static = torch.cat([radial(seen[..., 0, :].norm(dim=-1)), radial(apart), seen.flatten(3) / 8, turn.flatten(3)], -1)
    steps = neighbours(index, near) - index[:, :, None]
    steps = torch.where(steps.abs() > _REACH, 2 * _REACH + 1, steps.clamp(-_REACH, _REACH) + _REACH)
    weight = bell(far * (-0.5 / 7.0**2)).masked_fill(~far.isfinite(), 0.0)
    crowd = torch.stack([(far < radius**2).sum(-1) / count for radius, count in ((8.0, 6.0), (10.0, 12.0))], -1)
    towards = ((weight @ beta - weight.sum(-1, keepdim=True) * beta)[..., None, :] @ rot).squeeze(-2) / 40
    follows = (index[:, 1:] - index[:, :-1] == 1) & mask[:, 1:]
    phi = dihedral(carbon[:, :-1], nitrogen[:, 1:], pos[:, 1:], carbon[:, 1:])
    psi = dihedral(nitrogen[:, :-1], pos[:, :-1], carbon[:, :-1], nitrogen[:, 1:])
    phi, psi = ([angle.sin() * follows, angle.cos() * follows] for angle in (phi, psi))
    torsion = [functional.pad(part, (1, 0)) for part in phi] + [functional.pad(part, (0, 1)) for part in psi]
    node = torch.cat([torch.stack(torsion, -1), crowd, towards], -1)
    return {"near": near, "there": there, "static": static * there[..., None], "steps": steps, "node": node}


def dynamic(told: Mapping[str, Tensor], atoms: Tensor, there: Tensor, near: Tensor) -> Tensor:
    """What residues see of the side chains of those near them, and how they lie to their own, `[B, N, K, .]`.

    Args:
        told: The backbone.
        atoms: [B, N, 10, 3].
        there: bool [B, N, 4]: the torsions of which atoms are known.
        near: [B, N, K].
    """
    group = TABLES.group.to(atoms.device)[told["letter"]]
    whole = (there.any(-1) | (TABLES.chis.to(atoms.device)[told["letter"]] == 0)) & told["mask"]
    real = (group >= 0) & ((group == 0) | whole[..., None]) & told["mask"][..., None]  # [B, N, 10]
    parts = functional.one_hot(group.clamp_min(0), CHIS + 1).to(atoms.dtype) * real[..., None]  # [B, N, 10, 5]
    count = parts.sum(2)
    middle = (parts.mT @ atoms) / count.clamp_min(1)[..., None]  # [B, N, 5, 3]
    some = (count > 0).to(atoms.dtype)
    pos, rot = told["pos"], told["rot"]
    other, others = neighbours(middle, near), neighbours(some, near)
    places = ((other - pos[:, :, None, None]) @ rot[:, :, None]) * others[..., None] / 8
    spine = torch.stack([*(pos + rot @ atom for atom in ideal_atoms(pos)), pos, told["oxygen"]], 2)
    seen = torch.cat([other, neighbours(spine, near)], 3)  # [B, N, K, 9, 3]
    shown = torch.cat([others, torch.ones_like(others[..., :4])], -1)
    far = (middle[:, :, None, :, None] - seen[:, :, :, None]).square().sum(-1)
    close = bell(far * (-0.5 / 2.5**2)) * some[:, :, None, :, None] * shown[:, :, :, None]
    every = neighbours(torch.cat([atoms, spine], 2), near)  # [B, N, K, 14, 3]
    living = neighbours(functional.pad(real.to(atoms.dtype), (0, 4), value=1.0), near)
    far = (
        atoms.square().sum(-1)[:, :, None, :, None] + every.square().sum(-1)[:, :, :, None]
        - 2 * atoms[:, :, None] @ every.mT
    ).clamp_min(0)  # fmt: skip
    touch = []
    for scale in _SOFT:
        felt = (bell(far * (-0.5 / scale**2)) * living[:, :, :, None]).sum(-1)  # [B, N, K, 10]
        touch.append((felt[..., None, :] @ parts[:, :, None]).squeeze(-2))
    return torch.cat([places.flatten(3), others, close.flatten(3), *touch], -1)
