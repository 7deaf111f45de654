"""Backbones and frames.

A residue is three atoms N, CA, C whose inner geometry hardly moves, so it is a rigid body: its origin `p` is CA and its
rotation `R` (columns e1, e2, e3, det +1) comes from Gram-Schmidt,

    e1 = unit(C - CA),    e2 = unit(N - CA - <N - CA, e1> e1),    e3 = e1 x e2.

Back again `N = p + R n`, `C = p + R c` with the ideal `n`, `c` below; the carbonyl O lies in the peptide plane, on the
side away from the next N. The cross product makes every frame proper: the mirror image of a backbone has other frames,
not reflected ones. Angstrom in this file; `NM` converts to the network's nanometres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NM = 0.1  # nanometres per angstrom

# Ideal inner geometry (Engh and Huber 1991), angstrom and degrees.
N_CA, CA_C, C_N, C_O = 1.458, 1.525, 1.329, 1.231
N_CA_C, CA_C_N, C_N_CA, CA_C_O = 111.0, 117.2, 121.7, 120.1
CA_CA = 3.80
BREAK = 2.0  # a longer C-N is no peptide bond

_LAST_PSI = math.radians(140.0)  # the last residue has no next N: its O is placed as in a strand


def ideal_atoms(like: Tensor) -> tuple[Tensor, Tensor]:
    """The atoms N and C of the ideal residue in its own frame, each `[3]`, angstrom."""
    angle = math.radians(N_CA_C)
    nitrogen = like.new_tensor([N_CA * math.cos(angle), N_CA * math.sin(angle), 0.0])
    return nitrogen, like.new_tensor([CA_C, 0.0, 0.0])


def unit(v: Tensor) -> Tensor:
    """`v / |v|` along the last axis, finite at 0."""
    return v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny ** 0.5)


def frames_from_backbone(backbone: Tensor) -> tuple[Tensor, Tensor]:
    """Frames of residues.

    Args:
        backbone: N, CA, C (and more) of every residue, `[..., N, >=3, 3]`, angstrom.

    Returns:
        Origins `[..., N, 3]` in angstrom and proper rotations `[..., N, 3, 3]`.
    """
    n, ca, c = backbone[..., 0, :], backbone[..., 1, :], backbone[..., 2, :]
    e1 = unit(c - ca)
    side = n - ca
    e2 = unit(side - (side * e1).sum(-1, keepdim=True) * e1)
    return ca, torch.stack([e1, e2, torch.linalg.cross(e1, e2)], dim=-1)


def backbone_from_frames(pos: Tensor, rot: Tensor) -> Tensor:
    """Ideal N, CA, C, O atoms on frames.

    Args:
        pos: CA positions `[..., N, 3]`, angstrom.
        rot: rotations `[..., N, 3, 3]`.

    Returns:
        Backbones `[..., N, 4, 3]`, angstrom.
    """
    n, c = ideal_atoms(pos)
    nitrogen, carbon = pos + rot @ n, pos + rot @ c
    oxygen = place_oxygen(nitrogen, pos, carbon)
    return torch.stack([nitrogen, pos, carbon, oxygen], dim=-2)


def place_oxygen(
    n: Tensor, ca: Tensor, c: Tensor, *, follow: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """Carbonyl oxygens `[..., N, 3]` of a chain from its N, CA, C, each `[..., N, 3]`, angstrom.

    `follow`, bool `[..., N - 1]`, says which residues are followed by one of their chain; by default all but the last.
    `after` `[..., N, 3]` are the N of the residues that follow, where the last has one too (`follow` is as long then).

    O is trans to the next CA: in the plane of CA, C and the next N, at the ideal angle CA-C-O, on the side away from N.
    Where the chain ends or is broken (C-N > 2 A) the plane is the one of psi = 140 degrees.
    """
    back = unit(ca - c)
    up = n - ca
    up = unit(up - (up * back).sum(-1, keepdim=True) * back)  # psi = 0 points along `up`
    across = torch.linalg.cross(back, up)
    side = math.cos(_LAST_PSI) * up + math.sin(_LAST_PSI) * across
    after = n[..., 1:, :] if after is None else after
    if count := after.shape[-2]:
        bond, towards = after - c[..., :count, :], back[..., :count, :]
        flat = bond - (bond * towards).sum(-1, keepdim=True) * towards
        joined = (bond.norm(dim=-1, keepdim=True) < BREAK) & (flat.norm(dim=-1, keepdim=True) > 1e-3)
        joined = joined if follow is None else joined & follow[..., None]
        side = torch.cat([torch.where(joined, unit(flat), side[..., :count, :]), side[..., count:, :]], dim=-2)
    angle = math.radians(CA_C_O)
    return c + C_O * (math.cos(angle) * back - math.sin(angle) * side)


def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Signed torsion a-b-c-d `[...]` in radians (IUPAC sign, in (-pi, pi]) of points `[..., 3]`."""
    axis = unit(c - b)
    v, w = a - b, d - c
    v = v - (v * axis).sum(-1, keepdim=True) * axis
    w = w - (w * axis).sum(-1, keepdim=True) * axis
    return torch.atan2((torch.linalg.cross(axis, v) * w).sum(-1), (v * w).sum(-1))


def place(a: Tensor, b: Tensor, c: Tensor, length: float, angle: Tensor | float, torsion: Tensor | float) -> Tensor:
    """The point d `[..., 3]` with |cd| = length, angle b-c-d and torsion a-b-c-d (radians): one step of NeRF."""
    angle, torsion = torch.as_tensor(angle, dtype=c.dtype), torch.as_tensor(torsion, dtype=c.dtype)
    axis = unit(c - b)
    normal = unit(torch.linalg.cross(b - a, axis))
    third = torch.linalg.cross(normal, axis)
    x, y, z = -torch.cos(angle), torch.sin(angle) * torch.cos(torsion), torch.sin(angle) * torch.sin(torsion)
    return c + length * (x[..., None] * axis + y[..., None] * third + z[..., None] * normal)
