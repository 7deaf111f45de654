"""The network on frames with a track of pairs, and with a plan: which residues are helix or strand, which strands pair.

Beside every residue stands h_i, beside every pair e_ij. With the frames of the block, (R_i, p_i), a pair learns from
its ends, from how far apart they are now, and N and O of their hydrogen bonds, around triangles (Jumper et al. 2021,
algorithm 11), and from its neighbours in the square of pairs: a bridge (i, j) of a ladder has (i + 1, j - 1) or
(i + 1, j + 1) beside it, which nothing else in a network of few blocks can say,

    z_ij = silu(norm(e_ij) + row(h_i) + column(h_j) + radial(|p_i - p_j|) + polar(|N_i - O_j|, |N_j - O_i|))
    e_ij <- e_ij + W z_ij + out(norm(sum_k a_ik b_jk / N)) + V silu(sum_ab w_ab * z_(i+a)(j+b)),    a, b from -2 to 2

and attention between residues is biased by e (`networks.Block`). What a pair is comes from the noisy frames, the places
along the chain, and, where there is a plan, its bridges as far as they are known: none, antiparallel, parallel, or
masked. From h and e come the logits of the plan's classes, from e also those of the distances between CA (a
"distogram", a side output that only a loss reads). Untrained, it gives what a `FrameNetwork` with the same weights
gives, and may begin from those of one that is trained. A self-conditioned network sees its last prediction as distances
and as probabilities. A template, residues whose place to one another is known, is seen pair by pair as the noisy frames
are, by distance, direction and orientation (Jumper et al. 2021; Lin et al. 2024), and does not say where it lies. All
is invariant under rotations and translations and sees mirror images. Units: nm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendiff.conditions import Condition
from gendiff.denoisers import Sided
from gendiff.errors import RequestError
from gendiff.nn.embeddings import Asked, share, whole
from gendiff.spaces import exp_so3, to_pairs, to_square

from .geometry import polar_distances
from .networks import (
    _RADII,
    _REACH,
    LOCAL,
    Block,
    Layout,
    Rings,
    bell,
    follows,
    full_precision,
    pair_features,
    shifted,
    waves,
)

State = dict[str, Tensor]

STRUCTURE = ("H", "E", "L")
PAIRING = ("none", "antiparallel", "parallel")
LETTERS = tuple("ACDEFGHIKLMNPQRSTVWY")
BINS = 24  # of a distogram, 0.35 to 2.45 nm
_FIRST, _LAST = 0.35, 2.45
_POLAR = 8  # bumps of the distances from N to O, 0.25 to 0.81 nm
_ACROSS = 2  # how far a pair sees in the square of pairs


def radial(pos: Tensor) -> Tensor:
    """Distances between CA as bumps, `[B, N, N, 16]`, from 0.2 to 2.2 nm."""
    apart = pos[:, None] - pos[:, :, None]
    distance = (apart.square().sum(-1) + 1e-8).sqrt()
    centres = torch.linspace(0.2, 2.2, _RADII, dtype=pos.dtype, device=pos.device)
    return bell(-((distance[..., None] - centres) * (_RADII / 2.2)).square())


def polar(frames: State, follow: Tensor, rings: Rings | None = None) -> Tensor:
    """Distances from N of the row to O of the column, then from O to N, as bumps: `[B, N, N, 16]`."""
    far, pos = polar_distances(frames, follow, rings), frames["pos"]
    centres = torch.linspace(0.25, 0.81, _POLAR, dtype=pos.dtype, device=pos.device)
    bumps = bell(-((far[..., None] - centres) / 0.08).square())
    return torch.cat([bumps, bumps.transpose(1, 2)], -1)


def bonded_pairs(frames: State, mask: Tensor, index: Tensor | Rings | None) -> Tensor:
    """`polar`, with O placed by the residues that follow."""
    if isinstance(index, Rings):
        return polar(frames, shifted(mask, 1, index) & follows(index, 1), index)
    return polar(frames, mask[:, 1:] & (mask[:, :-1] if index is None else follows(index, 1)[:, :-1]))


class Around(nn.Module):
    """What a pair sees of its neighbours in the square of pairs, channel by channel: `z` [B, N, N, c] -> the same.

    Pairs of padding, and across the end of a chain, are not seen.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, channels, 2 * _ACROSS + 1, padding=_ACROSS, groups=channels)

    def forward(self, z: Tensor, mask: Tensor, index: Tensor | Rings | None) -> Tensor:
        z = z * (mask[:, :, None] & mask[:, None])[..., None]
        if index is None:
            with full_precision(z):  # processors are slow to differentiate it in bfloat16
                return self.weigh(z.to(self.weigh.weight.dtype).movedim(-1, 1)).movedim(1, -1)
        steps = range(-_ACROSS, _ACROSS + 1)
        rows = [shifted(z, a, index) * follows(index, a)[:, :, None, None] for a in steps]
        total = torch.zeros_like(z) + self.weigh.bias  # type: ignore[operator]
        for a, row in zip(steps, rows, strict=True):
            for b in steps:
                seen = shifted(row.transpose(1, 2), b, index).transpose(1, 2) * follows(index, b)[:, None, :, None]
                total = total + self.weigh.weight[:, 0, a + _ACROSS, b + _ACROSS] * seen
        return total


class PairUpdate(nn.Module):
    """One update of the pairs; see the top of the file. `e` [B, N, N, pair] -> its change."""

    def __init__(self, width: int, pair: int, triangle: int) -> None:
        super().__init__()
        self.triangle = triangle
        self.norm, self.around = nn.LayerNorm(pair), nn.LayerNorm(triangle)
        self.ends, self.near = nn.Linear(width, 2 * pair), nn.Linear(_RADII, pair)
        self.down, self.polar = nn.Linear(pair, pair), nn.Linear(2 * _POLAR, pair)
        self.sides, self.out = nn.Linear(pair, 2 * triangle), nn.Linear(triangle, pair)
        self.square, self.across = Around(pair), nn.Linear(pair, pair)
        for last in (self.down, self.polar, self.out, self.across):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, h: Tensor, e: Tensor, frames: State, mask: Tensor, index: Tensor | Rings | None = None) -> Tensor:
        row, column = self.ends(F.layer_norm(h, h.shape[-1:])).chunk(2, -1)
        with full_precision(h):
            near, bonded = radial(frames["pos"]), bonded_pairs(frames, mask, index)
        z = self.norm(e) + row[:, :, None] + column[:, None] + self.near(near.to(h.dtype))
        z = F.silu(z + self.polar(bonded.to(h.dtype)))
        real = mask.to(z.dtype)
        a, b = self.sides(z).movedim(-1, 1).chunk(2, 1)  # [B, triangle, N, N] each
        a, b = a * real[:, None, None], b * (real / real.sum(1, keepdim=True))[:, None, None]
        closed = (a @ b.mT).movedim(1, -1)
        return self.down(z) + self.out(self.around(closed)) + self.across(F.silu(self.square(z, mask, index)))


class PairFrameNetwork(nn.Module):
    """Clean frames, and a clean plan, from noisy ones.

    Args:
        width: channels per residue.
        depth: blocks; each moves the frames once.
        heads: attention heads.
        pair: channels per pair of residues.
        triangle: channels of the sums around triangles.
        every: pairs are updated before every so many-th block, the second first.
        plan: whether states have the parts "structure" and "pairing".
        sequence: whether they have the part "sequence".
        templates: whether it may be told of residues that are known.
        dropout: share of what attention and transitions give that is left out in training.
        previous: whether it is told its last prediction.
        conditions: what may be asked, by name: vectors and fields, a field being one of residues.
        clock: the rotations' clock kappa(t), that of the process; kappa = t if not given.

    Input: `x = {"pos": [B, N, 3] nm, "rot": [B, N, 3, 3]}` and, with a plan, classes "structure" [B, N] (3 is masked)
    and "pairing" [B, N (N - 1)/2] (3 is masked), with a sequence [B, N] (20 is masked); `t` [B], `mask` [B, N] bool,
    `index` and `ring` as of `FrameNetwork`, `template` {"keep": [B, N] bool, "pos": [B, N, 3], "rot": [B, N, 3, 3]},
    conditions by name. Output: `{"pos": [B, N, 3], "rot": [B, N, 3]}`, as of `FrameNetwork`, and
    logits `{"structure": [B, N, 3], "pairing": [B, P, 3], "sequence": [B, N, 20]}`; beside them "distogram", [B, P, 24]
    logits.
    """

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        heads: int = 8,
        pair: int = 32,
        triangle: int = 16,
        every: int = 2,
        *,
        dropout: float = 0.0,
        plan: bool = True,
        sequence: bool = False,
        templates: bool = False,
        previous: bool = True,
        conditions: Mapping[str, Condition] | None = None,
        clock: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        whole("PairFrameNetwork", width=width, depth=depth, heads=heads, pair=pair, triangle=triangle, every=every)
        share("PairFrameNetwork", dropout=dropout)
        self.takes_previous, self.plan, self.every = previous, plan, every
        self.residues = {
            **({"structure": len(STRUCTURE)} if plan else {}),
            **({"sequence": len(LETTERS)} if sequence else {}),
        }
        self.kappa = clock or (lambda t: t)
        self.start = nn.Linear(64, width)
        self.about = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.asked = Asked(width, conditions)
        if self.asked.gives("tokens"):
            raise RequestError(
                "PairFrameNetwork got a condition that gives tokens", "vectors and fields", "Text(tokens=False)"
            )
        self.pair = nn.Sequential(nn.Linear(_RADII + 12, pair), nn.SiLU())
        self.near = nn.Embedding(2 * _REACH + 1, pair)
        self.classes = nn.ModuleDict({name: nn.Embedding(k + 1, width) for name, k in self.residues.items()})
        self.pairing = nn.Embedding(len(PAIRING) + 1, pair) if plan else None
        self.known = nn.Linear(1, width, bias=False) if templates else None
        self.seen = nn.Linear(_RADII + 13, pair, bias=False) if templates else None
        if previous:
            self.before = nn.Linear(_RADII + (len(PAIRING) if plan else 0), pair)
            self.before_residue = nn.ModuleDict({name: nn.Linear(k, width) for name, k in self.residues.items()})
        for new in self.told():  # at first it is the network without, whose weights it may begin from
            nn.init.zeros_(new.weight)
            if isinstance(new, nn.Linear) and new.bias is not None:
                nn.init.zeros_(new.bias)
        self.blocks = nn.ModuleList(Block(width, heads, pair, LOCAL, dropout) for _ in range(depth))
        self.updates = nn.ModuleList(PairUpdate(width, pair, triangle) for _ in range(depth // every))
        self.of_pairs = nn.Sequential(nn.LayerNorm(pair), nn.Linear(pair, 2 * pair), nn.SiLU())
        self.distogram = nn.Linear(2 * pair, BINS)
        self.to_classes = nn.ModuleDict(
            {name: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, k)) for name, k in self.residues.items()}
        )
        self.to_pairing = nn.Linear(2 * pair, len(PAIRING)) if plan else None
        if self.to_pairing is not None:
            with torch.no_grad():
                self.to_pairing.bias.copy_(torch.tensor([0.99, 0.006, 0.003]).log())

    def told(self) -> Iterator[nn.Embedding | nn.Linear]:
        """The layers that bring in what `FrameNetwork` is not told."""
        tables = [self.classes, self.before_residue] if self.takes_previous else [self.classes]
        one = [self.pairing, self.known, self.seen, *([self.before] if self.takes_previous else [])]
        for layer in (*(layer for table in tables for layer in table.values()), *one):
            if isinstance(layer, nn.Embedding | nn.Linear):
                yield layer

    def embed(self, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What of the conditions depends neither on x nor on t, for the condition "embedded"."""
        return self.asked.embed(
            {name: value for name, value in cond.items() if name not in ("index", "ring", "template")}
        )

    def forward(
        self,
        x: State,
        t: Tensor,
        *,
        mask: Tensor | None = None,
        previous: State | None = None,
        index: Tensor | None = None,
        ring: Tensor | None = None,
        template: State | None = None,
        **cond: Any,
    ) -> Sided:
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
        told = self.asked.add(about, cond)
        about = F.silu(told.vector)
        h = self.start(ends) + about[:, None]
        h = h if told.field is None else h + told.field.to(h.dtype)
        with full_precision(pos):
            seen = pair_features(pos, rot)
        e = self.pair(seen) + self.near(relative)
        for name, table in self.classes.items():
            h = h + table(x[name])
        if self.pairing is not None:
            e = e + self.pairing(to_square(x["pairing"], n))
        if self.known is not None and self.seen is not None and template is not None:
            keep = template["keep"].to(h.dtype)[..., None]
            h, e = h + self.known(keep), e + self.seen(known_pairs(template))
        if previous is not None:
            h, e = self.recalled(h, e, previous, n)
        velocity, tangent = torch.zeros_like(pos), torch.zeros_like(pos)
        kappa = self.kappa(t)[:, None, None]
        now, turned = pos, rot
        for number, block in enumerate(self.blocks):
            if number % self.every == 1 % self.every and number // self.every < len(self.updates):
                e = e + self.updates[number // self.every](h, e, {"pos": now, "rot": turned}, mask, along)
            h, move = block(h, now, turned, e, relative, mask, t, about, along)
            with full_precision(pos):
                move = move.to(pos.dtype) * real
                velocity = velocity - (turned @ move[..., :3, None]).squeeze(-1)
                tangent = tangent + move[..., 3:]
                now, turned = pos - t[:, None, None] * velocity, rot @ exp_so3(kappa * tangent)
        velocity = (velocity - (velocity * real).sum(1, keepdim=True) / count) * real
        pairs = self.of_pairs(to_pairs(e + e.transpose(1, 2)))
        out = {"pos": velocity, "rot": tangent}
        out |= {name: head(h) for name, head in self.to_classes.items()}
        if self.to_pairing is not None:
            out["pairing"] = self.to_pairing(pairs)
        return Sided(out, {"distogram": self.distogram(pairs)})

    def recalled(self, h: Tensor, e: Tensor, previous: State, n: int) -> tuple[Tensor, Tensor]:
        """h and e with the last prediction told: its distances, and its plan as probabilities."""
        with full_precision(h):
            told = [radial(previous["pos"])]
            if self.plan:
                told.append(to_square(previous["pairing"].exp(), n))
        for name, layer in self.before_residue.items():
            h = h + layer(previous[name].exp())
        return h, e + self.before(torch.cat(told, -1))


def known_pairs(template: State) -> Tensor:
    """How the residues of a template see each other, and that they do, `[B, N, N, 29]`; zeros at all other pairs."""
    keep = template["keep"]
    with full_precision(template["pos"]):
        seen = pair_features(template["pos"], template["rot"])
    return (keep[:, :, None] & keep[:, None])[..., None] * torch.cat([seen, torch.ones_like(seen[..., :1])], -1)


def distances(pos: Tensor) -> Tensor:
    """Which bin the distance of each pair of CA is in, int64 [B, P]."""
    apart = to_pairs(pos[:, None] - pos[:, :, None]).square().sum(-1).sqrt()
    return ((apart - _FIRST) * (BINS / (_LAST - _FIRST))).long().clamp(0, BINS - 1)


def distogram_loss(side: Mapping[str, Tensor], x0: State, mask: Tensor) -> Tensor:
    """The cross entropy of the distances between CA, nats a pair, [B]."""
    logits, goal = side["distogram"], distances(x0["pos"])
    each = F.cross_entropy(logits.float().movedim(-1, 1), goal, reduction="none")
    real = to_pairs(mask[:, :, None] & mask[:, None]).to(each.dtype)
    return (each * real).sum(1) / real.sum(1).clamp_min(1)
