"""Ideal proteins, made from torsions: no files, no licence, seconds.

A program is a list of pieces, helices, strands and loops, with torsions drawn around

    helix (-62, -42),   strand (-116, 131),   loops from alpha, beta, polyproline and left-handed basins,   omega 180,

and NeRF (Parsons et al. 2005) turns torsions into atoms. A chain that is drawn blindly runs into itself: one of 250
48-mers is sound. So chains are grown by particles. Every piece is tried with many draws at once, the draws that clash
(CA closer than 4.2 A, more than two residues apart) are thrown away, and of the others a compact one is drawn with
weight exp(-8 Rg / (2.2 N^0.38)).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from . import frames

HELIX, STRAND = (-62.0, -42.0), (-116.0, 131.0)
LOOPS = ((-64.0, -40.0), (-120.0, 130.0), (-70.0, 145.0), (57.0, 44.0))
LOOP_WEIGHTS = (0.35, 0.3, 0.25, 0.1)
TURNS = (((57.0, 38.0), (82.0, 8.0)), ((60.0, -122.0), (-82.0, 2.0)))  # beta turns I' and II', between strands
KINDS = ("alpha", "beta", "mixed")

_WALL = 4.2  # angstrom
_OPEN = 1.3  # largest Rg / (2.2 N^0.38)
_GROUP, _TRIES = 16, 32

Piece = tuple[str, int]


def program(kind: str, length: int, rng: np.random.Generator) -> list[Piece]:
    """Pieces ("H", "E", "L" or "T" for a tight turn, residues) that add up to `length`.

    Args:
        kind: "alpha" (helical hairpins and bundles), "beta" (hairpins and meanders) or "mixed".
        length: residues.
        rng: the source of choices.
    """
    pieces: list[Piece] = [("L", 2)]
    letter = "H" if kind == "alpha" else "E"
    left = length - 4
    while left > 0:
        if kind == "mixed":
            letter = "H" if pieces[-2:-1] and pieces[-2][0] == "E" and rng.random() < 0.7 else "E"
        size = int(rng.integers(9, 17)) if letter == "H" else int(rng.integers(5, 9))
        hinge = ("T", 2) if letter == "E" and kind == "beta" and rng.random() < 0.7 else ("L", int(rng.integers(3, 6)))
        if left < size + hinge[1] + 5:
            pieces.append((letter, left))
            break
        pieces += [(letter, size), hinge]
        left -= size + hinge[1]
    return [*pieces, ("L", 2)]


def draw_torsions(piece: Piece, tries: int, rng: np.random.Generator) -> np.ndarray:
    """phi, psi of one piece, degrees, `[tries, residues, 2]`."""
    kind, size = piece
    if kind in "HE":
        mean, spread = (np.array(HELIX), 4.0) if kind == "H" else (np.array(STRAND), 9.0)
        return mean + spread * rng.standard_normal((tries, size, 2))
    if kind == "T":
        choice = rng.integers(0, len(TURNS), tries)
        return np.array(TURNS)[choice] + 8.0 * rng.standard_normal((tries, size, 2))
    basin = rng.choice(len(LOOPS), p=LOOP_WEIGHTS, size=(tries, size))
    return np.array(LOOPS)[basin] + 12.0 * rng.standard_normal((tries, size, 2))


def extend(atoms: Tensor, last_psi: Tensor, torsions: Tensor, omega: Tensor) -> Tensor:
    """Append residues to chains by NeRF.

    Args:
        atoms: N, CA, C so far, `[B, n, 3, 3]`, angstrom.
        last_psi: psi of the last residue so far, `[B]`, radians.
        torsions: phi, psi of the new residues, `[B, m, 2]`, radians.
        omega: omega before each new residue, `[B, m]`, radians.

    Returns:
        The new residues, `[B, m, 3, 3]`.
    """
    n, ca, c = atoms[:, -1].unbind(1)
    psi, new = last_psi, []
    for i in range(torsions.shape[1]):
        nitrogen = frames.place(n, ca, c, frames.C_N, math.radians(frames.CA_C_N), psi)
        alpha = frames.place(ca, c, nitrogen, frames.N_CA, math.radians(frames.C_N_CA), omega[:, i])
        carbon = frames.place(c, nitrogen, alpha, frames.CA_C, math.radians(frames.N_CA_C), torsions[:, i, 0])
        n, ca, c, psi = nitrogen, alpha, carbon, torsions[:, i, 1]
        new.append(torch.stack([n, ca, c], 1))
    return torch.stack(new, 1)


def build(torsions: np.ndarray, omega: np.ndarray | None = None) -> np.ndarray:
    """Backbones from torsions.

    Args:
        torsions: phi, psi, `[B, N, 2]`, degrees (the first phi is not used).
        omega: omega before each residue, `[B, N]`, degrees; 180 if not given (the first is not used).

    Returns:
        N, CA, C, O, `[B, N, 4, 3]`, angstrom.
    """
    angles = torch.from_numpy(np.radians(torsions))
    turns = torch.full(angles.shape[:2], math.pi, dtype=angles.dtype)
    turns = turns if omega is None else torch.from_numpy(np.radians(omega))
    start = _first(len(angles))
    core = torch.cat([start, extend(start, angles[:, 0, 1], angles[:, 1:], turns[:, 1:])], 1)
    oxygen = frames.place_oxygen(*core.unbind(2))
    return torch.cat([core, oxygen[:, :, None]], 2).numpy()


def _first(count: int) -> Tensor:
    n, c = frames.ideal_atoms(torch.zeros(1, dtype=torch.float64))
    return torch.stack([n, torch.zeros_like(n), c]).expand(count, 1, 3, 3)


def openness(ca: Tensor) -> Tensor:
    """Rg / (2.2 N^0.38) of `[..., N, 3]`."""
    rg = (ca - ca.mean(-2, keepdim=True)).square().sum(-1).mean(-1).sqrt()
    return rg / (2.2 * ca.shape[-2] ** 0.38)


def grow(pieces: list[Piece], rng: np.random.Generator, count: int = _GROUP, tries: int = _TRIES) -> Tensor:
    """Clash-free, compact chains of one program, `[<= count, N, 3, 3]` (N, CA, C)."""
    atoms = _first(count)
    first = torch.from_numpy(np.radians(draw_torsions((pieces[0][0], 1), count, rng)))
    psi = first[:, 0, 1]
    pieces = [(pieces[0][0], pieces[0][1] - 1), *pieces[1:]]
    for k in range(0, len(pieces), 2):  # a hinge and the element after it are tried together
        angles = np.concatenate([draw_torsions(piece, count * tries, rng) for piece in pieces[k : k + 2]], 1)
        omega = torch.from_numpy(np.radians(180 + 3 * rng.standard_normal(angles.shape[:2])))
        torsion = torch.from_numpy(np.radians(angles))
        before = atoms.repeat_interleave(tries, 0)
        new = extend(before, psi.repeat_interleave(tries), torsion, omega)
        chain = torch.cat([before, new], 1)
        ca, size, old = chain[:, :, 1], chain.shape[1], before.shape[1]
        apart = (ca[:, old:, None] - ca[:, None]).norm(dim=-1)
        place = torch.arange(size)
        far = (place[old:, None] - place[None]).abs() <= 2
        sound = apart.masked_fill(far, math.inf).flatten(1).amin(1) > _WALL
        score = -8 * openness(ca) + torch.from_numpy(rng.gumbel(size=len(ca))) + torch.where(sound, 0.0, -torch.inf)
        best = score.view(-1, tries).argmax(1) + tries * torch.arange(len(atoms))
        best = best[sound[best]]
        atoms, psi, count = chain[best], torsion[best, -1, 1], len(best)
        if not count:
            break
    return atoms if count else atoms[:0]


@lru_cache(maxsize=8)
def chains(count: int, min_length: int, max_length: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Ideal backbones.

    Args:
        count: how many.
        min_length: fewest residues.
        max_length: most residues.
        seed: the same seed gives the same chains.

    Returns:
        N, CA, C, O of each, `[N, 4, 3]`, angstrom, centred on CA; the three kinds take turns.
    """
    rng = np.random.default_rng([seed, min_length, max_length])
    made: list[np.ndarray] = []
    turn = 0
    with torch.no_grad():
        while len(made) < count:
            length = int(rng.integers(min_length, max_length + 1))
            atoms = grow(program(KINDS[turn % len(KINDS)], length, rng), rng)
            atoms = atoms[openness(atoms[:, :, 1]) < _OPEN] if len(atoms) else atoms
            if len(atoms):
                turn += 1
                backbone = torch.cat([atoms, frames.place_oxygen(*atoms.unbind(2))[:, :, None]], 2)
                made += list((backbone - atoms[:, :, 1].mean(1)[:, None, None]).numpy())
    return tuple(made[:count])
