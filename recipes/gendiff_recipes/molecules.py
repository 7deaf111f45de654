"""Recipes for molecules: positions, kinds of atoms and bonds, a network of atoms, pairs and vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from gendiff.training import LogitNormal, Mixed, Objective, Uniform
from gendiff_molecules import QM7, QM9, KnownAtoms, MoleculeFiles, Molecules, PocketLigands

from .recipe import Optimizer, Recipe, Trainer, home_of

OBJECTIVE = Objective(parts={"atom": 0.3, "bond": 2.0}, known=(KnownAtoms(0.2),))
TIMES = Mixed(LogitNormal(-0.3, 1.0), Uniform(1e-3), 0.5)


def shares(domain: Molecules) -> dict[str, float]:
    """Of examples: nothing is asked of most, and of the others each thing is left out by itself, so that any of them
    may be asked alone."""
    return {"all": 0.6, **dict.fromkeys(domain.conditions, 0.3)}


def qm9() -> Recipe:
    """Molecules of QM9 (nine heavy atoms at most); logP, rings and energies may be asked. Two hours on a core."""
    domain = Molecules(source=QM9(), templates=True)
    return Recipe(
        "molecules.qm9",
        domain,
        network={"width": 160, "pair": 64, "depth": 6},
        times=TIMES,
        objective=OBJECTIVE,
        drop=shares(domain),
        ema=0.999,
        optimizer=Optimizer(lr=1e-3, weight_decay=1e-4, warmup=300, decay=0.6),
        trainer=Trainer(steps=100_000, minutes=120, batch=64, show=2000, samples=12),
    )


def qm7() -> Recipe:
    """Molecules of QM7, sulfur among them: a smaller set, forty minutes on a core."""
    plain = qm9()
    domain = Molecules(source=QM7(), templates=True)
    return replace(
        plain, name="molecules.qm7", domain=domain, drop=shares(domain), trainer=replace(plain.trainer, minutes=40)
    )


def pockets() -> Recipe:
    """Molecules and pieces of them in pockets of proteins, up to 16 heavy atoms. An hour on a core.

    gendiff train molecules.pockets --from MODEL, one of molecules.qm9, begins with what that model knows. With
    domain.placed=true domain.source.scatter=0.5 where a molecule lies is drawn, too, and known atoms may grow in a
    pocket; otherwise the middle of a molecule is the centre of the pocket.
    """
    plain, domain = qm9(), Molecules(source=PocketLigands(), templates=True, eta=4.0)
    told = {"all": 0.1, **dict.fromkeys(domain.conditions, 0.5), "pocket": 0.0}
    return replace(
        plain, name="molecules.pockets", domain=domain, drop=told, ema=0.998,
        optimizer=replace(plain.optimizer, lr=5e-4), trainer=replace(plain.trainer, minutes=60, batch=32),
    )  # fmt: skip


def folder(path: str, *, ask: str = "", hydrogens: Literal["add", "keep"] = "add") -> Recipe:
    """Molecules of your own: gendiff train molecules.folder PATH (SDF, MOL2, XYZ, SMILES). An hour on a core.

    Args:
        path: The folder, or one file.
        ask: Data fields of SDF that may be asked, numbers, "logp,pic50".
        hydrogens: "add" gives those that a file leaves out a place, "keep" leaves molecules out that lack them.
    """
    asked = tuple(word.strip() for word in ask.split(",") if word.strip())
    source = MoleculeFiles(str(home_of(path)), hydrogens=hydrogens, asks=asked)
    plain, domain = qm9(), Molecules(source=source, templates=True)
    return replace(
        plain, name="molecules.folder", domain=domain, drop=shares(domain), ema=0.995,
        trainer=replace(plain.trainer, minutes=60),
    )  # fmt: skip
