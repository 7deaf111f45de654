r"""Published tools as judges: PoseBusters (Buttenschoen et al. 2024) and GFN2-xTB (Bannwarth et al. 2019).

    released(m) = E(x_m) - E(argmin E near x_m),      kcal/mol, gas phase, 0 K

is what a relaxation from the positions of m gives back: 1 for molecules of QM9, whose geometry is of another method, 8
with .02 A of noise, 40 with .05 A. PoseBusters' tests `mol_fast` say whether bond lengths, angles, planarity and
clashes are those of molecules; they pass mirror images, and so does the energy. Both judge a molecule by itself; what
cannot be judged is counted as failed, or as NaN with the number of those.

Neither package is a dependency: pip install posebusters, pip install tblite. A share of many is judged in the order of
a seeded shuffle, so that the first k are a fair sample and not the smallest ones.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from gendiff.domain import Examples
from gendiff.errors import DataError
from gendiff.evaluation import Judge, Measure
from gendiff.evaluation.measures import share

from .molecule import Molecule, MoleculeError
from .pocket import Pocket
from .toolkit import chem, quiet

HARTREE = 627.509474  # kcal/mol
BOHR = 0.529177210903  # angstrom
STEPS = 500  # of a relaxation
FORCE = 1e-3  # hartree/bohr; the largest component where a relaxation ends


def shuffled(molecules: Sequence[Molecule], n: int | None = None, seed: int = 0) -> list[Molecule]:
    """The molecules in the order of a seeded shuffle, the first n of them."""
    order = np.random.default_rng(seed).permutation(len(molecules))[:n]
    return [molecules[int(k)] for k in order]


def _needs(judge: str, package: str) -> None:
    """Refuses a judge whose package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise DataError(
            f"The judge {judge} needs the package {package}, which is not installed",
            "it beside gendiff",
            f"pip install {package}",
        )


@dataclass(frozen=True)
class Busted:
    """What PoseBusters says of a molecule: `passed` if every test was passed, else which were failed, or the reason why
    it could not be tested."""

    passed: bool
    failed: tuple[str, ...] = ()
    reason: str = ""


def posebusters(molecules: Sequence[Molecule]) -> list[Busted]:
    """The tests `mol_fast` of PoseBusters on each molecule; one that RDKit or PoseBusters refuses is failed.

    Raises:
        DataError: if the package is not installed.
    """
    _needs("posebusters", "posebusters")
    return [_busted(molecule) for molecule in molecules]


@cache
def _buster() -> Any:
    from posebusters import PoseBusters  # type: ignore[import-not-found]

    return PoseBusters(config="mol_fast", max_workers=0)


def _busted(molecule: Molecule, buster: Any = None, around: Any = None) -> Busted:
    try:
        mol = molecule.to_rdkit()
    except MoleculeError as error:
        return Busted(False, reason=error.got)
    try:
        with quiet():
            row = (buster or _buster()).bust(mol_pred=mol, mol_cond=around).iloc[0]
    except Exception as error:  # noqa: BLE001 - whatever it fails by, the molecule has not passed
        return Busted(False, reason=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    failed = tuple(str(name) for name, passed in row.items() if passed != passed or not bool(passed))
    return Busted(not failed, failed)  # a test that could not be made is NaN, and is not passed


def posed(molecules: Sequence[Molecule], pocket: Pocket, *, energy: bool = False) -> list[Busted]:
    """The tests `dock_fast` of PoseBusters on molecules in a pocket: those of `mol_fast`, and the place: not far away,
    no clashes and no overlap of volumes with protein, cofactors and metals.

    Args:
        molecules: In the pocket's frame.
        pocket: Where.
        energy: Whether the internal energy is tested too, against 50 conformers, a second each: the tests `dock`.

    Raises:
        DataError: if the package is not installed.
    """
    _needs("posebusters", "posebusters")
    from posebusters import PoseBusters  # type: ignore[import-not-found]

    with quiet():
        around = chem().MolFromPDBBlock(pocket.pdb(), sanitize=False, proximityBonding=False)
    buster = PoseBusters(config="dock" if energy else "dock_fast", max_workers=0)
    return [_busted(molecule, buster, around) for molecule in molecules]


@dataclass(frozen=True)
class Relaxed:
    """A relaxation by GFN2-xTB.

    Attributes:
        released: kcal/mol; NaN where it failed.
        moved: root mean square of how far atoms moved, after superposition, angstrom.
        converged: whether the largest force fell below 1e-3 hartree/bohr.
        molecule: the relaxed one; None where it failed.
        reason: why it failed.
    """

    released: float
    moved: float = math.nan
    converged: bool = False
    molecule: Molecule | None = field(default=None, repr=False)
    reason: str = ""


def relaxed(molecule: Molecule, steps: int = STEPS) -> Relaxed:
    """A molecule relaxed by L-BFGS on the gradients of GFN2-xTB, with its formal charge; radicals are doublets.

    Raises:
        DataError: if the package tblite is not installed.
    """
    _needs("GFN2-xTB", "tblite")
    from scipy.optimize import minimize
    from tblite.interface import Calculator  # type: ignore[import-not-found]

    if molecule.implied:
        return Relaxed(math.nan, reason="its hydrogens are no atoms: molecule.with_hydrogens()")
    start = molecule.positions / BOHR
    spin = int(molecule.elements.sum() - molecule.charge) % 2
    held: dict[str, Any] = {}

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        if not held:
            held["calculator"] = Calculator("GFN2-xTB", molecule.elements, start, charge=molecule.charge, uhf=spin)
            held["calculator"].set("verbosity", 0)
        held["calculator"].update(flat.reshape(-1, 3))
        held["result"] = held["calculator"].singlepoint(held.get("result"))
        return float(held["result"].get("energy")), np.asarray(held["result"].get("gradient")).ravel()

    try:
        first, slope = energy(start.ravel())
        found = minimize(
            energy, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps, "gtol": FORCE, "maxcor": 20}
        )
        last, slope = float(found.fun), np.asarray(found.jac)
    except (RuntimeError, ValueError) as error:
        return Relaxed(math.nan, reason=f"GFN2-xTB: {' '.join(str(error).split())[:200]}")
    end = found.x.reshape(-1, 3) * BOHR
    off = _rms(molecule.positions, end)
    return Relaxed((first - last) * HARTREE, off, bool(np.abs(slope).max() < 2 * FORCE), molecule.moved(end))


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square distance after superposition by a rotation (Kabsch 1976)."""
    a, b = a - a.mean(0), b - b.mean(0)
    u, _, vt = np.linalg.svd(a.T @ b)
    u[:, -1] *= np.sign(np.linalg.det(u @ vt)) or 1.0
    return float(np.sqrt(((a @ u @ vt - b) ** 2).sum(-1).mean()))


def released(molecules: Sequence[Molecule], steps: int = STEPS) -> list[float]:
    """What each relaxation releases, kcal/mol; NaN for one that failed."""
    return [relaxed(molecule, steps).released for molecule in molecules]


def _passed(molecule: Molecule) -> bool:
    return _busted(molecule).passed


def posebusters_judge(train: Examples | None = None, test: Examples | None = None) -> Judge:
    """PoseBusters as a judge of samples, which needs no real ones.

    Raises:
        DataError: if the package is not installed.
    """
    _needs("posebusters", "posebusters")
    measure = share(
        "PoseBusters mol_fast", _passed, better="higher",
        about="Passes every test, of all that were asked for. Blind to handedness and to .05 A of noise; .99 for QM9.",
    )  # fmt: skip
    return Judge("PoseBusters mol_fast", (measure,))


def gfn2(train: Examples | None = None, test: Examples | None = None) -> Judge:
    """GFN2-xTB as a judge of samples, which needs no real ones.

    Raises:
        DataError: if the package tblite is not installed.
    """
    _needs("GFN2-xTB", "tblite")
    told: Mapping[str, Any] = {"features": released, "against": "nothing"}
    return Judge(
        "GFN2-xTB",
        (
            Measure(
                "released", _median, unit="kcal/mol", better="lower", within=(0.0, math.inf),
                about="Median energy that a relaxation gives back, of those that could be relaxed.", **told,
            ),
            Measure(
                "not relaxed", _missing, better="lower", within=(0.0, 1.0),
                about="Share that GFN2-xTB could not relax; they are not in the median.", **told,
            ),
        ),
    )  # fmt: skip


def _median(own: Sequence[float], other: object = ()) -> float:
    values = [value for value in own if math.isfinite(value)]
    return float(np.median(values)) if values else math.nan


def _missing(own: Sequence[float], other: object = ()) -> float:
    return float(np.mean([not math.isfinite(value) for value in own])) if len(own) else math.nan
