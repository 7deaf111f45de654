r"""Networks on atoms, pairs of atoms, and vectors.

Beside every atom stands h_i and C vectors v_i, beside every pair e_ij = e_ji. With the positions r of the block,
r_k = x_t - t sum of the moves so far, and d_ij = |r_i - r_j|,

    z_ij = silu(norm(e_ij) + ends(h_i) + ends(h_j) + radial(d_ij))
    e_ij <- e_ij + mlp(z_ij) + out(norm(sum_k a_ik b_kj))                     around triangles (Jumper et al. 2021)
    h_i  <- h_i + attention(h, bias(e)) + W sum_j give(e_ij)                  a plain sum: valences are counted by it
    v_i  <- v_i + sum_j push(e_ij) (r_i - r_j) / (1 + d_ij)                   (Satorras et al. 2021)
    h_i, v_i <- mlp(h_i, |A v_i|^2, |B v_i|^2, A v_i . B v_i), gains, mixes, and A v_i x B v_i

The cross product makes a third vector of two and changes sign under reflections, unlike them: with it (`parity`) the
network is equivariant under rotations and sees mirror images, without it under reflections too, and is blind to them.
The raw output is a velocity of positions, logits of atoms and of bonds. What is known of a molecule, a template, is
seen pair by pair, by distance and direction, in the axes of x_t and wherever it lies. A pocket, where the conditions
have one (`Surroundings`), is looked at before every second block. Units: of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.conditions import Condition
from gendiff.errors import RequestError
from gendiff.nn import FourierTime
from gendiff.nn.embeddings import Asked, whole
from gendiff.spaces import pair_index, to_pairs

from .surroundings import PocketView, Surroundings

State = dict[str, Tensor]

UNIT = 1.4  # angstrom to the unit of states
ORDERS = 4  # none, single, double, triple
LARGEST = 255  # atoms
_NEAR, _FAR = [0.4 + 2.8 / 19 * k for k in range(20)], [4.0, 5.0, 6.5, 8.0]  # angstrom: centres of bumps
RADII = len(_NEAR) + len(_FAR)


def radial(length: Tensor) -> Tensor:
    """Distances [...] in units of the state as bumps [..., 24]: fine where bonds and angles are, coarse beyond."""
    centre = length.new_tensor([*_NEAR, *_FAR]) / UNIT
    width = length.new_tensor([0.15] * len(_NEAR) + [0.8] * len(_FAR)) / UNIT
    return torch.exp(-(0.5 * ((length[..., None] - centre) / width).square()).clamp_max(40.0))


def apart(pos: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The distances of all pairs, [B, P]."""
    return ((pos[:, i] - pos[:, j]).square().sum(-1) + 1e-6).sqrt()


def tally(x: State, at: Incidence, mask: Tensor, kinds: int) -> Tensor:
    """How many real atoms show each kind, and real pairs each order, masked ones too, over eight: [B, kinds + 6].

    Attention averages and cannot count; that a molecule has nine heavy atoms at most is seen by this.
    """
    dtype = x["pos"].dtype
    atoms = (F.one_hot(x["atom"], kinds + 1).to(dtype) * mask[..., None]).sum(1)
    bonds = (F.one_hot(x["bond"], ORDERS + 1).to(dtype) * at.real).sum(1)
    return torch.cat([atoms, bonds], -1) / 8


class Incidence:
    """Which atoms i < j each of P pairs joins, as index and as matrices, whose products are faster than gathers.

    Attributes:
        i, j: `[P]`, as `pair_index` has them.
        both: `[P, N]`, 1 at i and at j.
        signed: `[P, N]`, 1 at i and -1 at j.
        place: `[N N]`, the pair of every entry of a matrix, 0 on its diagonal.
        real: `[B, P, 1]`, 1 where both atoms are real.
        square: `[B, N, N, 1]`, 1 where both are real and differ.
        root: `[B, 1, 1]`, the root of how many atoms are real.
        hidden: `[B, 1, 1, N]`, added to the logits of attention: nothing looks at what is no atom.
    """

    def __init__(self, mask: Tensor, dtype: torch.dtype) -> None:
        n, device = mask.shape[1], mask.device
        self.i, self.j = pair_index(n, device)
        eye = torch.eye(n, device=device, dtype=dtype)
        self.both, self.signed = eye[self.i] + eye[self.j], eye[self.i] - eye[self.j]
        k = torch.arange(n, device=device)
        low, high = torch.minimum(k[:, None], k), torch.maximum(k[:, None], k)
        self.place = torch.where(low == high, 0, high * (high - 1) // 2 + low).flatten()
        self.off = (1 - eye)[..., None]
        self.real = (mask[:, self.i] & mask[:, self.j])[..., None].to(dtype)
        self.square = (mask[:, :, None] & mask[:, None])[..., None].to(dtype) * self.off
        self.root = mask.sum(1).to(dtype)[:, None, None].sqrt()
        self.hidden = torch.where(mask, 0.0, -1e4).to(dtype)[:, None, None]

    def matrix(self, pairs: Tensor) -> Tensor:
        """[B, P, C] as symmetric matrices [B, N, N, C]; what is on diagonals means nothing."""
        if not pairs.shape[1]:
            return pairs.new_zeros(len(pairs), 1, 1, pairs.shape[-1])
        n = self.both.shape[1]
        return pairs.index_select(1, self.place).unflatten(1, (n, n))


def full_precision(like: Tensor) -> torch.autocast:
    """No autocast inside: geometry keeps the dtype of the points."""
    return torch.autocast(like.device.type, enabled=False)


class Pairs(nn.Module):
    """One update of the pairs, see the top of the file: `e` [B, P, pair] -> its change."""

    def __init__(self, width: int, pair: int, triangle: int) -> None:
        super().__init__()
        self.ends, self.near, self.norm = nn.Linear(width, pair), nn.Linear(RADII, pair), nn.LayerNorm(pair)
        self.up, self.down = nn.Linear(pair, 2 * pair), nn.Linear(2 * pair, pair)
        self.sides, self.around, self.out = (
            nn.Linear(pair, 2 * triangle), nn.LayerNorm(triangle), nn.Linear(triangle, pair),
        )  # fmt: skip
        for last in (self.down, self.out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, h: Tensor, e: Tensor, near: Tensor, at: Incidence) -> Tensor:
        ends = self.ends(F.layer_norm(h, h.shape[-1:]))
        z = F.silu(self.norm(e).to(ends.dtype) + at.both.to(ends.dtype) @ ends + self.near(near.to(ends.dtype)))
        a, b = (at.matrix(self.sides(z)) * at.square.to(z.dtype)).movedim(-1, 1).chunk(2, 1)
        closed = a @ b
        closed = to_pairs((closed + closed.mT).movedim(1, -1)) / at.root.to(closed.dtype)
        return self.down(F.silu(self.up(z))) + self.out(self.around(closed))


class Block(nn.Module):
    """Pairs, attention between atoms, sums over pairs, vectors; then positions move."""

    def __init__(self, width: int, pair: int, triangle: int, heads: int, vectors: int, parity: bool) -> None:
        super().__init__()
        self.heads, self.parity, self.told = heads, parity, nn.Linear(width, 4 * width)
        self.pairs = Pairs(width, pair, triangle)
        self.bias, self.give, self.push = nn.Linear(pair, heads), nn.Linear(pair, pair), nn.Linear(pair, vectors)
        self.qkv, self.out, self.summed = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Linear(pair, width)
        self.turn, self.move = nn.Linear(vectors, 2 * vectors, bias=False), nn.Linear(vectors, 1, bias=False)
        self.up = nn.Linear(width + 3 * vectors, 3 * width)
        self.down = nn.Linear(3 * width, width + (3 if parity else 2) * vectors)
        for last in (self.told, self.out, self.down, self.summed):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, h: Tensor, v: Tensor, e: Tensor, r: Tensor, about: Tensor, at: Incidence
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        width = h.shape[-1]
        a, b, c, d = self.told(about)[:, None].chunk(4, -1)
        with full_precision(h):
            away = r.index_select(1, at.i) - r.index_select(1, at.j)
            length = (away.square().sum(-1, keepdim=True) + 1e-6).sqrt()
            near, away = radial(length[..., 0]), away / (1 + length)
        e = e + self.pairs(h, e, near, at)
        bias = self.bias(e)
        bias = (at.matrix(bias) * at.off.to(bias.dtype)).movedim(-1, 1) + at.hidden.to(bias.dtype)
        seen = self.qkv(F.layer_norm(h, (width,)) * (1 + b) + a)
        q, k, w = seen.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + self.out(F.scaled_dot_product_attention(q, k, w, bias.to(q.dtype)).transpose(1, 2).flatten(2))
        given = self.give(F.silu(e))
        given = given * at.real.to(given.dtype)
        h = h + self.summed(at.both.to(given.dtype).mT @ given / 4)
        push = self.push(e)
        push = (push * at.real.to(push.dtype)).to(v.dtype)
        with full_precision(h):
            pushed = (away[..., None] * push[:, :, None]).flatten(2)
            v = v + (at.signed.to(v.dtype).mT @ pushed).view_as(v) / 4
        one, two = (part / (1 + part.square().sum(2, keepdim=True)).sqrt() for part in self.turn(v).chunk(2, -1))
        inner = torch.cat([(x * y).sum(2) for x, y in ((one, one), (two, two), (one, two))], -1)
        gates = self.down(F.silu(self.up(torch.cat([F.layer_norm(h, (width,)) * (1 + d) + c, inner.to(h.dtype)], -1))))
        gain, x, *y = gates[..., width:, None].mT.chunk(3 if self.parity else 2, -1)
        v = v * (1 + gain.tanh()) + x * one
        if self.parity:
            v = v + y[0] * torch.linalg.cross(one.to(r.dtype), two.to(r.dtype), dim=2)
        return h + gates[..., :width], v.to(r.dtype), e, self.move(v)[..., 0].to(r.dtype)


class MoleculeNetwork(nn.Module):
    """Clean molecules from noisy ones.

    Args:
        kinds: how many kinds of atoms there are.
        width: channels of an atom.
        pair: channels of a pair.
        depth: blocks.
        heads: of attention.
        vectors: channels of vectors.
        triangle: channels of the sums around triangles.
        parity: whether mirror images are told apart.
        previous: whether it is told its last prediction.
        templates: whether it may be told of atoms that are known.
        conditions: what may be asked, by name: vectors, and fields of atoms.

    Input: `x = {"pos": [B, N, 3], "atom": int64 [B, N] (`kinds` is masked), "bond": int64 [B, N (N - 1)/2] (4 is
    masked)}`, `t` [B], `mask` [B, N] bool, `template` {"keep": bool [B, N], "pos": [B, N, 3]}, conditions by name.
    Output: `{"pos": velocity [B, N, 3], "atom": logits [B, N, kinds], "bond": logits [B, P, 4]}`.
    """

    def __init__(
        self,
        kinds: int,
        width: int = 160,
        pair: int = 64,
        depth: int = 6,
        heads: int = 8,
        vectors: int = 32,
        triangle: int = 16,
        *,
        parity: bool = True,
        previous: bool = True,
        templates: bool = False,
        conditions: Mapping[str, Condition] | None = None,
    ) -> None:
        super().__init__()
        whole(
            "MoleculeNetwork", kinds=kinds, width=width, pair=pair, depth=depth, heads=heads, vectors=vectors,
            triangle=triangle,
        )  # fmt: skip
        if width % heads:
            raise RequestError(f"MoleculeNetwork(width={width}, heads={heads})", "a width that heads divide")
        self.takes_previous = previous
        self.time = nn.Sequential(FourierTime(64), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.size = nn.Embedding(LARGEST + 1, width)
        self.atom, self.bond = nn.Embedding(kinds + 1, width), nn.Embedding(ORDERS + 1, pair)
        self.near, self.first = nn.Linear(RADII, pair), nn.Linear(width, vectors)
        self.kinds, self.tally = kinds, nn.Linear(kinds + ORDERS + 2, width, bias=False)
        nn.init.zeros_(self.tally.weight)
        self.asked = Asked(width, conditions)
        if self.asked.gives("tokens"):
            raise RequestError("MoleculeNetwork got a condition that gives tokens", "vectors and fields", "")
        if previous:
            self.atom_before, self.pair_before = nn.Linear(kinds, width), nn.Linear(ORDERS + RADII, pair)
        self.known = nn.Linear(1, width, bias=False) if templates else None
        self.known_pairs = nn.Linear(RADII + 1, pair, bias=False) if templates else None
        self.known_vectors = nn.Linear(1, vectors, bias=False) if templates else None
        for told in (self.known, self.known_pairs, self.known_vectors):
            if told is not None:
                nn.init.zeros_(told.weight)
        self.pocket = next((name for name, own in (conditions or {}).items() if isinstance(own, Surroundings)), "")
        self.blocks = nn.ModuleList(Block(width, pair, triangle, heads, vectors, parity) for _ in range(depth))
        self.views = nn.ModuleList(
            PocketView(width, 48, vectors, RADII) for _ in range((depth + 1) // 2 if self.pocket else 0)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(pair)])
        self.atoms, self.bonds = nn.Linear(width, kinds), nn.Linear(pair, ORDERS)

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t, for the condition "embedded"."""
        return self.asked.embed({name: value for name, value in cond.items() if name != "template"})

    def forward(
        self,
        x: State,
        t: Tensor,
        *,
        mask: Tensor | None = None,
        previous: State | None = None,
        template: State | None = None,
        **cond: Any,
    ) -> State:
        start, n = x["pos"], x["pos"].shape[1]
        i, j = pair_index(n, start.device)
        mask = torch.ones_like(x["atom"], dtype=torch.bool) if mask is None else mask
        t = t.to(start.dtype).expand(len(start))
        at = Incidence(mask, start.dtype)
        about = self.time(t) + self.size(mask.sum(1).clamp_max(LARGEST)) + self.tally(tally(x, at, mask, self.kinds))
        told = self.asked.add(about, cond)
        about = F.silu(told.vector)
        with full_precision(start):
            seen = radial(apart(start, i, j))
        h, e = self.atom(x["atom"]) + about[:, None], self.bond(x["bond"]) + self.near(seen.to(about.dtype))
        h = h if told.field is None else h + told.field.to(h.dtype)
        v = start[..., None] * self.first(h)[:, :, None].to(start.dtype)
        if previous is not None:
            with full_precision(start):
                before = torch.cat([previous["bond"].exp(), radial(apart(previous["pos"], i, j))], -1)
            h, e = h + self.atom_before(previous["atom"].exp().to(h.dtype)), e + self.pair_before(before.to(e.dtype))
        if self.known is not None and template is not None:
            h, v, e = self.recognised(h, v, e, template)
        r, velocity = start, torch.zeros_like(start)
        around = cond.get(self.pocket) if self.pocket else None
        for k, block in enumerate(self.blocks):
            if around is not None and k % 2 == 0:
                h, v = self.views[k // 2](h, v, r, around, radial)
            h, v, e, move = block(h, v, e, r, about, at)
            velocity = velocity + move
            r = start - t[:, None, None] * velocity
        return {"pos": velocity, "atom": self.atoms(self.norms[0](h)), "bond": self.bonds(self.norms[1](e))}

    def recognised(self, h: Tensor, v: Tensor, e: Tensor, template: State) -> tuple[Tensor, Tensor, Tensor]:
        """h, v and e with what is known told: which atoms, how far apart, and which way from their middle."""
        assert self.known is not None and self.known_pairs is not None and self.known_vectors is not None
        i, j = pair_index(h.shape[1], h.device)
        keep = template["keep"].to(h.dtype)[..., None]
        with full_precision(h):
            far = radial(apart(template["pos"], i, j))
            both = (keep[:, i] * keep[:, j]).to(far.dtype)
            far = both * torch.cat([far, torch.ones_like(far[..., :1])], -1)
            own = keep.to(template["pos"].dtype)
            middle = (template["pos"] * own).sum(1, keepdim=True) / own.sum(1, keepdim=True).clamp_min(1)
            towards = ((template["pos"] - middle) * own)[..., None]
        return h + self.known(keep), v + self.known_vectors(towards), e + self.known_pairs(far.to(e.dtype))
