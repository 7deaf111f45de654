"""What a good chain knows beside the position of each frame: its bonds, its neighbours, and the room it needs.

All terms compare the predicted clean frames with the true ones, in nm^2 (Yim et al. 2023, section 4.2, in spirit):

    near    N, CA, C of residue i+k seen from frame i, k = 1..4 (k = 1 counts in full, the others 0.3)
    bonds   C-N, CA-N, C-CA and CA-CA across the peptide bond
    local   CA-CA distances below 12 A in the true chain or below 6 A in the prediction
    clash   CA closer than 4.0 A, more than two residues apart, for t < 0.7, 100-fold

and their sum is divided by max(t, floor)^2, as velocity regression divides the error of positions. Hydrogen
bonds have a loss of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .frames import NM, ideal_atoms, place_oxygen
from .networks import Rings, shifted

State = dict[str, Tensor]


def atoms(state: State) -> Tensor:
    """N, CA, C of ideal residues, `[B, N, 3, 3]`, nm."""
    n, c = (NM * atom for atom in ideal_atoms(state["pos"]))
    pos, rot = state["pos"], state["rot"]
    return torch.stack([pos + rot @ n, pos, pos + rot @ c], 2)


def length(v: Tensor) -> Tensor:
    """|v| with a finite gradient at 0."""
    return (v.square().sum(-1) + 1e-8).sqrt()


def geometry_loss(prediction: State, x0: State, t: Tensor, mask: Tensor, *, floor: float = 0.1) -> Tensor:
    """The sum of the terms above, `[B]`.

    Args:
        prediction: predicted clean frames, "pos" `[B, N, 3]` nm and "rot" `[B, N, 3, 3]`.
        x0: true clean frames.
        t: time `[B]`.
        mask: `[B, N]` bool, True where real.
        floor: smallest t in the weight.
    """
    guess, truth = atoms(prediction), atoms(x0)
    real = mask.to(guess.dtype)
    t = t.to(guess.dtype)
    residues = real.sum(1)
    total = torch.zeros_like(t)
    for k in range(1, min(5, mask.shape[1])):
        both = real[:, k:] * real[:, :-k]
        seen = [(a[:, k:] - s["pos"][:, :-k, None]) @ s["rot"][:, :-k] for a, s in ((guess, prediction), (truth, x0))]
        error = (seen[0] - seen[1]).square().sum((-1, -2)) / 3
        total = total + (1.0 if k == 1 else 0.3) * (error * both).sum(1) / both.sum(1).clamp_min(1)
    joined = real[:, 1:] * real[:, :-1]
    for a, b in ((2, 0), (1, 0), (2, 1), (1, 1)):
        error = length(guess[:, 1:, b] - guess[:, :-1, a]) - length(truth[:, 1:, b] - truth[:, :-1, a])
        total = total + 4 * (error.square() * joined).sum(1) / joined.sum(1).clamp_min(1)
    far = length(prediction["pos"][:, :, None] - prediction["pos"][:, None])
    true = length(x0["pos"][:, :, None] - x0["pos"][:, None])
    pairs = real[:, :, None] * real[:, None]
    close = pairs * ((true < 1.2) | (far.detach() < 0.6))
    total = total + ((far - true).square() * close).sum((1, 2)) / close.sum((1, 2)).clamp_min(1)
    place = torch.arange(mask.shape[1], device=mask.device)
    apart = pairs * ((place[:, None] - place).abs() > 2)
    clash = ((0.40 - far).clamp_min(0).square() * apart).sum((1, 2)) / residues
    return (total + 100 * clash * (t < 0.7)) / t.clamp_min(floor).square()


def hydrogen_bond_loss(prediction: State, x0: State, t: Tensor, mask: Tensor, *, floor: float = 0.1) -> Tensor:
    """How far the distances N-O of the true chain's hydrogen bonds are off, nm^2 over max(t, floor)^2, `[B]`.

    A bond is an N and an O within 3.5 A, two residues apart or more. The mean over those of sheets and far turns (more
    than five residues apart) and the mean over those of helices and near turns count alike: most bonds are helices'.
    """
    far = [polar_distances(state) for state in (prediction, x0)]
    n = mask.shape[1]
    place = torch.arange(n, device=mask.device)
    apart = (place[:, None] - place).abs()
    both = mask[:, :, None] & mask[:, None]
    error, total = (far[0] - far[1]).square(), torch.zeros_like(t, dtype=far[0].dtype)
    for kind in (apart > 5, (apart > 1) & (apart <= 5)):
        bonds = (both & kind & (far[1] < 0.35)).to(error.dtype)
        total = total + (error * bonds).sum((1, 2)) / bonds.sum((1, 2)).clamp_min(1)
    return total / t.to(total).clamp_min(floor).square()


def polar_distances(state: State, follow: Tensor | None = None, rings: Rings | None = None) -> Tensor:
    """The distances from N (rows) to O (columns) of ideal residues, `[B, N, N]`, nm; `follow` as of `place_oxygen`."""
    n, ca, c = (part / NM for part in atoms(state).unbind(2))
    oxygen = place_oxygen(n, ca, c, follow=follow, after=None if rings is None else shifted(n, 1, rings))
    return NM * length(n[:, :, None] - oxygen[:, None])
