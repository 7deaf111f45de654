"""What can be measured on backbones without any trained model.

Every function takes a list of `Structure` and pools over it; angles in degrees, lengths in angstrom. Steps, bonds and
torsions are never taken across a chain break, and go on around a closed chain. The signs matter: distances, P-SEA's
distance rule and hydrogen bonds cannot see a mirror image, while `handedness` and `negative_phi` flip with it.

Measures that start with `ca_` read CA atoms alone: extended chains that pair with nothing count as strands there, and
atoms other than CA may overlap freely. `hbond_` and `atom_` measures read N, CA, C and O. Samples of `Proteins` have
ideal residues, so that N-CA-C, N-CA and CA-C say nothing about the model; what lies between residues does.

Real chains: CA-CA 3.80 +- 0.02 (2.9 at a cis proline), C-N 1.33, CA-C-N 117, C-N-CA 122, phi < 0 for 0.9 and more,
right-handed 0.2 to 0.4 against left-handed 0.01 to 0.04, Rg / (2.2 N^0.38) near 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from gendiff.evaluation import Measure, wasserstein1
from gendiff.evaluation.measures import between, between_pools, each, mean, pooled, share_within

from . import bonding
from .bonding import closures, links, places_between
from .contacts import contact_order
from .frames import C_N, C_N_CA, CA_C_N, CA_CA, N_CA_C, dihedral
from .structure import Structure

Structures = Sequence[Structure]
Statistic = Callable[[np.ndarray], float]
SHARE = (0.0, 1.0)

CLASH = 3.6  # a CA-CA distance below this, more than two residues apart, is a clash
TWIST = 30.0  # degrees; a peptide farther than this from both cis and trans is twisted
ATOM_CLASH = 2.5  # two backbone atoms nearer than this, in residues that are no neighbours, clash


def _pool(values: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(values) if values else np.zeros(0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    u, v = a - b, c - b
    cos = (u * v).sum(-1) / np.maximum(np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1), 1e-12)
    return np.degrees(np.arccos(np.clip(cos, -1, 1)))


def _torsion(*points: np.ndarray) -> np.ndarray:
    a, b, c, d = (torch.from_numpy(np.ascontiguousarray(p, dtype=np.float64)) for p in points)
    return np.degrees(dihedral(a, b, c, d).numpy())


def steps(structures: Structures) -> np.ndarray:
    """All CA-CA distances along the chains."""
    pairs = [(s.ca, links(s).T) for s in structures]
    return _pool([np.linalg.norm(ca[j] - ca[i], axis=-1) for ca, (i, j) in pairs])


def bonds(structures: Structures) -> dict[str, np.ndarray]:
    """The geometry between residues: lengths "C-N", angles "CA-C-N" and "C-N-CA", torsions "omega"; "N-CA-C" within."""
    found: dict[str, list[np.ndarray]] = {"C-N": [], "CA-C-N": [], "C-N-CA": [], "omega": [], "N-CA-C": []}
    for s in structures:
        i, j = links(s).T
        found["N-CA-C"].append(_angle(*s.backbone[:, :3].swapaxes(0, 1)))
        (_, ca, c, _), (n1, ca1, _, _) = s.backbone[i].swapaxes(0, 1), s.backbone[j].swapaxes(0, 1)
        found["C-N"].append(np.linalg.norm(n1 - c, axis=-1))
        found["CA-C-N"].append(_angle(ca, c, n1))
        found["C-N-CA"].append(_angle(c, n1, ca1))
        found["omega"].append(_torsion(ca, c, n1, ca1))
    return {name: _pool(values) for name, values in found.items()}


def torsions(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """phi and psi of one structure, `[N]` each, NaN where the chain begins, ends or is broken."""
    n, ca, c, _ = structure.backbone.swapaxes(0, 1)
    phi, psi = np.full(len(structure), np.nan), np.full(len(structure), np.nan)
    i, j = links(structure).T
    phi[j] = _torsion(c[i], n[j], ca[j], c[j])
    psi[i] = _torsion(n[i], ca[i], c[i], n[j])
    return phi, psi


def ca_torsions(structure: Structure) -> np.ndarray:
    """CA dihedrals i-1, i, i+1, i+2 at residue i, `[N]`, NaN where one is missing: +50 in a right-handed helix."""
    angles = np.full(len(structure), np.nan)
    after = dict(links(structure).tolist())
    paths = [(a, b, c, after[c]) for a, b in after.items() if (c := after.get(b, -1)) in after]
    if paths:
        path = np.array(paths)
        angles[path[:, 1]] = _torsion(*structure.ca[path].swapaxes(0, 1))
    return angles


def clashing(structure: Structure) -> np.ndarray:
    """`[N]` bool: residues whose CA comes within 3.6 A of one more than two places away."""
    apart = np.linalg.norm(structure.ca[:, None] - structure.ca[None], axis=-1)
    i, j = np.indices(apart.shape)
    return ((apart < CLASH) & (places_between(structure, i, j) > 2)).any(1)


def atom_clashes(structure: Structure) -> int:
    """Pairs of backbone atoms (N, CA, C, O) nearer than 2.5 A whose residues are at least two places apart."""
    from scipy.spatial import KDTree

    pairs = KDTree(structure.backbone.reshape(-1, 3)).query_pairs(ATOM_CLASH, output_type="ndarray")
    return int((places_between(structure, *(pairs // 4).T) > 1).sum())


def omegas(structure: Structure) -> np.ndarray:
    """omega of the peptide bond before each residue, `[N]`, NaN where the chain begins or is broken."""
    omega = np.full(len(structure), np.nan)
    _, ca, c, _ = structure.backbone.swapaxes(0, 1)
    i, j = links(structure).T
    omega[j] = _torsion(ca[i], c[i], structure.backbone[j, 0], ca[j])
    return omega


def peptides(structure: Structure) -> dict[str, int]:
    """How many peptide bonds are trans and cis, omega within 30 degrees of 180 and 0, and how many are twisted."""
    omega = np.abs(omegas(structure))
    trans, cis = int((omega >= 180 - TWIST).sum()), int((omega <= TWIST).sum())
    return {"trans": trans, "cis": cis, "twisted": int(np.isfinite(omega).sum()) - trans - cis}


def secondary_structure(structure: Structure) -> str:
    """One letter a residue: H helix, E strand, C else. P-SEA's rules (Labesse et al. 1997) with signed dihedrals.

    Only CA atoms are read: hydrogen bonds are not seen, a long extended piece is a strand without a partner, and runs
    end where the numbering of a closed chain does. See
    `bonding.secondary_structure` for helices and strands by hydrogen bonds.

    Helix: CA dihedral 50 +- 20, or, for i+2..i+4 distances 5.5, 5.3, 6.4 (+-0.5, 0.5, 0.6) with a positive dihedral, in
    runs of five and more. Strand: CA dihedral -170 +- 45 with angle 124 +- 14, or distances 6.7, 9.9, 12.4
    (+-0.6, 0.9, 1.1), in runs of three and more. A left-handed helix is coil here, unlike in P-SEA.
    """
    ca, size = structure.ca, len(structure)
    tau = ca_torsions(structure)
    theta = np.full(size, np.nan)
    d = {k: np.full(size, np.nan) for k in (2, 3, 4)}
    for k, values in d.items():
        if size > k:
            values[1 : size - k + 1] = np.linalg.norm(ca[k:] - ca[:-k], axis=-1)
    if size > 2:
        theta[1:-1] = _angle(ca[:-2], ca[1:-1], ca[2:])
    with np.errstate(invalid="ignore"):
        turn = (np.abs(tau - 50) < 20) & (np.abs(theta - 89) < 12)
        near = (np.abs(d[3] - 5.3) < 0.5) & (np.abs(d[4] - 6.4) < 0.6) & (tau > 0)
        flat = (np.abs((tau + 170 + 180) % 360 - 180) < 45) & (np.abs(theta - 124) < 14)
        wide = (np.abs(d[2] - 6.7) < 0.6) & (np.abs(d[3] - 9.9) < 0.9) & (np.abs(d[4] - 12.4) < 1.1)
    helix, strand = runs(turn | near, 5), runs(flat | wide, 3)
    near_partner = _paired(ca, strand)
    letters = np.where(helix, "H", np.where(near_partner & ~helix, "E", "C"))
    return "".join(letters.tolist())


def runs(flags: np.ndarray, least: int) -> np.ndarray:
    """Keep only runs of True of at least this length."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    kept = np.zeros_like(flags)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        kept[start:stop] = stop - start >= least
    return kept


def _paired(ca: np.ndarray, strand: np.ndarray) -> np.ndarray:
    """Strands of three or four residues count only beside another strand, longer ones always."""
    apart = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
    place = np.arange(len(ca))
    beside = ((apart > 4.2) & (apart < 5.7) & (np.abs(place[:, None] - place) > 2) & strand[None]).any(1)
    long = runs(strand, 5)
    kept = np.zeros_like(strand)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], strand, [False]]).astype(int)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        kept[start:stop] = long[start] or beside[start:stop].any()
    return kept


def content(structures: Structures) -> tuple[float, float]:
    """Share of residues in helix and in strand, pooled."""
    letters = "".join(secondary_structure(s) for s in structures)
    return letters.count("H") / max(len(letters), 1), letters.count("E") / max(len(letters), 1)


def handedness(structures: Structures) -> tuple[float, float]:
    """Shares of CA dihedrals in [30, 70] (right-handed turns) and in [-70, -30] (left-handed ones)."""
    tau = _pool([ca_torsions(s) for s in structures])
    tau = tau[np.isfinite(tau)]
    return _mean((tau >= 30) & (tau <= 70)), _mean((tau >= -70) & (tau <= -30))


def radii(structures: Structures) -> np.ndarray:
    """Radius of gyration over that of a globular chain, Rg / (2.2 N^0.38), one per structure."""
    return np.array([radius(s) / (2.2 * len(s) ** 0.38) for s in structures])


def radius(structure: Structure) -> float:
    """Radius of gyration of the CA atoms."""
    return float(np.sqrt(((structure.ca - structure.ca.mean(0)) ** 2).sum(-1).mean()))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two histograms, in bits: 0 the same, 1 disjoint."""
    p, q = p / max(p.sum(), 1e-12), q / max(q.sum(), 1e-12)
    m = (p + q) / 2

    def against(a: np.ndarray) -> float:
        seen = a > 0
        return float((a[seen] * np.log2(a[seen] / m[seen])).sum())

    return (against(p) + against(q)) / 2


def ramachandran(structures: Structures, bins: int = 18) -> np.ndarray:
    """Histogram of (phi, psi), `[bins, bins]`."""
    pairs = [np.stack(torsions(s), -1) for s in structures]
    pairs = np.concatenate(pairs) if pairs else np.zeros((0, 2))
    pairs = pairs[np.isfinite(pairs).all(-1)]
    return np.histogram2d(pairs[:, 0], pairs[:, 1], bins=bins, range=[[-180, 180]] * 2)[0]


def steps_of(structure: Structure) -> np.ndarray:
    """The CA-CA distances along a chain."""
    return steps([structure])


def bonds_of(structure: Structure) -> dict[str, np.ndarray]:
    """`bonds` of one structure."""
    return bonds([structure])


def turns_of(structure: Structure) -> np.ndarray:
    """The CA dihedrals of one structure that are not missing."""
    tau = ca_torsions(structure)
    return tau[np.isfinite(tau)]


def phis_of(structure: Structure) -> np.ndarray:
    """The phi of one structure that are not missing."""
    phi = torsions(structure)[0]
    return phi[np.isfinite(phi)]


def ramachandran_of(structure: Structure) -> np.ndarray:
    """`ramachandran` of one structure."""
    return ramachandran([structure])


def breaks_of(structure: Structure) -> tuple[int, int]:
    """Breaks within chains, closures that are no bonds among them, and residues."""
    unclosed = len(structure.cyclic) - len(closures(structure))
    return sum(structure.chains[b] == structure.chains[b + 1] for b in structure.breaks) + unclosed, len(structure)


def clashes_of(structure: Structure) -> tuple[int, int]:
    """`atom_clashes`, and residues."""
    return atom_clashes(structure), len(structure)


def by_ca(structure: Structure) -> dict[str, int]:
    """How many residues of each letter, by CA alone."""
    return Counter(secondary_structure(structure))


def by_bonds(structure: Structure) -> dict[str, int]:
    """How many residues of each letter, by hydrogen bonds."""
    return Counter(bonding.secondary_structure(structure))


def ratio_of(structure: Structure) -> float:
    """Radius of gyration over that of a globular chain."""
    return float(radii([structure])[0])


def _pooled_bonds(kind: str, statistic: Statistic, own: Sequence[dict[str, np.ndarray]], other: object = ()) -> float:
    return statistic(_pool([one[kind] for one in own]))


def _share_of_letter(letter: str, own: Sequence[dict[str, int]], other: object = ()) -> float:
    return sum(one.get(letter, 0) for one in own) / max(sum(sum(one.values()) for one in own), 1)


def _biased(own: Sequence[dict[str, np.ndarray]], other: object = ()) -> float:
    means = (_pooled_bonds(name, _mean, own) - ideal for name, ideal in (("CA-C-N", CA_C_N), ("C-N-CA", C_N_CA)))
    return max(abs(one) for one in means)


def _summed_divergence(own: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return divergence(np.sum(own, axis=0), np.sum(other, axis=0))


def _circular_w1(a: np.ndarray, b: np.ndarray) -> float:
    histograms = []
    for tau in (a, b):
        histogram = np.histogram(tau, bins=72, range=(-180, 180))[0]
        histograms.append(histogram / max(histogram.sum(), 1))
    flow = np.cumsum(histograms[0] - histograms[1])
    return float(np.abs(flow - np.median(flow)).sum() * 5.0)


def _near(ideal: float, values: np.ndarray) -> float:
    return _mean(np.abs(values - ideal) < 0.1)


def _off(ideal: float, values: np.ndarray) -> float:
    return _mean(np.abs(values - ideal))


def _rms_off(ideal: float, values: np.ndarray) -> float:
    return math.sqrt(_mean((values - ideal) ** 2))


def _unplanar(omega: np.ndarray) -> float:
    omega = np.abs(omega)
    return math.sqrt(_mean(np.minimum(omega, 180 - omega) ** 2))


def _within(low: float, high: float, values: np.ndarray) -> float:
    return _mean((values >= low) & (values <= high))


def _negative(values: np.ndarray) -> float:
    return _mean(values < 0)


def _twisted(omega: np.ndarray) -> float:
    omega = np.abs(omega)
    return _mean((omega > TWIST) & (omega < 180 - TWIST))


def _cis(omega: np.ndarray) -> float:
    return _mean(np.abs(omega) < 90)


def angle_deviations(samples: Structures) -> dict[str, tuple[float, float]]:
    """Mean minus ideal, and standard deviation, in degrees, of the angles "CA-C-N", "C-N-CA" and "N-CA-C"."""
    found = bonds(samples)
    ideal = {"CA-C-N": CA_C_N, "C-N-CA": C_N_CA, "N-CA-C": N_CA_C}
    return {name: (_mean(found[name]) - value, _sd(found[name])) for name, value in ideal.items()}


def _sd(values: np.ndarray) -> float:
    return float(values.std()) if len(values) else math.nan


def _bonded(name: str, kind: str, statistic: Statistic, **told: Any) -> Measure:
    told = {"against": "nothing", "within": (0.0, np.inf), **told}
    return Measure(name, partial(_pooled_bonds, kind, statistic), partial(each, bonds_of), **told)


def _lettered(name: str, letter: str, describe: Callable[[Structure], Any], about: str) -> Measure:
    return Measure(
        name, partial(_share_of_letter, letter), partial(each, describe), against="nothing", within=SHARE, about=about
    )


step_share = pooled(
    "ca_step_share", steps_of, partial(_near, CA_CA), better="higher",
    within=SHARE,
    about="Share of CA-CA steps within 0.1 A of 3.8. Sees no other bond, and counts a cis proline as wrong.",
)  # fmt: skip
step_deviation = pooled(
    "ca_step_deviation", steps_of, partial(_off, CA_CA), unit="A", better="lower",
    about="Mean |CA-CA - 3.8|. Sees no other bond.",
)  # fmt: skip
bond_deviation = _bonded(
    "cn_bond_deviation", "C-N", partial(_rms_off, C_N), unit="A", better="lower",
    about="Root mean square of C-N - 1.329. Sees no angle, and nothing across a break (C-N > 2 A).",
)  # fmt: skip
bond_share = _bonded(
    "cn_bond_share", "C-N", partial(_near, C_N), better="higher",
    within=SHARE,
    about="Share of peptide bonds C-N within 0.1 A of 1.329. A broken chain (C-N > 2 A) has none there to count.",
)  # fmt: skip
chain_breaks = share_within(
    "chain_breaks", breaks_of, better="lower", within=(0, np.inf),
    about="Breaks a residue within chains, C-N > 2 A or CA-CA > 4.2 A: other measures do not see across them.",
)  # fmt: skip
carbonyl_angle_sd = _bonded(
    "ca_c_n_angle_sd", "CA-C-N", _sd, unit="deg",
    about="Standard deviation of the angle CA-C-N; 1 to 2 in crystals. Sees neither bond lengths nor a bias.",
)  # fmt: skip
amide_angle_sd = _bonded(
    "c_n_ca_angle_sd", "C-N-CA", _sd, unit="deg",
    about="Standard deviation of the angle C-N-CA; 1 to 2 in crystals. Sees neither bond lengths nor a bias.",
)  # fmt: skip
residue_angle_sd = _bonded(
    "n_ca_c_angle_sd", "N-CA-C", _sd, unit="deg",
    about="Standard deviation of the angle N-CA-C. 0 for every sample of frames, whose residues are ideal.",
)  # fmt: skip
angle_bias = Measure(
    "angle_bias", _biased, partial(each, bonds_of), unit="deg", better="lower", against="nothing",
    about="Largest |mean - ideal| of the angles CA-C-N and C-N-CA. Sees no spread.",
)  # fmt: skip
omega_deviation = _bonded(
    "omega_deviation", "omega", _unplanar, unit="deg",
    about="Root mean square of omega from the nearer of 0 and 180 degrees. `cis_share` tells cis from trans.",
)  # fmt: skip
cis_share = _bonded(
    "cis_share", "omega", _cis,
    within=SHARE,
    about="Share of peptides with |omega| < 90 degrees; 0.003 to 0.005 of real ones, most before proline.",
)  # fmt: skip
twisted_share = _bonded(
    "twisted_share", "omega", _twisted, better="lower",
    within=SHARE,
    about="Share of peptides with omega more than 30 degrees from both cis and trans. Real ones: below 0.001.",
)  # fmt: skip
clash_share = pooled(
    "ca_clash_share", clashing, _mean, better="lower",
    within=SHARE,
    about="Share of residues whose CA is within 3.6 A of one more than two places away. Sees no atom but CA.",
)  # fmt: skip
atom_clash_rate = share_within(
    "atom_clash_rate", clashes_of, better="lower", within=(0, np.inf),
    about="Pairs of N, CA, C, O nearer than 2.5 A, in residues two or more apart, a residue. Sees no side chain.",
)  # fmt: skip
right_handed = pooled(
    "right_handed", turns_of, partial(_within, 30, 70),
    within=SHARE,
    about="Share of right-handed CA turns. A share of helix: chains without helices have few.",
)  # fmt: skip
left_handed = pooled(
    "left_handed", turns_of, partial(_within, -70, -30),
    within=SHARE,
    about="Share of left-handed CA turns: a mirror image swaps it with `right_handed`.",
)  # fmt: skip
negative_phi = pooled(
    "negative_phi", phis_of, _negative,
    within=SHARE,
    about="Share of residues with phi < 0: flips in the mirror. Glycines make it less than 1 in real chains.",
)  # fmt: skip
hbond_helix = _lettered(
    "hbond_helix", "H", by_bonds,
    "Share of residues in alpha helices by hydrogen bonds (H of Kabsch and Sander). Blind to handedness.",
)  # fmt: skip
hbond_strand = _lettered(
    "hbond_strand", "E", by_bonds,
    "Share of residues in ladders of hydrogen bonds (E of Kabsch and Sander). Blind to handedness and to twist.",
)  # fmt: skip
helix = _lettered(
    "ca_helix", "H", by_ca,
    "Share of residues in helices by CA alone (P-SEA). Sees no hydrogen bond; `hbond_helix` does.",
)  # fmt: skip
strand = _lettered(
    "ca_strand", "E", by_ca,
    "Share of residues in strands by CA alone (P-SEA). Extended chains without a partner count; see `hbond_strand`.",
)  # fmt: skip
radius_ratio = mean("rg_ratio", ratio_of, about="Mean of Rg / (2.2 N^0.38). Sees size alone, no packing.")
contact_orders = mean(
    "backbone_contact_order", contact_order,
    within=SHARE,
    about="Mean relative contact order (Plaxco et al. 1998) of N, CA, C and O alone, within 6 A. Sees no energy.",
)  # fmt: skip
ramachandran_divergence = Measure(
    "ramachandran_jsd", _summed_divergence, partial(each, ramachandran_of), unit="bit", better="lower",
    about="Jensen-Shannon divergence of (phi, psi) to the reference. Sees no order along the chain.",
)  # fmt: skip
radius_distance = between(
    "rg_w1",
    partial(each, ratio_of),
    wasserstein1,
    least=1,
    about="Wasserstein-1 distance of Rg ratios to the reference.",
)
turn_distance = between_pools(
    "ca_dihedral_w1", turns_of, _circular_w1, unit="deg",
    about="Wasserstein-1 distance of CA dihedrals to the reference, on the circle.",
)  # fmt: skip

MEASURES = (
    step_share, step_deviation, bond_deviation, bond_share, carbonyl_angle_sd, amide_angle_sd, residue_angle_sd,
    angle_bias, omega_deviation, cis_share, twisted_share, chain_breaks, clash_share, atom_clash_rate, right_handed,
    left_handed, negative_phi, hbond_helix, hbond_strand, helix, strand, radius_ratio, contact_orders,
    ramachandran_divergence, radius_distance, turn_distance,
)  # fmt: skip
