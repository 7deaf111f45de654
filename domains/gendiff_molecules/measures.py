r"""Measures of molecules, beside real ones where that means something.

    good(m)  <=>  RDKit sanitises m, m is one piece, every valence is right and no atom lacks a bond
    W1(kind) =    int_0^1 |Q_S(u) - Q_R(u)| du,        W1 = sum_kind n_R(kind) W1(kind) / sum_kind n_R(kind)

Q are quantiles of bond lengths by the two elements and the order, of angles by the three elements, over kinds that both
sets have 20 times. Torsions are compared on the circle, by the four elements and the order of the middle bond; their
sign is kept, so that a set and its mirror image differ. RDKit's sanitising alone (`valid`) takes an atom that lacks a
bond for a radical. Only good molecules have SMILES, rings, logP, QED and labels; geometry is that of good ones too.

    unique    different canonical SMILES among the good ones, over how many are good
    novel     good ones whose SMILES (without stereochemistry) no training molecule has, over how many are good
    right     of the centres labelled R or S, the share R: mirror images exchange the two

Distances, angles, QED and PoseBusters see no mirror image; `right` and torsions do.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter

import numpy as np

from gendiff.evaluation import Estimate, Measure, wasserstein1, wilson

from .molecule import Molecule
from .toolkit import chem, quiet

LEAST = 20  # of a kind, in both sets, to be compared
FEW = 20  # molecules, of which fewer have no kind so often
_QUANTILES = (np.arange(200) + 0.5) / 200
_BINS = 72  # of a torsion's circle

Pools = Mapping[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class Description:
    """What RDKit says of one molecule; `smiles` is empty and the rest missing unless it is good.

    Attributes:
        valid: RDKit's sanitising accepts it, which cleans five-valent nitrogen first and takes radicals.
        connected: it is one piece.
        whole: every valence is right (`Molecule.faults` finds none).
        smiles: canonical, without stereochemistry.
        hands: the labels R and S of its centres.
        rings: the sizes of its smallest rings.
        logp: Crippen's.
        qed: drug-likeness, 0 to 1 (Bickerton et al. 2012).
        lengths: bond lengths, angles and torsions by their kinds; see the functions of these names.
    """

    valid: bool
    connected: bool
    whole: bool
    smiles: str = ""
    hands: tuple[str, ...] = ()
    rings: tuple[int, ...] = ()
    logp: float = math.nan
    qed: float = math.nan
    lengths: Pools = field(default_factory=dict, repr=False)
    angles: Pools = field(default_factory=dict, repr=False)
    torsions: Pools = field(default_factory=dict, repr=False)

    @property
    def good(self) -> bool:
        """Valid, connected and whole."""
        return self.valid and self.connected and self.whole


def valid(molecule: Molecule) -> bool:
    """Whether RDKit's sanitising accepts it."""
    mol = molecule.to_rdkit(sanitize=False)
    with quiet():
        return not chem().SanitizeMol(mol, catchErrors=True)


def connected(molecule: Molecule) -> bool:
    """Whether it is one piece."""
    return len(molecule.fragments()) == 1


def good(molecule: Molecule) -> bool:
    """Valid, connected, every valence right."""
    return molecule.sound and valid(molecule)


def describe(molecule: Molecule) -> Description:
    """What RDKit and the positions say of a molecule."""
    flags = valid(molecule), connected(molecule), not molecule.faults()
    if not all(flags):
        return Description(*flags)
    from rdkit.Chem import QED
    from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors

    mol = molecule.to_rdkit()
    with quiet():
        bare = chem().RemoveHs(mol)
        return Description(
            *flags,
            smiles=chem().MolToSmiles(bare, isomericSmiles=False),
            hands=molecule.labels().hands,
            rings=tuple(sorted(map(len, bare.GetRingInfo().AtomRings()))),
            logp=float(CalcCrippenDescriptors(bare)[0]),
            qed=float(QED.qed(bare)),
            lengths=lengths(molecule),
            angles=angles(molecule),
            torsions=torsions(molecule),
        )


def descriptions(molecules: Sequence[Molecule]) -> list[Description]:
    """`describe` of each: what all measures but `novel` are made of, so that it is made once."""
    return [describe(molecule) for molecule in molecules]


def graphs(molecules: Sequence[Molecule]) -> list[str]:
    """Canonical SMILES without stereochemistry, empty for what is not good."""
    return [molecule.smiles(stereo=False) if good(molecule) else "" for molecule in molecules]


def lengths(molecule: Molecule) -> dict[tuple[int, ...], np.ndarray]:
    """Bond lengths in angstrom, by the two atomic numbers and the order."""
    i, j, order = molecule.bonds.T
    far = np.linalg.norm(molecule.positions[i] - molecule.positions[j], axis=-1)
    ends = np.sort(np.stack([molecule.elements[i], molecule.elements[j]], 1), 1)
    return _by_kind(np.column_stack([ends, order]), far)


def angles(molecule: Molecule) -> dict[tuple[int, ...], np.ndarray]:
    """Angles in degrees, by the atomic numbers of the three atoms, the middle one second."""
    triples = [(a, k, b) for k, own in enumerate(_neighbours(molecule)) for a in own for b in own if a < b]
    if not triples:
        return {}
    a, k, b = np.array(triples).T
    u, v = (molecule.positions[end] - molecule.positions[k] for end in (a, b))
    cos = (u * v).sum(-1) / np.maximum(np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1), 1e-12)
    z = molecule.elements
    low, high = np.minimum(z[a], z[b]), np.maximum(z[a], z[b])
    return _by_kind(np.stack([low, z[k], high], 1), np.degrees(np.arccos(np.clip(cos, -1, 1))))


def torsions(molecule: Molecule) -> dict[tuple[int, ...], np.ndarray]:
    """Torsions of heavy atoms in degrees, -180 to 180, by their atomic numbers and the order of the middle bond."""
    near, z = _neighbours(molecule), molecule.elements
    rows, kinds = [], []
    for j, k, order in molecule.bonds.tolist():
        for a in near[j]:
            for b in near[k]:
                if a != k and b != j and a != b and min(z[a], z[j], z[k], z[b]) > 1:
                    kind = (int(z[a]), int(z[j]), int(z[k]), int(z[b]))
                    rows.append((a, j, k, b))
                    kinds.append((*min(kind, kind[::-1]), order))
    if not rows:
        return {}
    p = molecule.positions[np.array(rows)]
    b1, b2, b3 = p[:, 1] - p[:, 0], p[:, 2] - p[:, 1], p[:, 3] - p[:, 2]
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    sine = (np.cross(n1, n2) * b2).sum(-1) / np.maximum(np.linalg.norm(b2, axis=-1), 1e-12)
    return _by_kind(np.array(kinds), np.degrees(np.arctan2(sine, (n1 * n2).sum(-1))))


def _neighbours(molecule: Molecule) -> list[list[int]]:
    near: list[list[int]] = [[] for _ in range(len(molecule))]
    for i, j, _ in molecule.bonds.tolist():
        near[i].append(j)
        near[j].append(i)
    return near


def _by_kind(kinds: np.ndarray, values: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    found: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for kind, value in zip(kinds.tolist(), values.tolist(), strict=True):
        found[tuple(kind)].append(value)
    return {kind: np.sort(own) for kind, own in found.items()}


def pooled(pools: Sequence[Pools]) -> dict[tuple[int, ...], np.ndarray]:
    """The values of several molecules, kind by kind."""
    found: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
    for own in pools:
        for kind, values in own.items():
            found[kind].append(values)
    return {kind: np.sort(np.concatenate(values)) for kind, values in found.items()}


def apart(
    mine: Sequence[Pools], theirs: Sequence[Pools], distance: Callable[[np.ndarray, np.ndarray], float] | None = None
) -> float:
    """The distance of two sets, kind by kind, weighted by how often the second has each; NaN without a common kind."""
    own, other = pooled(mine), pooled(theirs)
    both = [kind for kind in other if kind in own and min(len(own[kind]), len(other[kind])) >= LEAST]
    if not both:
        return math.nan
    far = [(distance or _quantiles_apart)(own[kind], other[kind]) for kind in both]
    return float(np.average(far, weights=[len(other[kind]) for kind in both]))


def _quantiles_apart(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 by 200 quantiles."""
    return float(np.abs(np.quantile(a, _QUANTILES) - np.quantile(b, _QUANTILES)).mean())


def circular_w1(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 on the circle, degrees, of histograms of five degrees."""
    rows = [np.histogram(one, bins=_BINS, range=(-180, 180))[0] / max(len(one), 1) for one in (a, b)]
    flow = np.cumsum(rows[0] - rows[1])
    return float(np.abs(flow - np.median(flow)).sum() * 360 / _BINS)


Descriptions = Sequence[Description]


def _share(flag: str, own: Descriptions, other: object = ()) -> float:
    return sum(getattr(one, flag) for one in own) / len(own) if len(own) else math.nan


def _unique(own: Descriptions, other: object = ()) -> float:
    found = [one.smiles for one in own if one.good]
    return len(set(found)) / len(found) if found else math.nan


def _novel(own: Sequence[str], other: Collection[str]) -> float:
    known, found = frozenset(other), [smiles for smiles in own if smiles]
    return sum(smiles not in known for smiles in found) / len(found) if found else math.nan


def _right(own: Descriptions, other: object = ()) -> float:
    hands = [label for one in own for label in one.hands]
    return hands.count("R") / len(hands) if hands else math.nan


def _pools_apart(
    which: str, distance: Callable[[np.ndarray, np.ndarray], float] | None, own: Descriptions, other: Descriptions
) -> float:
    return apart(*([getattr(one, which) for one in rows] for rows in (own, other)), distance=distance)


def _rings_apart(own: Descriptions, other: Descriptions) -> float:
    """Half the sum of |differences| of rings a molecule, size by size, over the rings a molecule of the second."""
    mine, theirs = ([one for one in rows if one.good] for rows in (own, other))
    counts = [Counter(size for one in rows for size in one.rings) for rows in (mine, theirs)]
    sizes = {*counts[0], *counts[1]}
    rates = [(counts[0][size] / max(len(mine), 1), counts[1][size] / max(len(theirs), 1)) for size in sizes]
    total = sum(real for _, real in rates)
    return sum(abs(a - b) for a, b in rates) / (2 * total) if total and mine else math.nan


def _numbers_apart(number: Callable[[Description], float], own: Descriptions, other: Descriptions) -> float:
    a, b = (np.array([number(one) for one in rows if one.good], dtype=np.float64) for rows in (own, other))
    return wasserstein1(a, b) if len(a) and len(b) else math.nan


def _ring_count(one: Description) -> float:
    return float(len(one.rings))


def _flag(name: str, about: str) -> Measure:
    return Measure(
        name, partial(_share, name), descriptions, better="higher", against="nothing", within=(0.0, 1.0), counts=True,
        about=about,
    )  # fmt: skip


def _distance(
    name: str, compare: Callable[[Descriptions, Descriptions], float], unit: str, about: str, least: int = 1
) -> Measure:
    told = {"unit": unit, "better": "lower", "within": (0.0, math.inf), "about": about, "least": least}
    return Measure(name, compare, descriptions, **told)  # type: ignore[arg-type]


MEASURES: Mapping[str, Measure] = {
    own.name: own
    for own in (
        _flag("valid", "RDKit sanitises it; an atom that lacks a bond counts as a radical."),
        _flag("connected", "It is one piece."),
        _flag("good", "Valid, connected, every valence right; sees no geometry."),
        Measure(
            "unique", _unique, descriptions, better="higher", against="nothing", within=(0.0, 1.0),
            about="Different SMILES among good ones; falls with their number.",
        ),
        Measure(
            "novel", _novel, graphs, against="training", within=(0.0, 1.0),
            about="Good ones whose SMILES no training molecule has; novel is not better where training has them all.",
        ),
        _distance(
            "bond_lengths_w1", partial(_pools_apart, "lengths", None), "A",
            "By elements and order, of good ones. Sees no angle and no kind that is rare.", FEW,
        ),
        _distance(
            "bond_angles_w1", partial(_pools_apart, "angles", None), "deg",
            "By the three elements, of good ones. Sees no torsion.", FEW,
        ),
        _distance(
            "torsions_w1", partial(_pools_apart, "torsions", circular_w1), "deg",
            "On the circle, with signs, by four heavy elements and the middle order, of good ones.", FEW,
        ),
        _distance("rings_apart", _rings_apart, "", "Rings of each size a molecule, off by a share of the real ones."),
        _distance("ring_count_w1", partial(_numbers_apart, _ring_count), "rings", "Number of rings. Sees no size."),
        Measure(
            "right_handed", _right, descriptions, against="nothing", within=(0.0, 1.0), least=FEW,
            about="Of the centres that are R or S, the share R: 1 minus that of the mirror images.",
        ),
        _distance("logp_w1", partial(_numbers_apart, attrgetter("logp")), "", "Crippen's logP, from the graph alone."),
        _distance("qed_w1", partial(_numbers_apart, attrgetter("qed")), "", "Drug-likeness, from the graph alone."),
    )
}  # fmt: skip
"""The measures of a set of molecules, by name."""


@dataclass(frozen=True)
class Summary:
    """One table of a set of molecules, each of which is described once.

    Attributes:
        shares: valid, connected, both, good, and right (of labelled centres), each with Wilson's interval.
        unique: of good ones.
        novel: of good ones; NaN without SMILES of a training set.
        distances: "lengths" in angstrom, "angles" and "torsions" in degrees, "rings", "ring_count", "logp" and "qed",
            from the reference.
        rings: how many rings of each size a good molecule has.
    """

    shares: Mapping[str, Estimate]
    unique: float
    novel: float
    distances: Mapping[str, float]
    rings: Mapping[int, float] = field(default_factory=dict)


def summary(samples: Sequence[Molecule], reference: Sequence[Molecule] = (), training: Collection[str] = ()) -> Summary:
    """A set of molecules beside real ones.

    Args:
        samples: what was drawn, all that was asked for.
        reference: real molecules; only good ones of them are looked at.
        training: canonical SMILES without stereochemistry of the training set, for `novel`.
    """
    told, real = descriptions(samples), descriptions(reference)
    flags = {
        "valid": [one.valid for one in told],
        "connected": [one.connected for one in told],
        "both": [one.valid and one.connected for one in told],
        "good": [one.good for one in told],
        "right": [label == "R" for one in told for label in one.hands],
    }
    known = [one.smiles for one in told if one.good]
    names = {
        "lengths": "bond_lengths_w1", "angles": "bond_angles_w1", "torsions": "torsions_w1", "rings": "rings_apart",
        "ring_count": "ring_count_w1", "logp": "logp_w1", "qed": "qed_w1",
    }  # fmt: skip
    distances = {name: MEASURES[own].compare(told, real) for name, own in names.items()} if len(reference) else {}
    count = Counter(size for one in told for size in one.rings)
    return Summary(
        shares={name: share_of(own) for name, own in flags.items()},
        unique=_unique(told),
        novel=_novel(known, training) if training else math.nan,
        distances=distances,
        rings={size: count[size] / len(known) for size in sorted(count)},
    )


def share_of(flags: Sequence[bool]) -> Estimate:
    """A share with Wilson's interval."""
    if not len(flags):
        return Estimate(math.nan)
    value = sum(flags) / len(flags)
    return Estimate(value, *wilson(value, len(flags)), len(flags))
