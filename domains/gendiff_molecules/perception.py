r"""From what a file says to a molecule: RDKit's chemistry, with every refusal in words.

    record --graph--> atoms, bonds        aromatic bonds are kekulised, missing bonds and orders perceived
           --sanitise--> valences         what cannot be is named, atom by atom
           --coordinates--> positions     two-dimensional ones and none are refused, or made by ETKDGv3
           --hydrogens, fragments--> Molecule

Which hydrogens are missing follows from the valences, as in every file that leaves them out. A five-valent nitrogen of
a nitro group is written with charges, and said. MOL2 has no formal charges: `charged` reads them off the bonds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from gendiff.errors import refuse

from .molecule import FAR, Molecule, MoleculeError
from .records import AROMATIC, Record, clean
from .toolkit import chem, named, overheard, problems, quiet, some

SAME = 0.3  # angstrom; two atoms nearer than this are at one place
NANO = 0.05, 0.25  # a median bond between these is one of a file in nanometres
SHORT, LONG = 0.6, 1.6  # of the sum of covalent radii; a bond outside is unlikely
ITERATIONS = 20_000  # of the search for bond orders


@dataclass(frozen=True)
class Options:
    """How a file is read.

    Args:
        hydrogens: "keep" takes those that are there, and says that others are implied; "add" puts the missing ones
            where RDKit does.
        coordinates: "refuse" drops a molecule without three-dimensional positions; "make" gives it some (ETKDGv3).
        fragments: "keep" takes molecules of several pieces as they are; "largest" the piece with most atoms; "refuse"
            drops them.
        charge: of the whole, where bonds are perceived and the file says none.
        template: SMILES of the ligands of a PDB file, for orders and charges.
        repair: whether a hydrogen is put on an aromatic nitrogen if its ring cannot be kekulised without.
        seed: of made coordinates.
    """

    hydrogens: Literal["keep", "add"] = "keep"
    coordinates: Literal["refuse", "make"] = "refuse"
    fragments: Literal["keep", "largest", "refuse"] = "keep"
    charge: int = 0
    template: str = ""
    repair: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "hydrogens": ("keep", "add"), "coordinates": ("refuse", "make"), "fragments": ("keep", "largest", "refuse"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                refuse(self, name, " or ".join(f'"{one}"' for one in allowed), error=MoleculeError)
        if self.template and parse(self.template)[0] is None:
            refuse(self, "template", f"SMILES; {parse(self.template)[1]}", error=MoleculeError)


@dataclass
class Built:
    """What became of a record: a molecule or the reason why there is none.

    Attributes:
        lost: atoms and bonds of the record that the molecule has not.
        notes: what was done, a sentence each.
    """

    molecule: Molecule | None = None
    reason: str = ""
    lost: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)


class _Refused(Exception):
    """Why a record is no molecule."""


def parse(smiles: str) -> tuple[Any, str]:
    """An RDKit molecule of SMILES, or None and why."""
    with overheard() as said:
        mol = chem().MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        spoken = [line.partition("] ")[2] or line for line in said]
        lines = [line.removeprefix("SMILES Parse Error: ") for line in spoken if "Parse Error" in line]
        return None, f"{clean(smiles)!r} is no SMILES: {clean(lines[0] if lines else 'a syntax error').rstrip(':')}"
    found = problems(mol)
    if found:
        return None, "; ".join(found)
    with quiet():
        chem().SanitizeMol(mol)
        chem().AssignStereochemistry(mol, cleanIt=True, force=True)
    return mol, ""


def molecule_of(record: Record, options: Options) -> Built:
    """The molecule of a record, or the reason why there is none. Raises nothing."""
    built = Built(notes=list(record.notes))
    try:
        if record.smiles:
            built.molecule = _from_smiles(record, options, built)
        elif record.fault:
            built.reason = record.fault
        else:
            built.molecule = _from_atoms(record, options, built)
    except _Refused as refused:
        built.reason = str(refused)
    except MoleculeError as error:
        built.reason = error.got
    if built.molecule is None:
        return built
    _valences(built)
    _lengths(built)
    _fragments(built, options, record)
    return built


def _from_smiles(record: Record, options: Options, built: Built) -> Molecule:
    mol, reason = parse(record.smiles)
    if mol is None:
        raise _Refused(reason)
    record.rows[:] = mol.GetNumAtoms(), mol.GetNumBonds()
    record.properties = {"smiles": record.smiles}
    _labelled(mol, built)
    return _made(mol, record, options, built)


def _labelled(mol: Any, built: Built) -> None:
    """Refuses what is no atom; takes labels off, and says so."""
    for atom in mol.GetAtoms():
        if not atom.GetAtomicNum():
            raise _Refused(f"{named(mol, atom.GetIdx())} is no element")
        if atom.GetNumRadicalElectrons():
            raise _Refused(f"{named(mol, atom.GetIdx())} is a radical, of which a Molecule keeps no account")
        atom.SetAtomMapNum(0)
    marked = [named(mol, atom.GetIdx()) for atom in mol.GetAtoms() if atom.GetIsotope()]
    if marked:
        built.notes.append(f"isotope labels are not kept: {some(marked)}")
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)


def _made(mol: Any, record: Record, options: Options, built: Built) -> Molecule:
    """The molecule with hydrogens and positions of ETKDGv3 (Wang et al. 2020)."""
    from rdkit.Chem import rdDistGeom

    Chem = chem()
    with quiet():
        mol = Chem.AddHs(mol)
        open_ = [mark for mark in Chem.FindPotentialStereo(mol) if str(mark.specified) != "Specified"]
        how = rdDistGeom.ETKDGv3()
        how.randomSeed = options.seed
        done = rdDistGeom.EmbedMolecule(mol, how)
        if done < 0:
            how.useRandomCoords = True
            done = rdDistGeom.EmbedMolecule(mol, how)
    if done < 0:
        raise _Refused("ETKDGv3 finds no positions for it")
    if open_:
        count = f"{len(open_)} centre or bond" if len(open_) == 1 else f"{len(open_)} centres or bonds"
        built.notes.append(f"{count} without a label turned as the seed has it")
    built.notes.append(f"positions made by ETKDGv3, seed {options.seed}")
    return Molecule.from_rdkit(mol, name=record.name, properties=_values(record.properties))


def _values(properties: dict[str, str]) -> dict[str, float | int | str]:
    """Properties as numbers where they are numbers."""
    found: dict[str, float | int | str] = {}
    for name, text in properties.items():
        try:
            value = int(text) if text.strip().lstrip("+-").isdigit() else float(text)
        except ValueError:
            found[name] = text
            continue
        plain = "_" not in text and math.isfinite(value) and (not isinstance(value, int) or str(value) == text.strip())
        found[name] = value if plain else text
    return found


def _from_atoms(record: Record, options: Options, built: Built) -> Molecule:
    positions = np.array([atom.at for atom in record.atoms], dtype=np.float64).reshape(-1, 3)
    if not len(positions):
        raise _Refused("the record is empty: 0 atoms")
    far = np.flatnonzero(~(np.abs(positions) < FAR).all(-1))
    if len(far):
        raise _Refused(f"atom {far[0] + 1} ({record.atoms[far[0]].symbol}) is out of range, {FAR:g} A from the origin")
    missing = _coordinates(record, positions)
    if missing and (options.coordinates == "refuse" or record.perceive):
        fix = "" if record.perceive else '; read(path, coordinates="make") makes some'
        raise _Refused(missing + fix)
    if not missing:
        _apart(record, positions)
    mol = _perceived(record, positions, options) if record.perceive else _graph(record, positions)
    _note_isotopes(record, built)
    mol = _sanitised(mol, record, options, built)
    if missing:
        return _made(_wedged(mol, record), record, options, built)
    return _with_hydrogens(mol, record, options, built)


def _coordinates(record: Record, positions: np.ndarray) -> str:
    """What the positions lack, if they are not those of a molecule in space."""
    if len(positions) > 1 and not np.ptp(positions, 0).any():
        return "no coordinates: all atoms are at one place"
    degree = np.bincount([k for bond in record.bonds for k in bond[:2]], minlength=len(positions))
    if len(positions) > 3 and not np.ptp(positions[:, 2]) and (record.flat or (degree >= 4).any()):
        return "two-dimensional coordinates"
    if record.flat and len(positions) > 1 and not positions[:, 2].any():
        return "two-dimensional coordinates"
    return ""


def _apart(record: Record, positions: np.ndarray) -> None:
    """Refuses atoms at one place, and a file in nanometres."""
    from scipy.spatial import KDTree

    lengths = [float(np.linalg.norm(positions[i] - positions[j])) for i, j, _ in record.bonds]
    if lengths and NANO[0] < float(np.median(lengths)) < NANO[1]:
        raise _Refused(f"bonds of {np.median(lengths):.3f}, which look like nanometres: multiply the positions by 10")
    close = sorted(KDTree(positions).query_pairs(SAME))
    if close:
        i, j = close[0]
        nearest = float(np.linalg.norm(positions[i] - positions[j]))
        raise _Refused(f"atoms {i + 1} and {j + 1} are {nearest:.2f} A apart")


def _graph(record: Record, positions: np.ndarray) -> Any:
    """An RDKit molecule of the record, not sanitised; aromatic bonds as the file has them."""
    Chem = chem()
    from rdkit.Geometry import Point3D

    kinds = {
        1: Chem.BondType.SINGLE,
        2: Chem.BondType.DOUBLE,
        3: Chem.BondType.TRIPLE,
        AROMATIC: Chem.BondType.AROMATIC,
    }
    mol, place = Chem.RWMol(), Chem.Conformer(len(record.atoms))
    for k, own in enumerate(record.atoms):
        atom = Chem.Atom(own.symbol)
        atom.SetFormalCharge(own.charge)
        mol.AddAtom(atom)
        place.SetAtomPosition(k, Point3D(*positions[k].tolist()))
    for i, j, order in record.bonds:
        mol.AddBond(i, j, kinds[order])
        if order == AROMATIC:
            mol.GetBondBetweenAtoms(i, j).SetIsAromatic(True)
            for end in (i, j):
                mol.GetAtomWithIdx(end).SetIsAromatic(True)
    mol.AddConformer(place)
    if any(own.kind for own in record.atoms):
        charged(mol, record)
    for k, own in enumerate(record.atoms):
        if own.valence is not None:
            atom = mol.GetAtomWithIdx(k)
            bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
            atom.SetNoImplicit(True)
            atom.SetNumExplicitHs(max(0, round(own.valence - bonds)))
    return mol


def charged(mol: Any, record: Record) -> None:
    """Formal charges of a MOL2 file, changed in place.

    Aromatic bonds outside of rings become one double bond and single ones: a carboxylate or phosphate (O.co2), whose
    other oxygens get -1, or a guanidinium (C.cat), whose nitrogen with the double bond gets +1. Then four bonds of a
    nitrogen are +1; and, where hydrogens are atoms, one bond of an oxygen or sulphur is -1, and two of a nitrogen.
    """
    Chem = chem()
    with quiet():
        Chem.FastFindRings(mol)
    for atom in mol.GetAtoms():
        loose = [b for b in atom.GetBonds() if b.GetIsAromatic() and not b.IsInRing()]
        ends = [b for b in loose if b.GetOtherAtom(atom).GetDegree() <= atom.GetDegree()]
        if len(loose) < 2 or len(ends) < len(loose):
            continue
        for k, bond in enumerate(loose):
            bond.SetIsAromatic(False)
            bond.SetBondType(Chem.BondType.SINGLE if k else Chem.BondType.DOUBLE)
    for atom in mol.GetAtoms():
        atom.SetIsAromatic(any(bond.GetIsAromatic() for bond in atom.GetBonds()))
    whole = any(own.symbol == "H" for own in record.atoms)
    for atom in mol.GetAtoms():
        if atom.GetIsAromatic():
            continue
        valence, number = sum(b.GetBondTypeAsDouble() for b in atom.GetBonds()), atom.GetAtomicNum()
        if number == 7 and valence == 4:
            atom.SetFormalCharge(1)
        elif (number in (8, 16) and valence == 1) or (number == 7 and valence == 2):
            own = record.atoms[atom.GetIdx()].kind.lower()
            if whole or own == "o.co2":
                atom.SetFormalCharge(-1)


def _note_isotopes(record: Record, built: Built) -> None:
    marked = [f"atom {k + 1} ({own.symbol})" for k, own in enumerate(record.atoms) if own.isotope]
    if marked:
        built.notes.append(f"isotope labels are not kept: {some(marked)}")
    radical = [f"atom {k + 1} ({own.symbol})" for k, own in enumerate(record.atoms) if own.radical]
    if radical:
        raise _Refused(f"{some(radical)} is a radical, of which a Molecule keeps no account")


def _sanitised(mol: Any, record: Record, options: Options, built: Built) -> Any:
    """The molecule as RDKit sanitises it, Kekule bonds again; what was changed is noted."""
    Chem = chem()
    before = [atom.GetFormalCharge() for atom in mol.GetAtoms()]
    mol = Chem.RWMol(mol)
    mol.UpdatePropertyCache(False)
    with quiet():
        Chem.Cleanup(mol)
    moved = [k for k, own in enumerate(mol.GetAtoms()) if own.GetFormalCharge() != before[k]]
    if moved:
        built.notes.append(f"written with charges, as its valences ask for: {some([named(mol, k) for k in moved])}")
    mol = _kekulisable(mol, record, options, built)
    found = problems(mol)
    if found:
        raise _Refused("; ".join(found))
    with quiet():
        Chem.SanitizeMol(mol)
        Chem.Kekulize(mol, clearAromaticFlags=True)
    radical = [named(mol, atom.GetIdx()) for atom in mol.GetAtoms() if atom.GetNumRadicalElectrons()]
    if radical:
        raise _Refused(f"{some(radical)} lacks a bond and is a radical")
    partial = [own.partial for own in record.atoms if own.partial is not None]
    total = Chem.GetFormalCharge(mol)
    if len(partial) == len(record.atoms) and any(partial) and abs(sum(partial) - total) > 0.5:
        built.notes.append(f"formal charges add to {total:+d}, its partial charges to {sum(partial):+.2f}")
    return mol


def _kekulisable(mol: Any, record: Record, options: Options, built: Built) -> Any:
    """The molecule, with a charge or hydrogens that its rings want, if the file's type or the options allow them."""
    if not _unkekulised(mol):
        return mol
    mol = _pyridinium(mol, record)
    if not _unkekulised(mol):
        return mol
    repaired, atoms = _repaired(mol)
    if repaired is None:
        raise _Refused("; ".join(problems(mol)))
    words = some([named(mol, k) for k in atoms])
    if not options.repair:
        found = "; ".join(problems(mol))
        raise _Refused(f"{found}; with a hydrogen on {words} they can: read(path, repair=True)")
    built.notes.append(f"a hydrogen was put on {words}, so that its ring can be kekulised")
    return repaired


def _pyridinium(mol: Any, record: Record) -> Any:
    """With +1 on nitrogens of Sybyl's type N.ar that have three neighbours, if that is what the rings want."""
    places = [
        k for k, own in enumerate(record.atoms) if own.kind.lower() == "n.ar" and mol.GetAtomWithIdx(k).GetDegree() == 3
    ]
    other = chem().RWMol(mol)
    for k in places:
        other.GetAtomWithIdx(k).SetFormalCharge(1)
    return other if places and not problems(other) else mol


def _repaired(mol: Any) -> tuple[Any, list[int]]:
    """The molecule with hydrogens on as few aromatic nitrogens as let it be kekulised, and which; None if none do."""
    placed: list[int] = []
    mol = chem().RWMol(mol)
    while len(placed) < 8:
        bad = _unkekulised(mol)
        if not bad:
            return (mol, placed) if placed else (None, [])
        best: tuple[int, int] | None = None
        for k in sorted(bad):
            atom = mol.GetAtomWithIdx(k)
            if atom.GetAtomicNum() != 7 or atom.GetDegree() != 2 or atom.GetFormalCharge() or atom.GetNumExplicitHs():
                continue
            other = chem().RWMol(mol)
            other.GetAtomWithIdx(k).SetNumExplicitHs(1)
            left = len(_unkekulised(other))
            if left < len(bad) and (best is None or left < best[0]):
                best = left, k
        if best is None:
            return None, []
        mol.GetAtomWithIdx(best[1]).SetNumExplicitHs(1)
        placed.append(best[1])
    return None, []


def _unkekulised(mol: Any) -> set[int]:
    with quiet():
        try:
            found = chem().DetectChemistryProblems(mol)
        except RuntimeError:  # an assertion of RDKit's own
            return set()
    return {k for one in found if one.GetType() == "KekulizeException" for k in one.GetAtomIndices()}


def _wedged(mol: Any, record: Record) -> Any:
    """The molecule with the stereochemistry of its drawing, where RDKit can read that from the record's text."""
    if not record.text:
        return mol
    with quiet():
        drawn = chem().MolFromMolBlock(record.text, sanitize=True, removeHs=False)
    sizes = mol.GetNumAtoms(), mol.GetNumBonds()
    return mol if drawn is None or (drawn.GetNumAtoms(), drawn.GetNumBonds()) != sizes else drawn


def _with_hydrogens(mol: Any, record: Record, options: Options, built: Built) -> Molecule:
    """Hydrogens that are missing are added, or implied."""
    Chem = chem()
    bare = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetTotalNumHs()]
    count = sum(mol.GetAtomWithIdx(k).GetTotalNumHs() for k in bare)
    properties = _values(record.properties)
    if not count:
        return Molecule.from_rdkit(mol, name=record.name, properties=properties)
    if options.hydrogens == "add":
        with quiet():
            mol = Chem.AddHs(mol, addCoords=True)
        built.notes.append(f"{count} hydrogens added")
        return Molecule.from_rdkit(mol, name=record.name, properties=properties)
    own = Molecule.from_rdkit(mol, name=record.name, properties=properties, implied=True)
    again = own.to_rdkit()
    filled = [a.GetTotalNumHs() for a in again.GetAtoms()]
    odd = [k for k, a in enumerate(mol.GetAtoms()) if a.GetTotalNumHs() != filled[k]]
    if odd:
        raise _Refused(
            f"{some([named(mol, k) for k in odd])} has another valence than the file says, if hydrogens are implied"
        )
    built.notes.append(f"{count} hydrogens are missing and implied")
    return own


def _perceived(record: Record, positions: np.ndarray, options: Options) -> Any:
    """The molecule of a record without bonds, or with bonds of unknown order."""
    Chem = chem()
    from rdkit.Chem import rdDetermineBonds

    ties = record.bonds if record.perceive == "orders" else []
    plain = _graph(replace(record, bonds=[(i, j, 1) for i, j, _ in ties]), positions)
    charge = record.charge if record.charge is not None else options.charge
    if options.template:
        return _templated(plain, record, options.template)
    if record.perceive == "orders" and not problems(plain) and not _lacking(plain):
        return plain
    if not any(own.symbol == "H" for own in record.atoms) and record.properties.get("residue"):
        raise _Refused(
            "its bonds have no orders, and there are no hydrogens to find them by: read(path, template=SMILES)"
        )
    for atom in plain.GetAtoms():
        atom.SetFormalCharge(0)
    try:
        with quiet():
            if record.perceive == "bonds":
                rdDetermineBonds.DetermineConnectivity(plain)
            crowd = max((atom.GetDegree() for atom in plain.GetAtoms()), default=0)
            if crowd > 8:
                raise ValueError("crowded")
            rdDetermineBonds.DetermineBondOrders(plain, charge=charge, embedChiral=False, maxIterations=ITERATIONS)
    except (ValueError, RuntimeError, Chem.MolSanitizeException):
        said = (
            "" if record.charge is not None else f"; read(path, charge={1 if charge == 0 else 0}) if that is its charge"
        )
        raise _Refused(f"no bonds of right valences fit its positions with charge {charge:+d}{said}") from None
    mol = Chem.RWMol(plain)
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
    return mol


def _lacking(mol: Any) -> bool:
    """Whether an atom of a molecule with hydrogens lacks a bond."""
    own = chem().Mol(mol)
    own.UpdatePropertyCache(False)
    return any(atom.GetTotalNumHs() or atom.GetNumRadicalElectrons() for atom in own.GetAtoms())


def _templated(plain: Any, record: Record, template: str) -> Any:
    """Orders and charges of a template for the heavy atoms, whose bonds are the file's or follow from distances."""
    Chem = chem()
    from rdkit.Chem import rdDetermineBonds

    mol = Chem.RWMol(plain)
    if not mol.GetNumBonds():
        with quiet():
            rdDetermineBonds.DetermineConnectivity(mol)
    with quiet():
        pattern = Chem.RemoveHs(parse(template)[0])
        Chem.Kekulize(pattern, clearAromaticFlags=True)
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    if len(heavy) != pattern.GetNumAtoms():
        raise _Refused(f"the template has {pattern.GetNumAtoms()} heavy atoms, the ligand {len(heavy)}")
    own, wanted = _skeleton(mol), _skeleton(pattern)
    with quiet():
        ways = own.GetSubstructMatches(wanted, uniquify=False, maxMatches=200)
    if not ways or own.GetNumBonds() - sum(_hydrogen(bond) for bond in own.GetBonds()) != wanted.GetNumBonds():
        raise _Refused("the template does not fit the bonds of the ligand")
    best = None
    for way in ways:
        made = _dressed(mol, pattern, way)
        if not problems(made):
            best = made if best is None else best
            if not any(own.symbol == "H" for own in record.atoms) or not _lacking(made):
                return made
    if best is None:
        raise _Refused("with the template's orders: " + "; ".join(problems(_dressed(mol, pattern, ways[0]))))
    return best


def _hydrogen(bond: Any) -> bool:
    return 1 in (bond.GetBeginAtom().GetAtomicNum(), bond.GetEndAtom().GetAtomicNum())


def _skeleton(mol: Any) -> Any:
    """Elements and which are bonded, nothing else."""
    Chem = chem()
    bare = Chem.RWMol()
    for atom in mol.GetAtoms():
        bare.AddAtom(Chem.Atom(atom.GetAtomicNum()))
    for bond in mol.GetBonds():
        bare.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    bare.UpdatePropertyCache(False)
    return bare.GetMol()


def _dressed(mol: Any, pattern: Any, way: Sequence[int]) -> Any:
    """The ligand with the orders and charges of the template, matched atom by atom."""
    made = chem().RWMol(mol)
    for k, place in enumerate(way):
        made.GetAtomWithIdx(place).SetFormalCharge(pattern.GetAtomWithIdx(k).GetFormalCharge())
    for bond in pattern.GetBonds():
        there = made.GetBondBetweenAtoms(way[bond.GetBeginAtomIdx()], way[bond.GetEndAtomIdx()])
        there.SetBondType(bond.GetBondType())
    return made


def _valences(built: Built) -> None:
    """Says which valences are not in our table, though RDKit takes them: metals, mostly."""
    assert built.molecule is not None
    found = list(built.molecule.faults())
    if found:
        built.notes.append(f"taken by RDKit, though {some(found, 3)}")


def _lengths(built: Built) -> None:
    """Says which bonds are far from the sum of covalent radii, as a digit that was damaged makes them."""
    own = built.molecule
    assert own is not None
    table = chem().GetPeriodicTable()
    radius = np.array([table.GetRcovalent(z) for z in own.elements.tolist()])
    i, j, _ = own.bonds.T
    length = np.linalg.norm(own.positions[i] - own.positions[j], axis=-1)
    odd = np.flatnonzero((length > LONG * (radius[i] + radius[j])) | (length < SHORT * (radius[i] + radius[j])))
    if len(odd):
        words = [f"{i[k] + 1}-{j[k] + 1} ({length[k]:.2f} A)" for k in odd.tolist()]
        built.notes.append(f"bonds of unlikely length: {some(words, 3)}")


def _fragments(built: Built, options: Options, record: Record) -> None:
    """What is done with a molecule of several pieces."""
    own = built.molecule
    assert own is not None
    pieces = own.fragments()
    if len(pieces) == 1:
        return
    sizes = f"{len(pieces)} fragments ({', '.join(str(len(piece)) for piece in pieces[:6])} atoms)"
    if options.fragments == "refuse":
        built.molecule, built.reason = None, sizes
    elif options.fragments == "keep":
        built.notes.append(f"{sizes}, all kept")
    else:
        gone = np.concatenate(pieces[1:])
        before = gone[gone < record.rows[0]]  # hydrogens that were added stand behind the file's own atoms
        ends = own.bonds[:, :2][np.isin(own.bonds[:, :2], before).any(1)]
        given = (ends < record.rows[0]).all(1).sum() if record.rows[1] else 0
        built.molecule, built.lost = own.take(pieces[0]), (len(before), int(given))
        built.notes.append(f"{sizes}, the largest kept")
