r"""Two networks that others use for molecules, told and asked as `MoleculeNetwork` is, to compare with or to choose.

`MoleculeEGNN`, an equivariant graph network (Satorras, Hoogeboom, Welling 2021) with states e_ij = e_ji for bonds,

    m_ij = mlp(h_i, h_j, d_ij, e_ij)            e_ij <- e_ij + W m_ij
    h_i <- h_i + mlp(h_i, sum_j sigmoid(w m_ij) m_ij)
    r_i <- r_i + sum_j (r_i - r_j) / (1 + d_ij) u . m_ij

moves atoms along differences alone: it is equivariant under rotations, reflections and translations, and blind to
mirror images whatever it is trained on.

`MoleculeTransformer`, a transformer over atoms with a bias by pair on its attention. Positions are numbers like others:
it is equivariant under nothing but the order of atoms and is trained on molecules turned at random
(`Molecules(turned=True)`), from which it learns rotations as far as it does. It sees mirror images.
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

from .networks import LARGEST, ORDERS, RADII, Incidence, State, apart, full_precision, radial, tally


class _Told(nn.Module):
    """What both are told, as first states of atoms [B, N, width] and of pairs [B, P, pair].

    The arguments are those of `MoleculeNetwork`.
    """

    def __init__(
        self,
        kinds: int,
        width: int,
        pair: int,
        previous: bool,
        templates: bool,
        conditions: Mapping[str, Condition] | None,
    ) -> None:
        super().__init__()
        self.takes_previous = previous
        self.time = nn.Sequential(FourierTime(64), nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.size = nn.Embedding(LARGEST + 1, width)
        self.atom, self.bond = nn.Embedding(kinds + 1, width), nn.Embedding(ORDERS + 1, pair)
        self.near = nn.Linear(RADII, pair)
        self.kinds, self.tally = kinds, nn.Linear(kinds + ORDERS + 2, width, bias=False)
        self.asked = Asked(width, conditions)
        if self.asked.gives("tokens"):
            raise RequestError(f"{type(self).__name__} got a condition that gives tokens", "vectors and fields", "")
        if previous:
            self.atom_before, self.pair_before = nn.Linear(kinds, width), nn.Linear(ORDERS + RADII, pair)
        self.known = nn.Linear(1, width, bias=False) if templates else None
        self.known_pairs = nn.Linear(RADII + 1, pair, bias=False) if templates else None
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(pair)])
        self.atoms, self.bonds = nn.Linear(width, kinds), nn.Linear(pair, ORDERS)

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t, for the condition "embedded"."""
        return self.asked.embed({name: value for name, value in cond.items() if name != "template"})

    def first(
        self,
        x: State,
        t: Tensor,
        mask: Tensor,
        at: Incidence,
        previous: State | None,
        template: State | None,
        cond: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The states of atoms and of pairs, and what is said of the whole [B, width]."""
        start = x["pos"]
        about = self.time(t) + self.size(mask.sum(1).clamp_max(LARGEST)) + self.tally(tally(x, at, mask, self.kinds))
        told = self.asked.add(about, cond)
        about = F.silu(told.vector)
        with full_precision(start):
            seen = radial(apart(start, at.i, at.j))
        h, e = self.atom(x["atom"]) + about[:, None], self.bond(x["bond"]) + self.near(seen.to(about.dtype))
        h = h if told.field is None else h + told.field.to(h.dtype)
        if previous is not None:
            with full_precision(start):
                before = torch.cat([previous["bond"].exp(), radial(apart(previous["pos"], at.i, at.j))], -1)
            h, e = h + self.atom_before(previous["atom"].exp().to(h.dtype)), e + self.pair_before(before.to(e.dtype))
        if self.known is not None and self.known_pairs is not None and template is not None:
            keep = template["keep"].to(h.dtype)[..., None]
            with full_precision(h):
                far = radial(apart(template["pos"], at.i, at.j))
                both = (keep[:, at.i] * keep[:, at.j]).to(far.dtype)
                far = both * torch.cat([far, torch.ones_like(far[..., :1])], -1)
            h, e = h + self.known(keep), e + self.known_pairs(far.to(e.dtype))
        return h, e, about

    def out(self, velocity: Tensor, h: Tensor, e: Tensor) -> State:
        """The raw output."""
        return {"pos": velocity, "atom": self.atoms(self.norms[0](h)), "bond": self.bonds(self.norms[1](e))}


class _Convolution(nn.Module):
    """One layer of messages between all atoms."""

    def __init__(self, width: int, pair: int) -> None:
        super().__init__()
        self.ends, self.near, self.norm = nn.Linear(width, pair), nn.Linear(RADII, pair), nn.LayerNorm(pair)
        self.message, self.gate, self.move = nn.Linear(pair, pair), nn.Linear(pair, 1), nn.Linear(pair, 1, bias=False)
        self.change, self.told = nn.Linear(pair, pair), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width + pair, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor, e: Tensor, r: Tensor, about: Tensor, at: Incidence) -> tuple[Tensor, Tensor, Tensor]:
        with full_precision(h):
            away = r.index_select(1, at.i) - r.index_select(1, at.j)
            length = (away.square().sum(-1, keepdim=True) + 1e-6).sqrt()
            near, away = radial(length[..., 0]), away / (1 + length)
        ends = self.ends(F.layer_norm(h, h.shape[-1:]) + self.told(about)[:, None])
        joined = self.norm(e).to(ends.dtype) + at.both.to(ends.dtype) @ ends + self.near(near.to(ends.dtype))
        m = F.silu(self.message(F.silu(joined)))
        m = m * at.real.to(m.dtype)
        total = at.both.to(m.dtype).mT @ (self.gate(m).sigmoid() * m) / 4
        h = h + self.down(F.silu(self.up(torch.cat([F.layer_norm(h, h.shape[-1:]), total.to(h.dtype)], -1))))
        step = self.move(m)
        with full_precision(h):
            move = at.signed.mT.to(r.dtype) @ (away * step.to(r.dtype)) / 4
        return h, e + self.change(m), move


class MoleculeEGNN(_Told):
    """An E(3)-equivariant graph network: blind to mirror images.

    Args:
        kinds, width, pair, depth: As those of `MoleculeNetwork`.
        previous: Whether it is told its last prediction.
        templates: Whether it may be told of atoms that are known.
        conditions: What may be asked, by name.
    """

    def __init__(
        self, kinds: int, width: int = 192, pair: int = 96, depth: int = 7, *, previous: bool = True,
        templates: bool = False, conditions: Mapping[str, Condition] | None = None,
    ) -> None:  # fmt: skip
        whole("MoleculeEGNN", kinds=kinds, width=width, pair=pair, depth=depth)
        super().__init__(kinds, width, pair, previous, templates, conditions)
        self.blocks = nn.ModuleList(_Convolution(width, pair) for _ in range(depth))

    def forward(
        self, x: State, t: Tensor, *, mask: Tensor | None = None, previous: State | None = None,
        template: State | None = None, **cond: Any,
    ) -> State:  # fmt: skip
        start = x["pos"]
        t = t.to(start.dtype).expand(len(start))
        mask = torch.ones_like(x["atom"], dtype=torch.bool) if mask is None else mask
        at = Incidence(mask, start.dtype)
        h, e, about = self.first(x, t, mask, at, previous, template, cond)
        r, velocity = start, torch.zeros_like(start)
        for block in self.blocks:
            h, e, move = block(h, e, r, about, at)
            velocity = velocity + move
            r = start - t[:, None, None] * velocity
        return self.out(velocity, h, e)


class _Layer(nn.Module):
    """Attention with a bias by pair, then a perceptron; pairs learn from their two atoms."""

    def __init__(self, width: int, pair: int, heads: int) -> None:
        super().__init__()
        self.heads, self.told = heads, nn.Linear(width, 4 * width)
        self.bias, self.qkv, self.out = nn.Linear(pair, heads), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ends, self.norm = nn.Linear(width, pair), nn.LayerNorm(pair)
        self.pair_up, self.pair_down = nn.Linear(pair, 2 * pair), nn.Linear(2 * pair, pair)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, h: Tensor, e: Tensor, about: Tensor, at: Incidence) -> tuple[Tensor, Tensor]:
        a, b, c, d = self.told(about)[:, None].chunk(4, -1)
        bias = self.bias(e)
        bias = (at.matrix(bias) * at.off.to(bias.dtype)).movedim(-1, 1) + at.hidden.to(bias.dtype)
        seen = self.qkv(F.layer_norm(h, h.shape[-1:]) * (1 + b) + a)
        q, k, w = seen.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + self.out(F.scaled_dot_product_attention(q, k, w, bias.to(q.dtype)).transpose(1, 2).flatten(2))
        h = h + self.down(F.silu(self.up(F.layer_norm(h, h.shape[-1:]) * (1 + d) + c)))
        ends = self.ends(F.layer_norm(h, h.shape[-1:]))
        z = self.norm(e).to(ends.dtype) + at.both.to(ends.dtype) @ ends
        return h, e + self.pair_down(F.silu(self.pair_up(z)))


class MoleculeTransformer(_Told):
    """A transformer that is not equivariant, for molecules that are turned at random.

    Args:
        kinds, width, pair, depth, heads: As those of `MoleculeNetwork`; heads divide the width.
        previous: Whether it is told its last prediction.
        templates: Whether it may be told of atoms that are known.
        conditions: What may be asked, by name.
    """

    def __init__(
        self, kinds: int, width: int = 160, pair: int = 64, depth: int = 6, heads: int = 8, *, previous: bool = True,
        templates: bool = False, conditions: Mapping[str, Condition] | None = None,
    ) -> None:  # fmt: skip
        whole("MoleculeTransformer", kinds=kinds, width=width, pair=pair, depth=depth, heads=heads)
        if width % heads:
            raise RequestError(f"MoleculeTransformer(width={width}, heads={heads})", "a width that heads divide")
        super().__init__(kinds, width, pair, previous, templates, conditions)
        self.place = nn.Linear(3, width)
        self.place_before = nn.Linear(3, width) if previous else None
        self.place_known = nn.Linear(3, width, bias=False) if templates else None
        self.blocks = nn.ModuleList(_Layer(width, pair, heads) for _ in range(depth))
        self.velocity = nn.Linear(width, 3)

    def forward(
        self, x: State, t: Tensor, *, mask: Tensor | None = None, previous: State | None = None,
        template: State | None = None, **cond: Any,
    ) -> State:  # fmt: skip
        start = x["pos"]
        t = t.to(start.dtype).expand(len(start))
        mask = torch.ones_like(x["atom"], dtype=torch.bool) if mask is None else mask
        at = Incidence(mask, start.dtype)
        h, e, about = self.first(x, t, mask, at, previous, template, cond)
        h = h + self.place(start.to(h.dtype))
        if previous is not None and self.place_before is not None:
            h = h + self.place_before(previous["pos"].to(h.dtype))
        if template is not None and self.place_known is not None:
            h = h + self.place_known((template["pos"] * template["keep"][..., None]).to(h.dtype))
        for block in self.blocks:
            h, e = block(h, e, about, at)
        return self.out(self.velocity(self.norms[0](h)).to(start.dtype), h, e)
