"""The network on frames: invariant point attention, exact SE(3) symmetry, blind to nothing.

Residue i is a frame T_i = (R_i, p_i). Attention between residues sees points that the frames carry (Jumper et al.
2021, algorithm 22),

    logit_ij = q_i . k_j / sqrt(c) + bias_ij - w/2 sum_a |T_i q_ia - T_j k_ja|^2,

and since |q|^2 is constant along a softmax row this is one scaled-dot-product attention with scale 1 on

    queries [q / sqrt(c), w Tq, 1],   keys [k, Tk, -w |Tk|^2 / 2],   values [v, Tv],   the bias as a float mask.

Every block then looks at the bonds and the crowding of the frames it has so far, and moves them. The moves add up to
the raw output,

    pos = -sum_k R_k u_k   (so that p_k = p_t - t pos),      rot = sum_k w_k   (so that R_k = R_t exp(kappa(t) rot)),

which is what the heads Velocity and Tangent complete to the clean state. Nothing is divided by t: at t = 0 the frames
stand still. All geometry is invariant under proper rotations and translations and changes under reflection. Units: nm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gendiff.conditions import Condition
from gendiff.errors import RequestError
from gendiff.nn.embeddings import Asked, Jumps, whole
from gendiff.spaces import exp_so3

from .frames import C_N, C_N_CA, CA_C_N, CA_CA, NM, ideal_atoms

State = dict[str, Tensor]

_REACH = 32  # relative positions beyond +-32 look alike
_RADII = 16  # radial basis functions of CA-CA distances
_FAR = 2.2  # their last centre, nm
_CROWDS = (0.15, 0.3, 0.6)  # how near is crowded, nm
LOCAL = 4 * 12 + 2 * 7 + 4 * len(_CROWDS)  # what a residue sees of its neighbours and of what crowds it


def full_precision(like: Tensor) -> torch.autocast:
    """No autocast inside: geometry and logits keep the dtype of the points."""
    return torch.autocast(like.device.type, enabled=False)


class PointAttention(nn.Module):
    """Invariant point attention in one fused attention call. `h` [B, N, c], frames [B, N, ...] -> update of `h`."""

    citations = (
        "@misc{jumper2021alphafold,\n"
        "  author = {Jumper, John and Evans, Richard and Pritzel, Alexander and others},\n"
        "  title = {Highly accurate protein structure prediction with {AlphaFold}},\n"
        "  howpublished = {Nature},\n"
        "  year = {2021}\n"
        "}",
    )

    def __init__(self, width: int, heads: int, channels: int = 16, points: int = 4, values: int = 4) -> None:
        super().__init__()
        self.heads, self.channels, self.points, self.values = heads, channels, points, values
        self.scalars = nn.Linear(width, 3 * heads * channels, bias=False)
        self.place = nn.Linear(width, heads * (2 * points + values) * 3)
        self.sharpness = nn.Parameter(torch.linspace(math.log(0.5), math.log(30.0), heads))  # log of w, per nm^2
        self.out = nn.Linear(heads * (channels + 4 * values), width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            self.place.weight.mul_(0.3)  # points start within a few angstrom of their residue

    def forward(self, h: Tensor, pos: Tensor, rot: Tensor, bias: Tensor) -> Tensor:
        b, n, _ = h.shape
        qkv = self.scalars(h).view(b, n, self.heads, 3 * self.channels)
        local = self.place(h).view(b, n, -1, 3)
        with full_precision(h):
            kind = pos.dtype
            q, k, v = qkv.to(kind).split(self.channels, dim=-1)
            spots = local.to(kind) @ rot.mT + pos[:, :, None]  # [B, N, H * points, 3]
            tq, tk, tv = spots.view(b, n, self.heads, -1, 3).split([self.points, self.points, self.values], dim=3)
            w = self.sharpness.to(kind).exp()[:, None] / self.points
            far = tk.square().sum((-2, -1))[..., None] * (-0.5 * w)
            query = torch.cat([q / math.sqrt(self.channels), w * tq.flatten(3), torch.ones_like(far)], -1)
            key = torch.cat([k, tk.flatten(3), far], -1)
            value = torch.cat([v, tv.flatten(3)], -1)
            seen = functional.scaled_dot_product_attention(
                query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=bias.to(kind), scale=1.0
            ).transpose(1, 2)
            said, points = seen.split([self.channels, 3 * self.values], dim=-1)
            points = (points.reshape(b, n, -1, 3) - pos[:, :, None]) @ rot  # back into the residue's own frame
            length = (points.square().sum(-1) + 1e-8).sqrt()
        return self.out(torch.cat([said.flatten(2), points.flatten(2), length], -1))


class Transition(nn.Module):
    """A convolution along the chain, then a gated MLP per residue."""

    def __init__(self, width: int, reach: int = 5, factor: int = 2) -> None:
        super().__init__()
        self.along = nn.Conv1d(width, width, reach, padding=reach // 2, groups=width)
        self.up = nn.Linear(width, 2 * factor * width)
        self.down = nn.Linear(factor * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, h: Tensor, mask: Tensor, index: Tensor | Rings | None = None) -> Tensor:
        seen = h * mask[..., None]
        if index is None:
            near = self.along(seen.transpose(1, 2)).transpose(1, 2)
        else:  # the same sum, over residues of the same chain alone
            reach = self.along.kernel_size[0] // 2
            near = self.along.bias + sum(  # type: ignore[operator]
                weight * shifted(seen, k, index) * follows(index, k)[..., None]
                for k, weight in zip(range(-reach, reach + 1), self.along.weight[:, 0].unbind(1), strict=True)
            )
        gate, value = self.up(h + near).chunk(2, -1)
        return self.down(functional.silu(gate) * value)


class Rings(NamedTuple):
    """Places along chains of which some are closed, the last residue joined to the first: all int64 [B, N].

    It stands wherever an `index` does. `along` counts along the chains, as that does, `first` is where a residue's
    chain begins, and `size` how many residues are in its ring; 0 is an open chain's.
    """

    along: Tensor
    first: Tensor
    size: Tensor

    @classmethod
    def of(cls, mask: Tensor, index: Tensor | None, ring: Tensor) -> Rings:
        """With `ring`, bool [B, N]: the residues whose chain is closed."""
        place = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        index = place if index is None else index
        chain = Layout.of(mask, index, torch.float64)
        size = (chain.left + chain.right + 1).long()
        return cls(index, place - chain.left.long(), torch.where(ring & mask, size, 0))

    def places(self, offset: int) -> Tensor:
        """Where the residue so many places on stands, `[B, N]`; outside of 0 to N - 1 where there is none."""
        on = torch.arange(self.along.shape[1], device=self.along.device) + offset
        return torch.where(self.size > 0, self.first + (on - self.first) % self.size.clamp_min(1), on)


def shifted(x: Tensor, offset: int, index: Tensor | Rings | None = None) -> Tensor:
    """`y[:, i] = x[:, i + offset]`, zeros beyond the ends; around the ring in chains that are closed."""
    if not offset:
        return x
    if isinstance(index, Rings):
        there, n = index.places(offset), x.shape[1]
        y = x[torch.arange(len(x), device=x.device)[:, None], there.clamp(0, n - 1)]
        return y * ((there >= 0) & (there < n)).view(*there.shape, *[1] * (x.ndim - 2))
    pad = torch.zeros_like(x[:, : abs(offset)])
    return torch.cat([x[:, offset:], pad], 1) if offset > 0 else torch.cat([pad, x[:, :offset]], 1)


def follows(index: Tensor | Rings, offset: int) -> Tensor:
    """`[B, N]` bool: the residue `offset` places on is that one of the same chain."""
    if isinstance(index, Rings):
        return follows(index.along, offset) | (index.size > 0)
    n = index.shape[1]
    place = torch.arange(n, device=index.device) + offset
    return (shifted(index, offset) - index == offset) & (place >= 0) & (place < n)


def steps_between(index: Tensor | Rings | None, like: Tensor) -> Tensor:
    """How many residues j is on from i, int64 `[B or 1, N, N]`, i by row; around a ring the shorter way.

    Without an index, along one chain of the residues of `like` [B, N, ...]. Half way round a ring is -size/2.
    """
    if isinstance(index, Rings):
        on, half = steps_between(index.along, like), index.size[..., None] // 2
        same = (index.first[:, None] == index.first[..., None]) & (half > 0)
        return torch.where(same, (on + half) % index.size[..., None].clamp_min(1) - half, on)
    place = torch.arange(like.shape[1], device=like.device)[None] if index is None else index
    return place[:, None] - place[:, :, None]


class Layout(NamedTuple):
    """Where residues stand along their chains: `relative` [B or 1, N, N], from 0; `left` and `right` [B, N].

    A ring has no ends: each of its residues has all others on its left, and on its right.
    """

    relative: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, mask: Tensor, index: Tensor | Rings | None, dtype: torch.dtype) -> Layout:
        """Of one chain in each row; with `index` [B, N] of chains, whose numbers leap where a chain begins."""
        if isinstance(index, Rings):
            chain, ring = cls.of(mask, index.along, dtype), index.size > 0
            others = (index.size - 1).to(dtype)
            left, right = (torch.where(ring, others, end) for end in (chain.left, chain.right))
            return cls(steps_between(index, mask).clamp(-_REACH, _REACH) + _REACH, left, right)
        b, n = mask.shape
        place = torch.arange(n, device=mask.device)
        count = mask.sum(1, keepdim=True)
        if index is None:
            relative = steps_between(None, mask).clamp(-_REACH, _REACH) + _REACH
            return cls(relative, place.to(dtype).expand(b, n), (count - 1 - place).to(dtype))
        relative = steps_between(index, mask).clamp(-_REACH, _REACH) + _REACH
        leap = torch.ones(b, n + 1, dtype=torch.bool, device=mask.device)
        leap[:, 1:n] = (index[:, 1:] - index[:, :-1] > _REACH) | (place[1:] == count)
        first = torch.where(leap[:, :n], place, 0).cummax(1).values
        last = torch.where(leap[:, 1:], place, n).flip(1).cummin(1).values.flip(1)
        return cls(relative, (place - first).to(dtype), (last - place).to(dtype))


def neighbour_features(
    pos: Tensor, rot: Tensor, mask: Tensor, t: Tensor, index: Tensor | Rings | None = None
) -> Tensor:
    """What residue i sees of its neighbours along the chain, `[B, N, 62]`, all invariant.

    The places (nm, own frame) and orientations of i-2, i-1, i+1, i+2, and the errors of both peptide bonds in units of
    the noise: without these a network has to resolve 0.1 A steps at t = 0.02 from inputs of size 1.
    """
    n, c = (NM * atom for atom in ideal_atoms(pos))
    scale = 1.0 / (t + 0.03)[:, None]
    features = []
    for offset in (-2, -1, 1, 2):
        seen = shifted(mask, offset) if index is None else shifted(mask, offset, index) & follows(index, offset)
        there = seen.to(pos.dtype)[..., None]
        other, turn = shifted(pos, offset, index) - pos, rot.mT @ shifted(rot, offset, index)
        towards = (rot.mT @ other[..., None]).squeeze(-1)
        features += [2 * towards * there, turn.flatten(2) * there]
        if abs(offset) == 1:
            back, front = (n, towards + turn @ c) if offset < 0 else (c, towards + turn @ n)
            bond = front - back  # from this residue's atom to its partner across the bond, own frame
            length, step = bond.norm(dim=-1), towards.norm(dim=-1)
            cos_near = (bond * -back).sum(-1) / (length * back.norm()).clamp_min(1e-4)
            cos_far = (bond * (front - towards)).sum(-1) / (length * (c if offset < 0 else n).norm()).clamp_min(1e-4)
            near, far = (C_N_CA, CA_C_N) if offset < 0 else (CA_C_N, C_N_CA)
            errors = [(length - NM * C_N) * scale, (step - NM * CA_CA) * scale]
            errors += [0.2 * (cos_near - math.cos(math.radians(near))) * scale]
            errors += [0.2 * (cos_far - math.cos(math.radians(far))) * scale]
            features += [torch.asinh(4 * torch.stack(errors, -1)) * there, bond * there]
    return torch.cat(features, -1)


def bell(exponent: Tensor) -> Tensor:
    """exp, of exponents of -40 and less 4e-18: processors take many times as long for results that are denormal."""
    return torch.exp(exponent.clamp_min(-40.0))


def crowding_features(pos: Tensor, rot: Tensor, mask: Tensor, index: Tensor | Rings | None = None) -> Tensor:
    """What crowds residue i, `[B, N, 12]`: how many CA beyond the next two along the chain, and which way they lie.

    Sums of exp(-d^2 / 2 s^2) and of the vectors it weights (own frame), s = 0.15, 0.3, 0.6 nm: enough to see a clash in
    the frames of this block and to know the way out of it.
    """
    pairs = mask[:, :, None] & mask[:, None] & (steps_between(index, pos).abs() > 2)
    distance2 = (pos[:, None] - pos[:, :, None]).square().sum(-1)
    features = []
    for scale in _CROWDS:
        weight = bell(distance2 * (-0.5 / scale**2)) * pairs
        count = weight.sum(-1, keepdim=True)
        towards = (rot.mT @ (weight @ pos - count * pos)[..., None]).squeeze(-1)
        features += [count, towards / scale]
    return torch.cat(features, -1)


def pair_features(pos: Tensor, rot: Tensor) -> Tensor:
    """How residue i sees residue j in the noisy frames, `[B, N, N, 16 + 3 + 9]`: distance, direction, orientation."""
    apart = pos[:, None] - pos[:, :, None]
    distance = (apart.square().sum(-1) + 1e-8).sqrt()
    centres = torch.linspace(0.2, _FAR, _RADII, dtype=pos.dtype, device=pos.device)
    radial = bell(-((distance[..., None] - centres) * (_RADII / _FAR)).square())
    towards = (apart / (distance[..., None] + 0.1)) @ rot
    turn = torch.einsum("biac,bjad->bijcd", rot, rot)
    return torch.cat([radial, towards, turn.flatten(3)], -1)


class Block(nn.Module):
    """Attention, transition, and one move of the frames."""

    def __init__(self, width: int, heads: int, pair: int, local: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.modulation = nn.Linear(width, 4 * width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.local = nn.Linear(local, width)
        self.bias = nn.Linear(pair, heads)
        self.relative = nn.Embedding(2 * _REACH + 1, heads)
        self.attention = PointAttention(width, heads)
        self.transition = Transition(width)
        self.move = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 6))
        last = self.move[1]
        assert isinstance(last, nn.Linear)
        for parameter in (self.modulation.weight, self.modulation.bias, last.weight, last.bias, self.relative.weight):
            nn.init.zeros_(parameter)

    def forward(
        self,
        h: Tensor,
        pos: Tensor,
        rot: Tensor,
        pair: Tensor,
        relative: Tensor,
        mask: Tensor,
        t: Tensor,
        about: Tensor,
        index: Tensor | Rings | None = None,
    ) -> tuple[Tensor, Tensor]:
        with full_precision(h):
            near = [neighbour_features(pos, rot, mask, t, index), crowding_features(pos, rot, mask, index)]
            near = torch.cat(near, -1)
        h = h + self.local(near)
        a, b, c, d = self.modulation(about)[:, None].chunk(4, -1)
        bias = (self.bias(pair) + self.relative(relative)).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~mask[:, None, None], -1e9)
        h = h + self.drop(self.attention(self.norms[0](h) * (1 + a) + b, pos, rot, bias))
        h = h + self.drop(self.transition(self.norms[1](h) * (1 + c) + d, mask, index))
        return h, self.move(h)


class FrameNetwork(nn.Module):
    """Clean frames from noisy ones.

    Args:
        width: channels per residue.
        depth: blocks; each moves the frames once.
        heads: attention heads.
        pair: channels per pair of residues.
        conditions: what may be asked, by name: vectors and fields, a field being one of residues.
        clock: the rotations' clock kappa(t), that of the process; kappa = t if not given.
        jumps: whether it is told the time to jump to (few steps).
        guided: whether it is told a guidance scale.

    Input: `x = {"pos": [B, N, 3] nm, "rot": [B, N, 3, 3]}`, `t` [B], `mask` [B, N] bool, conditions by name, and
    `index` [B, N], the places of residues along chains, with a leap of more than 32 where another chain begins; without
    it all are one chain; `ring` [B, N] bool, the residues whose chain is closed, its last joined to its first. What is
    put out then turns with the numbering of a ring. Output:
    `{"pos": [B, N, 3], "rot": [B, N, 3]}`, a global velocity (nm) and a rotation vector in each residue's own frame.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        pair: int = 32,
        *,
        conditions: Mapping[str, Condition] | None = None,
        clock: Callable[[Tensor], Tensor] | None = None,
        jumps: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        self.takes_to, self.takes_guidance = jumps, guided
        whole("FrameNetwork", width=width, depth=depth, heads=heads, pair=pair)
        self.width = width
        self.kappa = clock or (lambda t: t)
        self.start = nn.Linear(64, width)
        self.about = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.asked = Asked(width, conditions)
        self.jumps = Jumps(width, jumps, guided) if jumps or guided else None
        if self.asked.gives("tokens"):
            raise RequestError(
                "FrameNetwork got a condition that gives tokens",
                "vectors and fields",
                "Text(tokens=False)",
            )
        self.pair = nn.Sequential(nn.Linear(_RADII + 12, pair), nn.SiLU())
        self.near = nn.Embedding(2 * _REACH + 1, pair)
        self.blocks = nn.ModuleList(Block(width, heads, pair, LOCAL) for _ in range(depth))

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t, for the condition "embedded"."""
        return self.asked.embed({name: value for name, value in cond.items() if name not in ("index", "ring")})

    def forward(
        self,
        x: State,
        t: Tensor,
        *,
        mask: Tensor | None = None,
        to: Tensor | None = None,
        guidance: Tensor | None = None,
        index: Tensor | None = None,
        ring: Tensor | None = None,
        **cond: Any,
    ) -> State:
        pos, rot = x["pos"], x["rot"]
        b, n, _ = pos.shape
        mask = torch.ones(b, n, dtype=torch.bool, device=pos.device) if mask is None else mask
        real = mask.to(pos.dtype)[..., None]
        t = t.to(pos.dtype).expand(b)
        count = real.sum(1, keepdim=True)
        pos = (pos - (pos * real).sum(1, keepdim=True) / count) * real
        rot = torch.where(mask[..., None, None], rot, torch.eye(3, dtype=rot.dtype, device=rot.device))
        along = index if ring is None else Rings.of(mask, index, ring)
        relative, left, right = Layout.of(mask, along, pos.dtype)
        ends = torch.cat([waves(left, 32, 200.0), waves(right, 32, 200.0)], -1)
        about = self.about(torch.cat([waves(1000 * t, 48, 10_000.0), waves(count[:, 0, 0], 16, 1000.0)], -1))
        if self.jumps is not None:
            about = self.jumps(about, t, None if to is None else to.to(t).expand(b), guidance)
        told = self.asked.add(about, cond)
        about = functional.silu(told.vector)
        h = self.start(ends) + about[:, None]
        h = h if told.field is None else h + told.field.to(h.dtype)
        with full_precision(pos):
            seen = pair_features(pos, rot)
        pair = self.pair(seen) + self.near(relative)
        velocity, tangent = torch.zeros_like(pos), torch.zeros_like(pos)
        kappa = self.kappa(t)[:, None, None]
        now, turned = pos, rot
        for block in self.blocks:
            h, move = block(h, now, turned, pair, relative, mask, t, about, along)
            with full_precision(pos):
                move = move.to(pos.dtype) * real
                velocity = velocity - (turned @ move[..., :3, None]).squeeze(-1)
                tangent = tangent + move[..., 3:]
                now, turned = pos - t[:, None, None] * velocity, rot @ exp_so3(kappa * tangent)
        velocity = (velocity - (velocity * real).sum(1, keepdim=True) / count) * real
        return {"pos": velocity, "rot": tangent}


def waves(x: Tensor, channels: int, longest: float) -> Tensor:
    """Sines and cosines `[..., channels]` of `x` `[...]`, wavelengths up to 2 pi `longest`."""
    rates = torch.exp(-math.log(longest) * torch.linspace(0, 1, channels // 2, dtype=x.dtype, device=x.device))
    angle = x[..., None].to(rates.dtype) * rates
    return torch.cat([angle.sin(), angle.cos()], -1)
