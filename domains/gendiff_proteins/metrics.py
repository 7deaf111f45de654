"""What can be measured on backbones without any trained model.

Every function takes a list of `Structure` and pools over it; angles in degrees, lengths in angstrom. Steps, bonds and
torsions are never taken across a chain break. The signs matter: distances, P-SEA's distance rule and hydrogen bonds
cannot see a mirror image, while `handedness` and `negative_phi` flip with it.

Measures that start with `ca_` read CA atoms alone: extended chains that pair with nothing count as strands there, and
atoms other than CA may overlap freely. `hbond_` and `atom_` measures read N, CA, C and O. Samples of `Proteins` have
ideal residues, so that N-CA-C, N-CA and CA-C say nothing about the model; what lies between residues does.

Real chains: CA-CA 3.80 +- 0.02 (2.9 at a cis proline), C-N 1.33, CA-C-N 117, C-N-CA 122, phi < 0 for 0.9 and more,
right-handed 0.2 to 0.4 against left-handed 0.01 to 0.04, Rg / (2.2 N^0.38) near 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from . import bonding
from .bonding import joined as _joined
from .frames import C_N, C_N_CA, CA_C_N, CA_CA, N_CA_C, dihedral
from .structure import Structure

Structures = Sequence[Structure]

CLASH = 3.6  # a CA-CA distance below this, more than two residues apart, is a clash
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
    return _pool([np.linalg.norm(np.diff(s.ca, axis=0), axis=-1)[_joined(s)] for s in structures])


def bonds(structures: Structures) -> dict[str, np.ndarray]:
    """The geometry between residues: lengths "C-N", angles "CA-C-N" and "C-N-CA", torsions "omega"; "N-CA-C" within."""
    found: dict[str, list[np.ndarray]] = {"C-N": [], "CA-C-N": [], "C-N-CA": [], "omega": [], "N-CA-C": []}
    for s in structures:
        j = _joined(s)
        found["N-CA-C"].append(_angle(*s.backbone[:, :3].swapaxes(0, 1)))
        (_, ca, c, _), (n1, ca1, _, _) = s.backbone[:-1][j].swapaxes(0, 1), s.backbone[1:][j].swapaxes(0, 1)
        found["C-N"].append(np.linalg.norm(n1 - c, axis=-1))
        found["CA-C-N"].append(_angle(ca, c, n1))
        found["C-N-CA"].append(_angle(c, n1, ca1))
        found["omega"].append(_torsion(ca, c, n1, ca1))
    return {name: _pool(values) for name, values in found.items()}


def torsions(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """phi and psi of one structure, `[N]` each, NaN where the chain begins, ends or is broken."""
    n, ca, c, _ = structure.backbone.swapaxes(0, 1)
    phi, psi = np.full(len(structure), np.nan), np.full(len(structure), np.nan)
    if len(structure) > 1:
        joined = _joined(structure)
        phi[1:] = np.where(joined, _torsion(c[:-1], n[1:], ca[1:], c[1:]), np.nan)
        psi[:-1] = np.where(joined, _torsion(n[:-1], ca[:-1], c[:-1], n[1:]), np.nan)
    return phi, psi


def ca_torsions(structure: Structure) -> np.ndarray:
    """CA dihedrals i-1, i, i+1, i+2 at residue i, `[N]`, NaN where one is missing: +50 in a right-handed helix."""
    angles = np.full(len(structure), np.nan)
    if len(structure) > 3:
        ca, joined = structure.ca, _joined(structure)
        whole = joined[:-2] & joined[1:-1] & joined[2:]
        angles[1:-2] = np.where(whole, _torsion(ca[:-3], ca[1:-2], ca[2:-1], ca[3:]), np.nan)
    return angles


def clashing(structure: Structure) -> np.ndarray:
    """`[N]` bool: residues whose CA comes within 3.6 A of one more than two places away."""
    apart = np.linalg.norm(structure.ca[:, None] - structure.ca[None], axis=-1)
    place = np.arange(len(structure))
    return ((apart < CLASH) & (np.abs(place[:, None] - place[None]) > 2)).any(1)


def atom_clashes(structure: Structure) -> int:
    """Pairs of backbone atoms (N, CA, C, O) nearer than 2.5 A whose residues are at least two places apart."""
    from scipy.spatial import KDTree

    pairs = KDTree(structure.backbone.reshape(-1, 3)).query_pairs(ATOM_CLASH, output_type="ndarray")
    return int((np.abs(pairs[:, 0] // 4 - pairs[:, 1] // 4) > 1).sum())


def secondary_structure(structure: Structure) -> str:
    """One letter a residue: H helix, E strand, C else. P-SEA's rules (Labesse et al. 1997) with signed dihedrals.

    Only CA atoms are read: hydrogen bonds are not seen, and a long extended piece is a strand without a partner. See
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


def step_share(samples: Structures, reference: Structures = ()) -> float:
    """Share of CA-CA steps within 0.1 A of 3.8. Sees no other bond, and counts a cis proline as wrong."""
    return _mean(np.abs(steps(samples) - CA_CA) < 0.1)


def step_deviation(samples: Structures, reference: Structures = ()) -> float:
    """Mean |CA-CA - 3.8|, angstrom. Sees no other bond."""
    return _mean(np.abs(steps(samples) - CA_CA))


def bond_deviation(samples: Structures, reference: Structures = ()) -> float:
    """Root mean square of C-N - 1.329, angstrom. Sees no angle, and nothing across a break (C-N > 2 A)."""
    return math.sqrt(_mean((bonds(samples)["C-N"] - C_N) ** 2))


def bond_share(samples: Structures, reference: Structures = ()) -> float:
    """Share of peptide bonds C-N within 0.1 A of 1.329. A chain that is broken (C-N > 2 A) has none there to count."""
    return _mean(np.abs(bonds(samples)["C-N"] - C_N) < 0.1)


def chain_breaks(samples: Structures, reference: Structures = ()) -> float:
    """Breaks a residue within chains, C-N > 2 A or CA-CA > 4.2 A: other measures do not see across them."""
    found = [sum(s.chains[b] == s.chains[b + 1] for b in s.breaks) for s in samples]
    return sum(found) / max(sum(map(len, samples)), 1)


def angle_deviations(samples: Structures) -> dict[str, tuple[float, float]]:
    """Mean minus ideal, and standard deviation, in degrees, of the angles "CA-C-N", "C-N-CA" and "N-CA-C"."""
    found = bonds(samples)
    ideal = {"CA-C-N": CA_C_N, "C-N-CA": C_N_CA, "N-CA-C": N_CA_C}
    return {name: (_mean(found[name]) - value, _sd(found[name])) for name, value in ideal.items()}


def _sd(values: np.ndarray) -> float:
    return float(values.std()) if len(values) else math.nan


def carbonyl_angle_sd(samples: Structures, reference: Structures = ()) -> float:
    """Standard deviation of the angle CA-C-N, degrees; 1 to 2 in crystals. Sees neither bond lengths nor a bias."""
    return angle_deviations(samples)["CA-C-N"][1]


def amide_angle_sd(samples: Structures, reference: Structures = ()) -> float:
    """Standard deviation of the angle C-N-CA, degrees; 1 to 2 in crystals. Sees neither bond lengths nor a bias."""
    return angle_deviations(samples)["C-N-CA"][1]


def residue_angle_sd(samples: Structures, reference: Structures = ()) -> float:
    """Standard deviation of the angle N-CA-C, degrees. 0 for every sample of frames, whose residues are ideal."""
    return angle_deviations(samples)["N-CA-C"][1]


def angle_bias(samples: Structures, reference: Structures = ()) -> float:
    """Largest |mean - ideal| of the angles CA-C-N and C-N-CA, degrees. Sees no spread."""
    found = angle_deviations(samples)
    return max(abs(found[name][0]) for name in ("CA-C-N", "C-N-CA"))


def omega_deviation(samples: Structures, reference: Structures = ()) -> float:
    """Root mean square of omega from the nearer of 0 and 180 degrees: how far peptides are from planar.

    Does not see whether a peptide is cis or trans: `cis_share` does.
    """
    omega = np.abs(bonds(samples)["omega"])
    return math.sqrt(_mean(np.minimum(omega, 180 - omega) ** 2))


def cis_share(samples: Structures, reference: Structures = ()) -> float:
    """Share of peptides with |omega| < 90 degrees; 0.003 to 0.005 of real ones, most before proline."""
    return _mean(np.abs(bonds(samples)["omega"]) < 90)


def clash_share(samples: Structures, reference: Structures = ()) -> float:
    """Share of residues whose CA is within 3.6 A of one more than two places away. Sees no atom but CA."""
    return _mean(_pool([clashing(s) for s in samples]))


def atom_clash_rate(samples: Structures, reference: Structures = ()) -> float:
    """Pairs of N, CA, C, O nearer than 2.5 A, in residues two or more places apart, a residue.

    Sees no side chain, no hydrogen, and no clash between neighbours.
    """
    return sum(atom_clashes(s) for s in samples) / max(sum(map(len, samples)), 1)


def negative_phi(samples: Structures, reference: Structures = ()) -> float:
    """Share of residues with phi < 0: flips in the mirror. Glycines make it less than 1 in real chains."""
    phi = _pool([torsions(s)[0] for s in samples])
    return _mean(phi[np.isfinite(phi)] < 0)


def right_handed(samples: Structures, reference: Structures = ()) -> float:
    """Share of right-handed CA turns. A share of helix: chains without helices have few."""
    return handedness(samples)[0]


def left_handed(samples: Structures, reference: Structures = ()) -> float:
    """Share of left-handed CA turns: a mirror image swaps it with `right_handed`."""
    return handedness(samples)[1]


def helix(samples: Structures, reference: Structures = ()) -> float:
    """Share of residues in helices by CA alone (P-SEA). Sees no hydrogen bond; `hbond_helix` does."""
    return content(samples)[0]


def strand(samples: Structures, reference: Structures = ()) -> float:
    """Share of residues in strands by CA alone (P-SEA). Extended chains without a partner count; see `hbond_strand`."""
    return content(samples)[1]


def bonded_content(structures: Structures) -> tuple[float, float]:
    """Share of residues in helices (H) and strands (E) by hydrogen bonds, pooled."""
    letters = "".join(bonding.secondary_structure(s) for s in structures)
    return letters.count("H") / max(len(letters), 1), letters.count("E") / max(len(letters), 1)


def hbond_helix(samples: Structures, reference: Structures = ()) -> float:
    """Share of residues in alpha helices by hydrogen bonds (H of Kabsch and Sander). Blind to handedness."""
    return bonded_content(samples)[0]


def hbond_strand(samples: Structures, reference: Structures = ()) -> float:
    """Share of residues in ladders of hydrogen bonds (E of Kabsch and Sander). Blind to handedness and to twist."""
    return bonded_content(samples)[1]


def radius_ratio(samples: Structures, reference: Structures = ()) -> float:
    """Mean of Rg / (2.2 N^0.38). Sees size alone, no packing."""
    return _mean(radii(samples))


def ramachandran_divergence(samples: Structures, reference: Structures) -> float:
    """Jensen-Shannon divergence of (phi, psi) to the reference, bits. Sees no order along the chain."""
    return divergence(ramachandran(samples), ramachandran(reference))


def radius_distance(samples: Structures, reference: Structures) -> float:
    """Wasserstein-1 distance of Rg ratios to the reference."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(radii(samples), radii(reference)))


def turn_distance(samples: Structures, reference: Structures) -> float:
    """Wasserstein-1 distance of CA dihedrals to the reference, degrees on the circle."""
    histograms = []
    for group in (samples, reference):
        tau = _pool([ca_torsions(s) for s in group])
        histogram = np.histogram(tau[np.isfinite(tau)], bins=72, range=(-180, 180))[0]
        histograms.append(histogram / max(histogram.sum(), 1))
    flow = np.cumsum(histograms[0] - histograms[1])
    return float(np.abs(flow - np.median(flow)).sum() * 5.0)


METRICS: dict[str, Callable[[Structures, Structures], float]] = {
    "ca_step_share": step_share,
    "ca_step_deviation": step_deviation,
    "cn_bond_deviation": bond_deviation,
    "cn_bond_share": bond_share,
    "ca_c_n_angle_sd": carbonyl_angle_sd,
    "c_n_ca_angle_sd": amide_angle_sd,
    "n_ca_c_angle_sd": residue_angle_sd,
    "angle_bias": angle_bias,
    "omega_deviation": omega_deviation,
    "cis_share": cis_share,
    "chain_breaks": chain_breaks,
    "ca_clash_share": clash_share,
    "atom_clash_rate": atom_clash_rate,
    "right_handed": right_handed,
    "left_handed": left_handed,
    "negative_phi": negative_phi,
    "hbond_helix": hbond_helix,
    "hbond_strand": hbond_strand,
    "ca_helix": helix,
    "ca_strand": strand,
    "rg_ratio": radius_ratio,
    "ramachandran_jsd": ramachandran_divergence,
    "rg_w1": radius_distance,
    "ca_dihedral_w1": turn_distance,
}
