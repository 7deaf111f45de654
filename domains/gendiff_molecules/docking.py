r"""Docking: where a given ligand lies in a given pocket, by descents on R^3 x SO(3) x T^M from many random poses.

The score is that of AutoDock Vina (Trott and Olson 2010, table 1), over heavy atoms at surface distance
d = r - R_i - R_j, r < 8 A, between ligand and pocket, and inside the ligand between atoms more than three bonds apart
that a torsion moves:

    -.0356 exp(-(d/.5)^2) - .00516 exp(-((d - 3)/2)^2) + .840 d^2 [d < 0] - .0351 hydrophobic(d) - .587 hydrogen(d)

hydrophobic falls from 1 at d = .5 to 0 at 1.5, hydrogen from 1 at -.7 to 0 at 0; that between ligand and pocket is
divided by 1 + .0585 (bonds that turn). Rounds of descent by Adam, in tangents of the pose at the pose it has come to;
after each the best poses are kept and shaken. Nothing is learned: it is the search that a model of poses would replace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import POSITIVE, RequestError, at_least, check
from gendiff.random import Noise
from gendiff.spaces import exp_so3
from gendiff.spaces.rotations import uniform

from .molecule import Molecule
from .pocket import Pocket
from .torsions import Kinematics

SIZES = {6: 1.9, 7: 1.8, 8: 1.7, 9: 1.5, 15: 2.1, 16: 2.0, 17: 1.8, 35: 2.0, 53: 2.2}
"""Vina's radii in angstrom; 1.2 for metals and others."""

HALOGENS = (9, 17, 35, 53)
DONORS = {"N", "NE", "NH1", "NH2", "ND2", "NE2", "ND1", "NZ", "NE1", "OG", "OG1", "OH"}
REACH = 8.0


@dataclass(frozen=True, eq=False)
class Types:
    """Radii `[N]`, and which atoms are hydrophobic, give and take hydrogen bonds, `[N]` bool."""

    radius: Tensor
    hydrophobic: Tensor
    gives: Tensor
    takes: Tensor


def ligand_types(molecule: Molecule) -> tuple[np.ndarray, Types]:
    """The heavy atoms of a ligand, and their types."""
    z, near = molecule.elements, molecule.orders > 0
    heavy = np.flatnonzero(z > 1)
    polar = [bool(np.isin(z[near[k]], (7, 8, 15, 16, *HALOGENS)).any()) for k in heavy]
    bearing = [bool((z[near[k]] == 1).any()) for k in heavy]
    hetero = np.isin(z[heavy], (7, 8))
    return heavy, Types(
        torch.tensor([SIZES.get(int(k), 1.2) for k in z[heavy]]),
        torch.tensor([(k == 6 and not p) or k in HALOGENS for k, p in zip(z[heavy].tolist(), polar, strict=True)]),
        torch.from_numpy(hetero & np.array(bearing, dtype=bool)),
        torch.from_numpy(hetero & (molecule.charges[heavy] <= 0)),
    )


def pocket_types(pocket: Pocket) -> Types:
    """The types of a pocket's atoms, by their names; a carbon is hydrophobic where no hetero atom is bound to it."""
    z, x = pocket.elements, pocket.positions
    far = np.linalg.norm(x[:, None] - x, axis=-1)
    polar = ((far < 1.95) & np.isin(z, (7, 8, 16))[None]).any(1)
    words = list(zip(pocket.atoms, pocket.residues, strict=True))
    gives = [name in DONORS and not (name == "N" and residue == "PRO") for name, residue in words]
    metal = ~np.isin(z, (6, 7, 8, 9, 15, 16, 17, 35, 53))
    takes = [k == 8 or (residue == "HIS" and name in ("ND1", "NE2"))
             for k, (name, residue) in zip(z.tolist(), words, strict=True)]  # fmt: skip
    return Types(
        torch.tensor([SIZES.get(int(k), 1.2) for k in z]),
        torch.from_numpy((z == 6) & ~polar),
        torch.tensor(gives) | torch.from_numpy(metal),
        torch.tensor(takes),
    )


def terms(length: Tensor, a: Types, b: Types, steep: float = 1.0) -> Tensor:
    """The score of pairs at `length` [..., I, J], summed over pairs; `steep` scales the repulsion."""
    d = length - (a.radius[:, None] + b.radius)
    both = a.hydrophobic[:, None] & b.hydrophobic
    bond = (a.gives[:, None] & b.takes) | (a.takes[:, None] & b.gives)
    value = -0.035579 * torch.exp(-((d / 0.5) ** 2)) - 0.005156 * torch.exp(-(((d - 3) / 2) ** 2))
    value = value + steep * 0.840245 * d.clamp_max(0).square()
    value = value - 0.035069 * both * (1.5 - d).clamp(0, 1) - 0.587439 * bond * (-d / 0.7).clamp(0, 1)
    return (value * (length < REACH)).sum((-2, -1))


class Scoring:
    """Vina's score of poses of a ligand in a pocket.

    Args:
        kinematics: Of the ligand.
        pocket: Where.
    """

    def __init__(self, kinematics: Kinematics, pocket: Pocket) -> None:
        molecule = kinematics.molecule
        heavy, self.own = ligand_types(molecule)
        self.heavy = torch.from_numpy(heavy)
        self.other = pocket_types(pocket)
        self.place = torch.from_numpy(pocket.positions - pocket.centre).float()
        self.scale = 1 / (1 + 0.05846 * len(kinematics))
        steps = _bonds_apart(molecule)[np.ix_(heavy, heavy)]
        moves = np.zeros((len(heavy), len(heavy)), dtype=bool)
        for _, _, mask in kinematics.axes:
            moves |= mask[heavy][:, None] != mask[heavy]
        i, j = np.nonzero(np.triu((steps > 3) & moves))
        self.pairs = torch.from_numpy(i), torch.from_numpy(j)

    def between(self, x: Tensor, steep: float = 1.0) -> Tensor:
        """Between ligand and pocket, [B], of heavy atoms [B, H, 3] from the pocket's centre."""
        away = x[:, :, None] - self.place
        return terms((away.square().sum(-1) + 1e-6).sqrt(), self.own, self.other, steep) * self.scale

    def inside(self, x: Tensor, steep: float = 1.0) -> Tensor:
        """Inside the ligand, [B]."""
        i, j = self.pairs
        if not len(i):
            return x.new_zeros(len(x))
        length = ((x[:, i] - x[:, j]).square().sum(-1) + 1e-6).sqrt()
        own = self.own
        d = length - own.radius[i] - own.radius[j]
        bond = (own.gives[i] & own.takes[j]) | (own.takes[i] & own.gives[j])
        both = own.hydrophobic[i] & own.hydrophobic[j]
        value = -0.035579 * torch.exp(-((d / 0.5) ** 2)) - 0.005156 * torch.exp(-(((d - 3) / 2) ** 2))
        value = value + steep * 0.840245 * d.clamp_max(0).square()
        value = value - 0.035069 * both * (1.5 - d).clamp(0, 1) - 0.587439 * bond * (-d / 0.7).clamp(0, 1)
        return (value * (length < REACH)).sum(-1)


def _bonds_apart(molecule: Molecule) -> np.ndarray:
    """How many bonds lie between two atoms, at most 4."""
    near = (molecule.orders > 0) | np.eye(len(molecule), dtype=bool)
    out, reached = np.full(near.shape, 4), np.eye(len(molecule), dtype=bool)
    for step in range(4):
        out[reached & (out == 4)] = step
        reached = reached @ near
    return out


@dataclass(frozen=True)
class Docked:
    """A pose: the ligand where it lies, in the pocket's frame, and its score in kcal/mol as Vina counts it."""

    molecule: Molecule
    score: float


@dataclass(frozen=True)
class Docking:
    """A search for poses.

    Args:
        starts: Random poses to begin from.
        rounds: Of descent; after each the best quarter is kept, and shaken copies of it fill up the rest.
        steps: Of each descent.
        box: Half the side of the cube around the centre in which roots begin, angstrom.
        apart: Poses that are returned differ by so much at least, RMSD in angstrom.
    """

    starts: int = 48
    rounds: int = 5
    steps: int = 60
    box: float = 5.0
    apart: float = 1.0

    def __post_init__(self) -> None:
        check(self, starts=at_least(4), rounds=at_least(1), steps=at_least(1), box=POSITIVE, apart=POSITIVE)

    def __call__(self, ligand: Molecule, pocket: Pocket, n: int = 9, seed: int = 0) -> list[Docked]:
        """At most n poses, the best first; a conformer of the ligand anywhere will do.

        Args:
            ligand: With all its atoms; what is not a torsion stays as it is.
            pocket: With its centre.
            n: Poses.
            seed: Of the search.

        Raises:
            RequestError: Implied hydrogens, several pieces, n below 1.
        """
        if ligand.implied:
            raise RequestError(f"{ligand!r} leaves hydrogens out", "hydrogens as atoms", "ligand.with_hydrogens()")
        if n < 1:
            raise RequestError(f"n={n!r}", "a whole number, 1 or more")
        moving = Kinematics(ligand)
        scoring = Scoring(moving, pocket)
        noise = Noise.of(seed, self.starts)
        at = (2 * noise.fork("at").uniform((self.starts, 3)).float() - 1) * self.box
        turn = uniform((self.starts, 1), noise.fork("turn"), torch.float32)[:, 0]
        torsions = (noise.fork("torsions").uniform((self.starts, max(len(moving), 1))).float() - 0.5) * 2 * math.pi
        torsions = torsions[:, : len(moving)]
        keep = max(self.starts // 4, 1)
        for k in range(self.rounds):
            at, turn, torsions = self.descend(moving, scoring, (at, turn, torsions), soft=k == 0)
            if k + 1 == self.rounds:
                break
            order = self.scores(moving, scoring, (at, turn, torsions)).argsort()[:keep]
            own = order.repeat(-(-self.starts // keep))[: self.starts]
            shake = noise.fork(f"shake {k}")
            fresh = (torch.arange(self.starts) >= keep).float()[:, None]
            at = at[own] + 0.8 * fresh * shake.fork("at").normal((self.starts, 3)).float()
            spin = 0.5 * fresh * shake.fork("turn").normal((self.starts, 3)).float()
            turn = turn[own] @ exp_so3(spin)
            if len(moving):
                jump = shake.fork("torsions").normal((self.starts, len(moving))).float()
                chosen = shake.fork("which").uniform((self.starts, len(moving))) < 0.4
                torsions = torsions[own] + 1.5 * fresh * jump * chosen
            else:
                torsions = torsions[own]
        scores = self.scores(moving, scoring, (at, turn, torsions))
        with torch.no_grad():
            x = moving.positions(at.double(), turn.double(), torsions.double()).numpy()
        found: list[Docked] = []
        heavy = ligand.elements > 1
        for k in scores.argsort().tolist():
            place = x[k] + pocket.centre
            others = (one.molecule.positions[heavy] - place[heavy] for one in found)
            if all(float(np.sqrt((off**2).sum(-1).mean())) >= self.apart for off in others):
                found.append(Docked(ligand.moved(place), float(scores[k])))
            if len(found) == n:
                break
        return found

    @torch.no_grad()
    def scores(self, moving: Kinematics, scoring: Scoring, pose: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Of each pose, ligand and pocket alone plus what is inside above its least, [B]."""
        x = moving.positions(*pose)[:, scoring.heavy]
        inside = scoring.inside(x)
        return scoring.between(x) + inside - inside.min()

    def descend(
        self, moving: Kinematics, scoring: Scoring, pose: tuple[Tensor, Tensor, Tensor], soft: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Poses after a descent; `soft` begins with a hundredth of the repulsion."""
        at, turn, torsions = (part.clone() for part in pose)
        at.requires_grad_(True)
        torsions.requires_grad_(True)
        spin = torch.zeros_like(at, requires_grad=True)
        optimizer = torch.optim.Adam([
            {"params": [at], "lr": 0.1}, {"params": [spin], "lr": 0.06}, {"params": [torsions], "lr": 0.1}
        ])  # fmt: skip
        for k in range(self.steps):
            if k == self.steps // 2:
                for group in optimizer.param_groups:
                    group["lr"] *= 0.3
            steep = min(1.0, 10 ** (2 * (k / (0.6 * self.steps) - 1))) if soft else 1.0
            x = moving.positions(at, turn @ exp_so3(spin), torsions)[:, scoring.heavy]
            strayed = (at.norm(dim=-1) - 2 * self.box).clamp_min(0).square()
            loss = scoring.between(x, steep) + scoring.inside(x, steep) + strayed
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():  # tangents begin anew at the pose that was reached
                turn = turn @ exp_so3(spin)
                spin.zero_()
        return at.detach(), turn, torsions.detach()
