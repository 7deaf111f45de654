"""Fragments: atoms that are known, with the bonds among them, of molecules that are made around them.

    core = fragment(molecule, "c1ccccc1", atoms=18)        # the atoms that a SMARTS pattern matches, and no hydrogens
    model.sample(8, given=core)
    model.sample(8, given=fragment(molecule, "c1ccccc1", atoms=30, pocket=pocket))       where it lies in a pocket

Scaffolds, linkers (two pieces) and cores are all this. Known atoms come first, exactly where they were and with the
bonds they have to each other; what else they bind is made. In training, `KnownAtoms` shows the like: the k atoms that
are nearest to one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import SHARE, RequestError, check, ordered
from gendiff.processes import Joint
from gendiff.random import Noise
from gendiff.spaces import State, pair_index
from gendiff.training import Known, template
from gendiff.training.couplings import turn

from .molecule import Molecule
from .pocket import Pocket
from .toolkit import chem


@dataclass(frozen=True, eq=False)
class Fragment:
    """Known atoms in a molecule of so many.

    Args:
        molecule: The known atoms, with the bonds among them.
        atoms: Of the whole molecule.
        pocket: In whose frame the known atoms lie, where the rest is made in a pocket.

    Raises:
        RequestError: Fewer atoms than are known.
    """

    molecule: Molecule
    atoms: int
    pocket: Pocket | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.atoms, int) or self.atoms < len(self.molecule):
            raise RequestError(
                f"{len(self.molecule)} known atoms in a molecule of {self.atoms!r}",
                f"a whole number of atoms, {len(self.molecule)} or more",
            )

    def closed(self, n: int) -> np.ndarray:
        """`[P]` bool: the pairs whose bond is known, of n atoms: both known, and of one piece.

        Two pieces of a linker may come to be bonded to each other.
        """
        piece = np.full(n, -1)
        for number, own in enumerate(self.molecule.fragments()):
            piece[own] = number
        i, j = (index.numpy() for index in pair_index(n))
        return (piece[i] >= 0) & (piece[i] == piece[j])

    def complete(self, sample: Molecule) -> Molecule:
        """A sample in the place of what is known, its known atoms exactly where they were."""
        size, there = len(self.molecule), self.molecule.positions
        here = sample.positions[:size]
        rotation, shift = superposed(here, there)
        positions = sample.positions @ rotation.T + shift
        positions[:size] = there
        return sample.moved(positions)

    def rmsd(self, sample: Molecule) -> float:
        """How far the known atoms of a sample are off after superposition, angstrom; a mirror image does not fit."""
        here, there = sample.positions[: len(self.molecule)], self.molecule.positions
        rotation, shift = superposed(here, there)
        return float(np.sqrt(((here @ rotation.T + shift - there) ** 2).sum(-1).mean()))


def superposed(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The proper rotation R and shift c with R x + c nearest to y (Kabsch 1976)."""
    a, b = here.mean(0), there.mean(0)
    rotation = turn(*(torch.from_numpy(x)[None] for x in (here - a, there - b)))[0].numpy().T
    return rotation, b - rotation @ a


def fragment(molecule: Molecule, pattern: str | Sequence[int], atoms: int, *, pocket: Pocket | None = None) -> Fragment:
    """The atoms of a molecule that a SMARTS pattern matches first, or that are named, counted from 0.

    Args:
        molecule: Where they are.
        pattern: SMARTS, or the atoms.
        atoms: Of the molecules to be made.
        pocket: In whose frame the molecule lies, where the rest is made in a pocket.

    Raises:
        RequestError: A pattern that cannot be read or matches nothing; atoms that there are not.
    """
    if isinstance(pattern, str):
        query = chem().MolFromSmarts(pattern)
        if query is None:
            raise RequestError(f"the pattern {pattern!r}", "SMARTS", '"c1ccccc1"')
        match = molecule.to_rdkit().GetSubstructMatch(query)
        if not match:
            raise RequestError(f"{pattern!r} matches nothing in {molecule.smiles()}", "a part of it")
    else:
        match = tuple(int(k) for k in pattern)
        wrong = [k for k in match if not 0 <= k < len(molecule)]
        if wrong or len(set(match)) != len(match) or not match:
            raise RequestError(f"the atoms {list(match)}", f"different ones from 0 to {len(molecule) - 1}")
    return Fragment(molecule.take(list(match)), atoms, pocket)


@dataclass(frozen=True)
class KnownAtoms(Known):
    """Shows atoms that lie together, with the bonds among them, and tells their positions as a template.

    Args:
        share: In which share of the samples.
        least: Least of all atoms that are known, as a share.
        most: Most of them.
        name: Of the condition.
    """

    share: float = 0.2
    least: float = 0.1
    most: float = 0.8
    name: str = "template"

    def __post_init__(self) -> None:
        check(self, share=SHARE, least=SHARE, most=SHARE)
        ordered(self, "least", "most", equal=True)

    def keep(self, x0: State, mask: Tensor | None, noise: Noise) -> Tensor:
        """bool [B, N]: the k real atoms nearest to one of them."""
        pos = x0["pos"]  # type: ignore[index]
        real = torch.ones(pos.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
        u = noise.fork("known atoms").uniform((len(pos), 3))
        total = real.sum(1)
        first = (u[:, 1] * total).long()
        count = ((self.least + (self.most - self.least) * u[:, 2]) * total).ceil() * (u[:, 0] < self.share)
        place = pos.detach().cpu().double()
        far = (place - place[torch.arange(len(place)), first][:, None]).square().sum(-1)
        rank = far.masked_fill(~real, torch.inf).argsort(1).argsort(1)
        return ((rank < count[:, None]) & real).to(pos.device)

    def __call__(
        self, process: Joint, x0: State, noise: Noise, mask: Tensor | None = None
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        keep = self.keep(x0, mask, noise)
        i, j = pair_index(keep.shape[1], keep.device)
        return {"atom": (keep, x0["atom"]), "bond": (keep[:, i] & keep[:, j], x0["bond"])}  # type: ignore[index]

    def told(self, x0: State, mask: Tensor | None, noise: Noise) -> Mapping[str, Any]:
        return {self.name: template(self.keep(x0, mask, noise), {"pos": x0["pos"]})}  # type: ignore[index]
